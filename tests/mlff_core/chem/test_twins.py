"""Mirror images among the isomers of a record have the same conformers, reflected."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from mlff_core.chem.expand import expand
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.chem.twins import share_conformers
from mlff_core.chem.variant import Expansion

SETTINGS = ChemistrySettings(n_conformers=4, expansion=Expansion("enumerate", ph=7.4))


def isomers_of(smiles: str) -> list[PreparedMolecule]:
    return [prepare(0, None, variant, SETTINGS) for variant in expand(0, None, smiles, SETTINGS)]


def pairs_of(rows: list[PreparedMolecule]) -> set[frozenset[int]]:
    """Which rows have geometries with the same distances, as a mirror image has."""
    return {
        frozenset([i, j])
        for i, one in enumerate(rows)
        for j, other in enumerate(rows[:i])
        if len(one.positions) == len(other.positions)
        and np.allclose(*(np.sort(pdist(m.positions[0])) for m in (one, other)), atol=1e-4)
    }


@pytest.mark.parametrize(
    ("smiles", "n", "n_pairs"),
    [
        pytest.param("CC(F)Cl", 2, 1, id="one centre"),
        pytest.param("CC(O)C(N)C(F)C=CC", 16, 8, id="centres, an ammonium ion and a double bond"),
        pytest.param("OC(=O)C(O)C(O)C(O)=O", 3, 1, id="a meso form is its own"),
        pytest.param("C[C@H](O)C(F)Cl", 2, 0, id="diastereomers"),
    ],
)
def test_of_two_mirror_images_the_second_is_the_first_reflected(
    smiles: str, n: int, n_pairs: int
) -> None:
    settings = ChemistrySettings(expansion=Expansion("enumerate", ph=7.4, max_variants=16))
    rows = [prepare(0, None, v, settings) for v in expand(0, None, smiles, settings)]
    before = pairs_of(rows)
    assert share_conformers(rows) == (n_pairs > 0)
    after = pairs_of(rows)
    assert (len(rows), len(after)) == (n, n_pairs)
    assert before <= after
    for row in rows:  # each is still the isomer that its SMILES names
        topology = Topology(row.numbers, row.bonds, row.chirality, row.double_bonds)
        assert rearrangements(list(row.positions), [topology] * len(row.positions)) == [None]


def test_what_could_not_be_embedded_is_left_alone() -> None:
    first, second = isomers_of("CC(F)Cl")
    first.positions = first.positions[:0]
    kept = second.positions.copy()
    assert not share_conformers([first, second])
    assert np.array_equal(second.positions, kept)


def test_the_message_says_how_the_conformers_came_about_that_are_there() -> None:
    first, second = isomers_of("CC(F)Cl")
    first.message = "kept the largest; stopped after 4 conformers: the others took over 10 s"
    second.message = "embedded from random coordinates at the second try; kept the largest"
    assert share_conformers([first, second])
    assert second.message == first.message
    first.message = None
    assert share_conformers([first, second])
    assert second.message == "kept the largest"
