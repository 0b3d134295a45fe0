"""Libraries: what each format's file says is what comes out, and nothing on the way is lost."""

import csv
import gzip
import hashlib
import io
import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.registry import known_implementations
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

from mlff_core.errors import LibraryError
from mlff_core.library import open_library

MOLECULES = [("ethanol", "CCO"), ("glycine", "[NH3+]CC(=O)[O-]"), ("benzene", "c1ccccc1")]


def write(path: Path, content: str | bytes) -> str:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def contents(location: str | Path, **columns: str) -> list[tuple[str | None, str]]:
    """Return (id, SMILES) of all records, having checked that they are counted from 0."""
    records = list(open_library(location, **columns).records())
    assert [r.record for r in records] == list(range(len(records)))
    return [(r.input_id, r.smiles) for r in records]


def sdf_of(molecules: list[tuple[str, str]]) -> str:
    out = io.StringIO()
    writer = Chem.SDWriter(out)
    for name, smiles in molecules:
        mol = Chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", name)
        mol.SetProp("SMILES", smiles)
        mol.SetProp("code", name.upper())
        writer.write(mol)
    writer.close()
    return out.getvalue()


def library_bytes(kind: str, molecules: list[tuple[str, str]]) -> bytes:
    """Write a library as other people's software would."""
    if kind == "smi":
        return "".join(f"{smiles} {name}\n" for name, smiles in molecules).encode()
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if kind == "csv" else "\t")
        writer.writerows([("name", "smiles"), *molecules])
        return text.getvalue().encode()
    if kind == "parquet":
        names, smiles = zip(*molecules, strict=True)
        buffer = io.BytesIO()
        pq.write_table(pa.table({"name": names, "smiles": smiles}), buffer, row_group_size=2)
        return buffer.getvalue()
    return sdf_of(molecules).encode()


KINDS = [f"{kind}{gz}" for kind in ("smi", "csv", "tsv", "parquet", "sdf") for gz in ("", ".gz")]


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_gives_the_same_records_plain_and_compressed(tmp_path, kind):
    content = library_bytes(kind.removesuffix(".gz"), MOLECULES)
    location = write(tmp_path / f"lib.{kind}", content)
    found = contents(location)
    assert [i for i, _ in found] == [name for name, _ in MOLECULES]
    canonical = [Chem.CanonSmiles(s) for _, s in found]
    assert canonical == [Chem.CanonSmiles(s) for _, s in MOLECULES]


def test_sha256_is_that_of_the_stored_bytes(tmp_path):
    location = write(tmp_path / "lib.smi.gz", "C a\n")
    assert (
        open_library(location).sha256() == hashlib.sha256(Path(location).read_bytes()).hexdigest()
    )


def test_a_library_travels_to_another_process(tmp_path):
    library = open_library(write(tmp_path / "lib.csv", "id,smiles\na,C\n"))
    assert list(pickle.loads(pickle.dumps(library)).records()) == [(0, "a", "C", None, None)]


# --- where it may be --------------------------------------------------------------------------


def test_a_folder_stands_for_the_one_library_in_it(tmp_path):
    write(tmp_path / "README.md", "# card")
    write(tmp_path / "drugs.csv", "name,smiles\na,C\n")
    library = open_library(tmp_path)
    assert list(library.records()) == [(0, "a", "C", None, None)]
    assert any("drugs.csv" in note for note in library.notes)
    write(tmp_path / "more.smi", "C\n")
    with pytest.raises(LibraryError, match=r"exactly one library file.*drugs\.csv, more\.smi"):
        open_library(tmp_path)


def test_urls_are_opened_by_fsspec(tmp_path):
    path = write(tmp_path / "lib.csv.gz", "name,smiles\na,C\n")
    assert contents(f"file://{path}") == [("a", "C")]
    memory = fsspec.filesystem("memory")
    for kind in KINDS:
        content = library_bytes(kind.removesuffix(".gz"), MOLECULES)
        memory.pipe(f"/lib.{kind}", gzip.compress(content) if kind.endswith("gz") else content)
        assert [i for i, _ in contents(f"memory://lib.{kind}")] == [n for n, _ in MOLECULES]
    # A chain: the file inside an archive.
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in.smi", "CCO a\n")
    assert contents(f"zip://in.smi::file://{tmp_path}/a.zip") == [("a", "CCO")]


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(
        known_implementations,
        "cellar",
        {"class": "cellarfs.CellarFS", "err": "Install cellarfs to access the cellar"},
    )
    with pytest.raises(LibraryError, match="package is missing: Install cellarfs"):
        open_library("cellar://shelf/lib.smi")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere.smi", "no such file"),
        ("memory://nowhere.smi", "no such file"),
        ("nowhere://lib.smi", "Protocol not known: nowhere"),
        ("/dev/null", "not a regular file"),
        ("a\0b.smi", "cannot be read|no such file"),
        ("x" * 5000 + ".smi", "cannot be read"),
    ],
)
def test_what_is_not_there_is_said(location, message):
    with pytest.raises(LibraryError, match=message) as caught:
        open_library(location)
    assert "\n" not in str(caught.value)


def test_a_file_closed_to_us_is_said(tmp_path, monkeypatch):
    location = write(tmp_path / "lib.smi", "C\n")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(LibraryError, match="cannot be read: Permission denied"):
        open_library(location)


# --- content that contradicts the name --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lib.xyz", b"C\n", r"unknown kind of library; expected \.smi, \.csv"),
        ("lib", b"C\n", "unknown kind of library"),
        ("lib.gz", b"C\n", "unknown kind of library"),
        ("noise.smi", random.Random(0).randbytes(5000), "binary data"),
        ("noise.csv", random.Random(1).randbytes(5000), "binary data"),
        ("zeros.smi", bytes(100), "binary data"),
        ("noise.sdf", random.Random(2).randbytes(5000), "not that of an SD file"),
        ("noise.parquet", random.Random(3).randbytes(5000), "not that of a Parquet file"),
        ("torn.parquet", library_bytes("parquet", MOLECULES)[:-20], "not a whole Parquet file"),
        ("lib.smi", library_bytes("parquet", MOLECULES), "that of a Parquet file"),
        # No time in the header: what is in a test's name has to be the same in each process.
        ("lib.smi", gzip.compress(b"C\n", mtime=0), r"gzip file \(its name should end in \.gz\)"),
        ("lib.smi", library_bytes("sdf", MOLECULES), "that of an SD file"),
        ("lib.csv", b"<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
        ("lib.smi", b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        ("lib.smi", b"@<TRIPOS>MOLECULE\nx\n", "a MOL2 file"),
        ("lib.smi", b'{"smiles": "CCO"}\n', "a JSON file"),
        ("lib.smi", b"smiles,name\nC,methane\n", "expected a name that ends in .csv"),
        ("lib.smi", b"C a\rCC b\r", "end in CR alone"),
        ("empty.smi", b"", "holds no records"),
        ("empty.csv", b"", "holds no records"),
        ("empty.parquet", b"", "holds no records"),
        ("empty.sdf", b"", "holds no records"),
        ("header.csv", b"name,smiles\n", "holds no records"),
        ("header.smi", b"smiles name\n", "holds no records"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LibraryError, match=message) as caught:
        open_library(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"smiles": pa.array([], pa.string())}), tmp_path / "lib.parquet")
    with pytest.raises(LibraryError, match="holds no records"):
        open_library(tmp_path / "lib.parquet")


def test_gz_that_is_not_gzip_is_refused(tmp_path):
    (tmp_path / "lib.smi.gz").write_bytes(b"C methane\n")
    with pytest.raises(LibraryError, match="is not gzip"):
        open_library(tmp_path / "lib.smi.gz")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_gzip_says_after_which_record_it_broke_off(tmp_path, damage):
    shuffled = random.Random(0)
    lines = [f"{'C' * shuffled.randint(1, 30)}\tm{shuffled.random()}\n" for _ in range(20_000)]
    whole = bytearray(gzip.compress("".join(lines).encode()))
    if damage == "cut":
        whole = whole[: len(whole) // 2]
    else:
        whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "lib.smi.gz").write_bytes(whole)
    library = open_library(tmp_path / "lib.smi.gz")
    seen = []
    with pytest.raises(LibraryError, match="cannot be read on after record") as caught:
        seen.extend(library.records())
    last = int(str(caught.value).partition("after record ")[2].partition(":")[0])
    assert 5_000 < last < (15_000 if damage == "cut" else 20_000)
    # Every record up to there is handed on before the error.
    assert [r.record for r in seen] == list(range(last + 1))
    assert [f"{r.smiles}\t{r.input_id}\n" for r in seen[:5000]] == lines[:5000]


def test_a_damaged_sdf_says_so(tmp_path):
    whole = gzip.compress(sdf_of(MOLECULES * 200).encode())
    (tmp_path / "lib.sdf.gz").write_bytes(whole[: len(whole) // 2])
    library = open_library(tmp_path / "lib.sdf.gz")
    with pytest.raises(LibraryError, match=r"cannot be read on after record \d+"):
        list(library.records())


# --- .smi -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C methane\nCC\tethane\n", [("methane", "C"), ("ethane", "CC")]),
        ("C methane, natural gas\n", [("methane, natural gas", "C")]),
        ("C\na,b 'c' \"d\"\n", [(None, "C"), ("'c' \"d\"", "a,b")]),
        ("C\r\nCC\r\n", [(None, "C"), (None, "CC")]),
        ("C", [(None, "C")]),
        ("C\n\nCC\n", [(None, "C"), (None, ""), (None, "CC")]),
        ("C\n\n", [(None, "C"), (None, "")]),
        ("\n", [(None, "")]),
        ("  C  methane  \n", [("methane", "C")]),
        ("\tno structure\n", [("no structure", "")]),
        ("\ufeffC methane\n", [("methane", "C")]),
        ("C a\nC a\n", [("a", "C"), ("a", "C")]),
        ("C\0C nul\n", [("nul", "C\0C")]),
        ("C a\0b\n", [("a\0b", "C")]),
        ("SMILES Name\nC methane\n", [("methane", "C")]),
        ("canonical_smiles\tid\nC\t1\n", [("1", "C")]),
        ("C" * 10_000 + " long\n", [("long", "C" * 10_000)]),
        ("what is this\n", [("is this", "what")]),
        ("C\u2028x\x0by name\n", [("name", "C\u2028x\x0by")]),
    ],
)
def test_smi_lines(tmp_path, text, expected):
    assert contents(write(tmp_path / "lib.smi", text)) == expected


def test_a_header_line_is_told(tmp_path):
    library = open_library(write(tmp_path / "lib.smi", "smiles name\nC methane\n"))
    assert library.notes == ("the first line is taken for a header: 'smiles name'",)
    assert library.smiles_column is None


def test_bytes_that_are_not_utf8_keep_their_record(tmp_path):
    location = write(tmp_path / "lib.smi", b"C m\xe9thane\nC\xff\xfe bad\nCC ethane\n")
    assert contents(location) == [("m\ufffdthane", "C"), ("bad", "C\ufffd\ufffd"), ("ethane", "CC")]
    assert any("not UTF-8" in note for note in open_library(location).notes)


def test_a_smi_has_no_columns_to_name(tmp_path):
    location = write(tmp_path / "lib.smi", "C methane\n")
    with pytest.raises(LibraryError, match=r"no column 'structure' for the SMILES; a \.smi has"):
        open_library(location, smiles_column="structure")
    with_header = write(tmp_path / "head.smi", "smiles zinc_id\nC Z1\n")
    assert contents(with_header, smiles_column="SMILES", id_column="zinc_id") == [("Z1", "C")]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t \ufffd"), min_size=1),
            st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufffd"), min_size=1),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_smi_keeps_its_words(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("smi") / "lib.smi"
    # The first line makes it a text that no sniffing refuses.
    write(path, "C" * 2000 + " start\n" + "".join(f"{s}\t{n}\n" for s, n in pairs))
    assert contents(path)[1:] == [(n.strip(" \t").strip() or None, s) for s, n in pairs]


# --- .csv and .tsv ----------------------------------------------------------------------------


def test_quotes_commas_and_line_ends_in_names(tmp_path):
    names = ['5"-methyl', "2,4-D", "two\nlines", "three\r\nmore\n\nlines", "caf\u00e9", "'", '"']
    text = io.StringIO()
    csv.writer(text).writerows([("name", "smiles"), *((n, "C") for n in names)])
    found = contents(write(tmp_path / "lib.csv", text.getvalue()))
    assert [i.replace("\r\n", "\n") for i, _ in found] == [n.replace("\r\n", "\n") for n in names]
    assert {s for _, s in found} == {"C"}


def test_a_stray_quote_spoils_its_own_line_only(tmp_path):
    text = 'smiles,name\nC,a\nCC,"b\nCCC,c\nCCCC,"d"\nCCCCC,"e"x\nCCCCCC,f\n'
    found = contents(write(tmp_path / "lib.csv", text))
    assert [s for _, s in found] == ["C", "CC", "CCC", "CCCC", "CCCCC", "CCCCCC"]
    assert [i for i, _ in found] == ["a", '"b', "c", "d", '"e"x', "f"]
    # The same when nothing closes it for a long time, or ever.
    text = 'smiles,name\nC,"a\n' + "CC,b\n" * 500 + 'CCC,"c"\n'
    assert len(contents(write(tmp_path / "long.csv", text))) == 502


def test_short_long_and_blank_rows_are_records(tmp_path):
    text = "name,smiles,mw\na,C,16\nb\n\nc,CC,30,extra\n,CCC,44\n"
    assert contents(write(tmp_path / "lib.csv", text)) == [
        ("a", "C"),
        ("b", ""),
        (None, ""),
        ("c", "CC"),
        (None, "CCC"),
    ]


def test_nul_bytes_bad_bytes_and_long_lines_stay_in_their_row(tmp_path):
    rows = b'name,smiles\na,C\0C\n"n\0,",C\nb,C\xff\n' + b"l," + b"C" * 10_000 + b"\nz,CC\n"
    found = contents(write(tmp_path / "lib.csv", rows))
    assert found == [
        ("a", "C\0C"),
        ("n\0,", "C"),
        ("b", "C\ufffd"),
        ("l", "C" * 10_000),
        ("z", "CC"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [
        ("lib.csv", "Name;Smiles\na;C\n", ";"),
        ("lib.csv", "Name\tSmiles\na\tC\n", "\t"),
        ("lib.tsv", "Name,Smiles\na,C\n", ","),
        ("lib.csv", '"Name, full";"Smiles";"Name"\nx;C;a\n', ";"),
        ("lib.csv", "\ufeffName,Smiles\r\na,C\r\n", ","),
        ("lib.csv", "smiles,name\nC,a\n", ","),
    ],
)
def test_delimiters_and_byte_order_marks_are_found_out(tmp_path, name, text, delimiter):
    library = open_library(write(tmp_path / name, text))
    assert library.delimiter == delimiter
    assert list(library.records()) == [(0, "a", "C", None, None)]


def test_the_column_guess_prefers_stereo_and_is_told(tmp_path):
    text = "Compound ID,Isomeric SMILES,SMILES,mw\n7,C[C@H](N)O,CC(N)O,61\n"
    library = open_library(write(tmp_path / "lib.csv", text))
    assert (library.smiles_column, library.id_column) == ("Isomeric SMILES", "Compound ID")
    assert library.notes == (
        "column 'Isomeric SMILES' is taken for the SMILES (of: Compound ID, Isomeric SMILES, "
        "SMILES, mw); 1 of its first 1 values carry stereo, 0 in 'SMILES'",
        "column 'Compound ID' is taken for the id",
    )


def test_named_columns_are_taken_and_nothing_is_guessed(tmp_path):
    location = write(tmp_path / "lib.csv", "smiles,Structure,name,code\nC,CC,a,b\n")
    library = open_library(location, smiles_column="structure", id_column="code")
    assert (library.smiles_column, library.id_column) == ("Structure", "code")
    assert list(library.records()) == [(0, "b", "CC", None, None)]
    assert library.notes == ()


def test_one_column_that_has_smiles_in_its_name_will_do(tmp_path):
    location = write(tmp_path / "lib.csv", "x,parent_smiles_2d\n1,C\n")
    assert contents(location) == [(None, "C")]


@pytest.mark.parametrize("columns", [{}, {"smiles_column": "smiles"}, {"id_column": "cas"}])
def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path, columns):
    content = "structure,weight\nC,16\n" if "id_column" not in columns else "smiles,weight\nC,1\n"
    location = write(tmp_path / "lib.csv", content)
    with pytest.raises(LibraryError, match=r"columns are: \w+, weight$"):
        open_library(location, **columns)


# --- .parquet ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_any_kind_of_text_column_will_do(tmp_path, kind):
    smiles = pa.array(["C", None, " CC ", "C"]).cast(kind)
    ids = pa.array([10, 11, None, 10])
    pq.write_table(pa.table({"id": ids, "smiles": smiles}), tmp_path / "lib.parquet")
    expected = [("10", "C"), ("11", ""), (None, "CC"), ("10", "C")]
    assert contents(tmp_path / "lib.parquet") == expected


def test_numbers_are_no_smiles(tmp_path):
    pq.write_table(pa.table({"smiles": [1, 2]}), tmp_path / "lib.parquet")
    with pytest.raises(LibraryError, match="column 'smiles' holds int64; expected text"):
        open_library(tmp_path / "lib.parquet")


def test_text_that_is_not_utf8_in_parquet_keeps_its_record(tmp_path):
    raw = pa.array([b"C\xff", b"CC"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"smiles": text}), tmp_path / "lib.parquet")
    assert contents(tmp_path / "lib.parquet") == [(None, "C\ufffd"), (None, "CC")]


# --- .sdf -------------------------------------------------------------------------------------


def test_a_bad_mol_block_is_a_record_and_not_a_stop(tmp_path):
    good = sdf_of([("a", "CCO")])
    pentavalent = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    entries = [
        good,
        "title\nnot\na\nmol block\nM  END\n$$$$\n",
        "no end\n\n\n$$$$\n",
        "$$$$\n",
        good.replace(" C   0", " Qq  0", 1),
        Chem.MolToMolBlock(pentavalent, kekulize=False) + "$$$$\n",
        good.replace("a\n", "last\n", 1).removesuffix("$$$$\n"),
    ]
    found = list(open_library(write(tmp_path / "lib.sdf", "".join(entries))).records())
    assert len(found) == len(entries)
    assert found[0] == (0, "a", "CCO", None, None)
    said = "the mol block cannot be read: "
    assert found[1] == (
        1,
        "title",
        None,
        said + "Cannot convert 'mol' to unsigned int on line 4",
        None,
    )
    assert found[2] == (2, "no end", None, said + "Counts line too short: '' on line4", None)
    assert found[3] == (3, None, "", None, None)
    assert found[4] == (4, "a", None, said + "Element 'Qq' not found", None)
    assert Chem.MolFromSmiles(found[5].smiles) is None
    assert Chem.MolFromSmiles(found[5].smiles, sanitize=False).GetNumAtoms() == 6
    assert found[6] == (6, "last", "CCO", None, None)


def test_stereo_of_flat_and_solid_mol_blocks_is_read(tmp_path):
    smiles = "C[C@H](N)C(=O)O"
    flat = Chem.MolFromSmiles(smiles)
    AllChem.Compute2DCoords(flat)
    solid = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(solid, randomSeed=7)
    blocks = [
        Chem.MolToMolBlock(flat),
        Chem.MolToMolBlock(solid),
        Chem.MolToV3KMolBlock(solid),
    ]
    location = write(tmp_path / "lib.sdf", "$$$$\n".join(blocks) + "$$$$\n")
    assert {s for _, s in contents(location)} == {Chem.CanonSmiles(smiles)}


def test_sd_properties_may_serve_as_columns(tmp_path):
    location = write(tmp_path / "lib.sdf", sdf_of(MOLECULES))
    assert contents(location, id_column="CODE")[0] == ("ETHANOL", "CCO")
    assert contents(location, smiles_column="SMILES")[1] == ("glycine", "[NH3+]CC(=O)[O-]")
    with pytest.raises(LibraryError, match="no column 'cas'; its columns are: SMILES, code"):
        open_library(location, id_column="cas")


def test_an_sdf_without_titles_takes_a_property_for_the_id(tmp_path):
    text = sdf_of([("", "C"), ("", "CC")]).replace("<code>", "<Compound_ID>")
    for number in ("1", "2"):
        text = text.replace("\n\n\n$$$$", f"\n{number}\n\n$$$$", 1)
    library = open_library(write(tmp_path / "lib.sdf", text))
    assert library.id_column == "Compound_ID"
    assert library.notes[0] == "the title lines are blank"
    assert [r[1] for r in library.records()] == ["1", "2"]


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["smi", "csv", "parquet"])
def test_five_times_the_records_need_no_more_memory(tmp_path, kind):
    def peak(n_records: int) -> int:
        path = tmp_path / f"lib{n_records}.{kind}"
        if kind == "parquet":
            smiles = pa.array(["C" * 60] * n_records)
            pq.write_table(pa.table({"smiles": smiles}), path, row_group_size=10_000)
        else:
            line = "C" * 60 + (",name\n" if kind == "csv" else " name\n")
            path.write_text("smiles,name\n" * (kind == "csv") + line * n_records)
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        n_seen, largest = 0, 0
        for record, *_ in open_library(path).records():
            n_seen += 1
            if record % 1000 == 0:
                largest = max(largest, pa.total_allocated_bytes() - arrow)
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_seen == n_records
        return python + largest

    # 20,000 records fill the sample that open_library looks at; from there it is flat.
    small, large = peak(20_000), peak(100_000)
    assert large < 1.2 * small + 200_000
