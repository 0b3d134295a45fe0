"""What a student with charges learns from is of the kinds that it is said to be of."""

import random
from collections import Counter
from pathlib import Path

import pytest
from rdkit import Chem

from mlff_core.distill.molecules import Choice, MoleculesConfig, choose
from mlff_core.testing import script_at

HARD = script_at(Path(__file__).parents[2] / "datasets/make_hard.py")


@pytest.mark.parametrize(
    ("smiles", "kind"),
    [
        ("O=C(O)CS(F)(F)(F)(F)F", "hypervalent"),
        ("CCCOOC1(C)CCCCC1", "O-O"),
        ("COc1cc(I)ccc1CC(=O)NC", "rare element"),
        ("CCBr", "small"),
        ("CN(C)c1ccc2cc3ccc(N(C)C)cc3[n+](C)c2c1", "fused cation"),
        ("Cc1ccc(S(=O)(=O)[N-]c2nccs2)cc1", "other charge"),
        ("CC(=O)NNC(=O)c1ccccc1", "N-N"),
        ("[NH3+]CCc1ccc(C(=O)[O-])cc1", "several charges"),
        ("C[NH+](C)Cc1ccc(OC)cc1", "one charge"),
        ("Cc1ccc([N+](=O)[O-])cc1OCC", "common"),
        ("CCOC(=O)c1ccc(N)cc1", "common"),
    ],
)
def test_a_molecule_is_of_the_kind_that_its_smiles_shows(smiles, kind):
    assert HARD.kind_of(smiles) == kind


def test_what_is_written_is_written_once_and_is_fit_to_learn_from():
    config = MoleculesConfig(held_out_share=0.0)
    assert len(set(HARD.WRITTEN)) == len(HARD.WRITTEN)
    for text in HARD.WRITTEN:
        found = choose(text, config)
        assert isinstance(found, Choice), (text, found)
    for text in ("[H][H]", "II", "FS(F)(F)(F)(F)F", "F[P-](F)(F)(F)(F)F"):
        assert text in HARD.WRITTEN


def test_no_kind_takes_more_than_its_share_and_none_comes_twice():
    rng = random.Random(1)
    common = [f"C{'C' * rng.randint(8, 30)}OC{'C' * k}" for k in range(400)]
    charged = [f"C[NH+](C)C{'C' * k}OCCCC" for k in range(100)]
    rows = HARD.chosen([*common, *charged, *common], 200, 3)
    kinds = Counter(kind for _, kind in rows)
    assert kinds["one charge"] == round(200 * HARD.ONE)
    assert kinds["written here"] == len(HARD.WRITTEN)
    assert 0 < kinds["two apart"] <= round(200 * HARD.TWO)
    assert len({text for text, _ in rows}) == len(rows)
    assert all(Chem.MolFromSmiles(text) is not None for text, _ in rows)


def test_records_of_two_molecules_are_ions_most_of_them():
    rng = random.Random(2)
    records = HARD.of_two(["CCCCCCCCCCCCCCCC[NH3+]", "C[NH3+]", "CC(=O)[O-]", "CCO"], 3000, rng)
    parts = [text.split(".") for text in records]
    assert all(HARD.n_heavy(text) <= HARD.IN_TWO for two in parts for text in two)
    charges = Counter(tuple(sorted(HARD.smiles_charge(text) for text in two)) for two in parts)
    assert charges[-1, 1] == pytest.approx(1800, abs=120)
    assert charges[1, 1] + charges[-1, -1] == pytest.approx(600, abs=100)
    assert charges[0, 1] + charges[-1, 0] == pytest.approx(600, abs=100)
