"""How many conformers a molecule is worth."""

import pytest
from rdkit import Chem

from mlff_core.chem.flexibility import conformers_of, n_rotors
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare

AUTO = ChemistrySettings(n_conformers=None)


@pytest.mark.parametrize(
    ("smiles", "rotors"),
    [
        ("c1ccccc1", 0),
        ("CCCC", 1),
        ("CCCCCC", 3),
        ("C1CCCCC1", 1),
        ("CC(=O)Nc1ccccc1", 1),  # the amide bond does not turn
        ("C1CCCCCCCCCCC1", 6),
        ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", 4),
    ],
)
def test_rotors_are_bonds_that_turn_and_rings_that_pucker(smiles: str, rotors: int) -> None:
    assert n_rotors(Chem.MolFromSmiles(smiles)) == rotors


def test_conformers_follow_the_published_power_law_within_bounds() -> None:
    # 8.481 n^1.642 (Chan, Morris, Hutchison 2021) by hand, for n = 0, 1, 2, 3 and beyond the cap.
    expected = {"c1ccccc1": 8, "CCCC": 8, "CCCCC": 26, "CCCCCC": 52, "CCCCCCCCCCC": 100}
    for smiles, n in expected.items():
        notes: list[str] = []
        mol = Chem.MolFromSmiles(smiles)
        assert conformers_of(mol, AUTO, notes) == n
        assert conformers_of(Chem.AddHs(mol), AUTO, notes) == n
        assert bool(notes) == (n == 100)
    assert "suggest 258 (--max-conformers)" in notes[0]


def test_a_number_that_is_given_stands() -> None:
    notes: list[str] = []
    mol = Chem.MolFromSmiles("CCCCCCCCCCC")
    assert conformers_of(mol, ChemistrySettings(n_conformers=3), notes) == 3
    assert not notes


def test_a_stiff_molecule_has_fewer_conformers_than_a_flexible_one() -> None:
    settings = ChemistrySettings(n_conformers=None, max_conformers=30)
    stiff, flexible = (prepare(0, None, s, settings) for s in ("c1ccccc1", "OCCCCO"))
    assert len(stiff.positions) == 1  # all eight are the same
    assert len(flexible.positions) > 15
    assert "at most 30 conformers to begin with, where its rotatable bonds" in flexible.message
