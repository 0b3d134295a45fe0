"""Surroundings are those of the atoms, and who is held out does not count."""

from pathlib import Path

import pytest
from rdkit import Chem

from mlff_core.testing import script_at

count_environments = script_at(Path(__file__).parents[2] / "datasets/count_environments.py")


def surroundings(smiles: str) -> list[int]:
    return count_environments.environments(Chem.MolFromSmiles(smiles))


def test_atoms_alike_have_the_same_surroundings_and_others_do_not():
    methyl, methylene, hydroxyl = surroundings("CCO")
    assert surroundings("OCC") == [hydroxyl, methylene, methyl]
    # The far end of a longer chain has what is left of it in another order.
    assert surroundings("CCCO")[-1] == hydroxyl
    assert surroundings("CCCO")[1] != methylene
    assert surroundings("CC[O-]")[2] != hydroxyl
    assert len(set(surroundings("c1ccccc1"))) == 1
    # An atom without bonds has surroundings, too.
    assert len(surroundings("[Na+].[Cl-]")) == 2


@pytest.mark.parametrize(("sure", "expected"), [(0, 3), (200, 2)])
def test_molecules_held_out_do_not_count_where_few_have_the_surroundings(
    monkeypatch, sure, expected
):
    monkeypatch.setattr(count_environments, "SURE", sure)
    monkeypatch.setattr(count_environments, "_is_held_out", lambda text, *_: text == "CCOC")
    methyl = surroundings("COC")[0]
    table = ["COC", "c1ccccc1OC", "CCOC", "CO", "no molecule"]
    assert count_environments.counted(table, {methyl}, "salt", 0.5) == {methyl: expected}
