"""Text as spreadsheets, databases and vendors write it."""

from pathlib import Path

import pytest

from mlff_core.library import open_library
from mlff_core.library.delimited import parse_rows


def read(path: Path, content: str | bytes, **columns: str) -> list[tuple[str | None, str | None]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(r.input_id, r.smiles) for r in open_library(path, **columns).records()]


CHEMBL_WEB = (
    '"ChEMBL ID";"Name";"Synonyms";"Molecular Weight";"Smiles"\n'
    '"CHEMBL1";"";"A|B";"454.52";"C[C@H](N)O"\n'
    '"CHEMBL2";"PRAZOSIN";"x ""y"" z";"383.41";"CCN"\n'
    '"CHEMBL3";"";"two\nlines";"12.0";"CCO"\n'
)
EXTENDED = "smiles,id,mw\nC[C@H](O)[C@@H](C)N |&1:1,3|,Z1,89.1\nC |^1:0|,Z2,46\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", CHEMBL_WEB, [("CHEMBL1", "C[C@H](N)O"), ("CHEMBL2", "CCN"), ("CHEMBL3", "CCO")]),
        ("a.csv", "sep=\t\r\nSMILES\tID\r\nCC\ta\r\n", [("a", "CC")]),
        ("a.csv", '"sep=;"\n"SMILES";"ID"\n"CC";"a;b"\n', [("a;b", "CC")]),
        ("a.csv", "\ufeffsep=;\nSMILES;ID\nCC;a\n", [("a", "CC")]),
        ("a.csv", "SMILES,ID\nCC,a\n".encode("utf-16"), [("a", "CC")]),
        ("a.csv", "SMILES\tID\r\nCC\té\r\n".encode("utf-16"), [("é", "CC")]),
        ("a.smi", "CC a\nCCC b\n".encode("utf-16"), [("a", "CC"), ("b", "CCC")]),
        ("a.smi", "\ufeffsmiles\tid\tmw\r\nCC\ta b\t1\r\n", [("a b", "CC")]),
        ("a.smi", '"smiles"\t"id"\t"mw"\nCC\ta\t1\n', [("a", "CC")]),
        ("a.smi", "id\tsmiles\na\tCC\nb\tCCC\n", [("a", "CC"), ("b", "CCC")]),
        ("a.smi", "id smiles\na CC\nb CCC\n", [("a", "CC"), ("b", "CCC")]),
        ("a.smi", "smiles id mw\nCC a 1\nCCC b 2\n", [("a", "CC"), ("b", "CCC")]),
        ("a.smi", "smiles name of it\nCC a\nCCC b c\n", [("a", "CC"), ("b c", "CCC")]),
        ("a.smi", "CC\tm_1\t46.1\nCCC\tm_2\t45.1\n", [("m_1", "CC"), ("m_2", "CCC")]),
        ("a.smi", "1\tCC\n2\tC[C@H](F)Cl\n", [("1", "CC"), ("2", "C[C@H](F)Cl")]),
        ("a.smi", "Z1 CC |^1:0| more\nZ2 CN\n", [("Z1", "CC |^1:0|"), ("Z2", "CN")]),
        ("a.smi", "CC |$a;b$,(1,2,)| my id\n", [("my id", "CC |$a;b$,(1,2,)|")]),
        ("a.smi", "CC |^1:0|\nCC |half\n", [(None, "CC |^1:0|"), ("|half", "CC")]),
        ("a.csv", EXTENDED, [("Z1", "C[C@H](O)[C@@H](C)N |&1:1,3|"), ("Z2", "C |^1:0|")]),
        ("a.csv", "id;smiles\n1;CC |o1:1;2|\n", [("1", "CC |o1:1;2|")]),
        ("a.txt", "CC ethane\nCCC propane\n", [("ethane", "CC"), ("propane", "CCC")]),
        ("a.txt", "chembl_id\tcanonical_smiles\nCHEMBL1\tCC\n", [("CHEMBL1", "CC")]),
        ("a.txt", "sep=,\nname,smiles\na,CC\n", [("a", "CC")]),
        ("a.csv", "CC,ethane\nC[C@H](F)Cl,x\n", [("ethane", "CC"), ("x", "C[C@H](F)Cl")]),
        ("a.csv", "ethane;CC\nx;C[C@H](F)Cl\n", [("ethane", "CC"), ("x", "C[C@H](F)Cl")]),
        ("a.csv", "CC\nCCC\n", [(None, "CC"), (None, "CCC")]),
        ("a.smi", '"CC"\t"ethane 1"\nCCC 5"-x\n', [("ethane 1", "CC"), ('5"-x', "CCC")]),
        ("a.smiles", "CC a\n", [("a", "CC")]),
        ("a.cxsmiles", "smiles\tid\nCC |^1:0|\ta\n", [("a", "CC |^1:0|")]),
    ],
)  # fmt: skip
def test_what_the_file_means(tmp_path, name, content, expected):
    assert read(tmp_path / name, content) == expected


def test_swapped_columns_are_told(tmp_path):
    (tmp_path / "a.smi").write_text("1\tCC\n2\tCCC\n")
    (note,) = open_library(tmp_path / "a.smi").notes
    assert note.startswith("the columns look swapped: the second word of a line is taken for the")
    # Where it is not plain, the file is read as it is named, and that is told as well.
    (tmp_path / "b.smi").write_text("1\tCC\n2\tCCC\nCO\tN\nCN\tx\n3\tC\n")
    library = open_library(tmp_path / "b.smi")
    assert "the first word of a line is taken for the SMILES" in library.notes[0]
    assert next(library.records()).smiles == "1"


def test_a_row_of_other_length_than_the_header_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("id,smiles\na,CC\nb,CC,extra\nc\nd,CC,\n\n")
    notes = [r.note for r in open_library(tmp_path / "a.csv").records()]
    long, short = "the row has 3 fields, the header 2", "the row has 1 field, the header 2"
    assert notes == [None, long, short, None, None]


def test_a_quoted_field_may_lie_across_two_blocks_of_text(tmp_path):
    # Blocks end where they happen to end: here each record is longer than the line before it.
    filler = "x" * 999
    rows = [f'"{filler}\n{i}",CC' for i in range(2000)]
    found = read(tmp_path / "a.csv", "name,smiles\n" + "\n".join(rows) + "\n")
    assert found == [(f"{filler}\n{i}", "CC") for i in range(2000)]


def test_rows_without_quotes_and_with_them_are_parsed_alike():
    plain = ["a,CC,1", ",,", "b,C C,", ""]
    quoted = [*plain, '"c",CC,2']
    assert parse_rows(quoted, ",", final=True)[0] == [
        *(line.split(",") for line in plain),
        ["c", "CC", "2"],
    ]


@pytest.mark.parametrize(
    ("header", "rows", "smiles", "ids"),
    [
        # PubChem's names, old and new.
        ("CID,ConnectivitySMILES,SMILES", ["1,CC(F)Cl,C[C@H](F)Cl"], "SMILES", "CID"),
        ("CID,CanonicalSMILES,IsomericSMILES", ["1,CC,CC", "2,CO,CO"], "IsomericSMILES", "CID"),
        ("id,smiles,smiles_stereo", ["1,CC(F)Cl,C[C@H](F)Cl"], "smiles_stereo", "id"),
        ("id,smiles,chiral_smiles", ["1,C[C@H](F)Cl,CC"], "smiles", "id"),
        # What is in the columns counts more than their names.
        ("isomeric_smiles,smiles,id", ["CC(F)Cl,C[C@H](F)Cl,1"], "smiles", "id"),
        ("isomeric_smiles,smiles,id", [",C[C@H](F)Cl,1", ",C,2", "C[C@H](F)O,C,3"], "smiles", "id"),
        # A mostly empty name, a name that comes twice, a name as good as any.
        ("name,chembl_id,smiles", [",C1,CC", ",C2,CO", "x,C3,CN"], "smiles", "chembl_id"),
        ("name,chembl_id,smiles", ["x,C1,CC", "x,C2,CO"], "smiles", "chembl_id"),
        ("name,chembl_id,smiles", ["x,C1,CC", "y,C2,CO"], "smiles", "name"),
        ("name,mw,smiles", [",1,CC", ",2,CO"], "smiles", "name"),
        ("mw,vendor_number,smiles", ["1,v1,CC", "1,v2,CO"], "smiles", "vendor_number"),
        ("mw,vendor_number,smiles", ["1,v1,CC", "1,v1,CO"], "smiles", None),
    ],
)  # fmt: skip
def test_columns_are_chosen_by_what_is_in_them(tmp_path, header, rows, smiles, ids):
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    library = open_library(tmp_path / "a.csv")
    assert (library.smiles_column, library.id_column) == (smiles, ids)
    assert any(repr(smiles) in note for note in library.notes)
    assert any("for the id" in note for note in library.notes)


def test_ids_that_come_twice_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("id,smiles\na,CC\na,CO\nb,CN\n")
    library = open_library(tmp_path / "a.csv")
    assert "column 'id' is taken for the id; 1 of its first 3 values stand in a record before" in (
        library.notes
    )
