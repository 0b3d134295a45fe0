"""Files that people hand in, and the records that they mean."""

from pathlib import Path

import pytest
from rdkit import Chem

from mlff_core.library import open_library

CASES = Path(__file__).parents[2] / "cases"


def records(location: Path) -> list[tuple[str | None, str | None]]:
    return [(r.input_id, r.smiles) for r in open_library(location).records()]


@pytest.mark.parametrize("kind", ["csv", "smi"])
def test_a_cxsmiles_belongs_to_the_smiles(kind):
    assert records(CASES / f"05_cxsmiles.{kind}") == [
        ("r1", "CCO |^1:0|"),
        ("Z1001", "C[C@H](O)[C@@H](C)N |&1:1,3|"),
        ("P", "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.7|"),
        ("M", "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.6|"),
    ]


def test_the_column_with_stereo_is_taken_and_told():
    library = open_library(CASES / "07_pubchempy.csv")
    assert (library.smiles_column, library.id_column) == ("isomeric_smiles", "cid")
    assert "'isomeric_smiles' is taken for the SMILES" in library.notes[0]
    assert "2 of its first 2 values carry stereo, 0 in 'canonical_smiles'" in library.notes[0]
    left, right = (Chem.MolFromSmiles(r.smiles) for r in library.records())
    assert Chem.MolToSmiles(left) != Chem.MolToSmiles(right)
    assert Chem.MolToSmiles(left, isomericSmiles=False) == "CC(N)C(=O)O"


def test_a_smi_with_a_header_of_several_columns():
    found = records(CASES / "09_enamine_real.smi")
    assert found == [("m_1__2", "CCO"), ("m_1__3", "CCN")]


def test_atoms_without_bonds_are_refused_with_words():
    (record,) = open_library(CASES / "11_nobonds.sdf").records()
    assert record.smiles is None
    assert record.note is not None
    assert record.note.startswith("the mol block has 9 atoms but no bonds")


def test_excels_line_about_the_separator():
    assert records(CASES / "17_excel_sep.csv") == [("ethanol", "CCO")]


def test_a_blank_line_before_the_end_of_a_mol_block():
    assert records(CASES / "18_blank_before_end.sdf") == [("ethyl", "CC")]
