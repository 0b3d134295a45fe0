"""Processes that embed: each molecule comes out or is counted, whatever they come to."""

import os
import signal

import numpy as np
import psutil
import pytest

from mlff_core.distill.embedding import APART, Embedder, embed

SMILES = ["CCO", "not a SMILES", "c1ccccc1O", "CC(C)(C)C"] * 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_every_molecule_comes_out_or_is_counted_whatever_reaches_the_processes(number):
    before = set(psutil.Process().children())
    embedder = Embedder(SMILES, n_conformers=2, seed=1, n_processes=2)
    found = []
    try:
        while embedder.running and not found:
            found += embedder.take(wait_s=1.0)
        for process in set(psutil.Process().children()) - before:
            os.kill(process.pid, number)
        while embedder.running:
            found += embedder.take(wait_s=1.0)
    finally:
        embedder.close()
    assert [molecule.index for molecule in found] == [k for k in range(400) if k % 4 != 1]
    assert embedder.failed == {"invalid_smiles": 100}
    assert embedder.n_embedded == 300
    alone = embed(SMILES[2], 2, 2, 1, 10)
    assert np.array_equal(found[1].positions, alone.positions)
    assert not set(psutil.Process().children()) - before


def test_an_embedder_that_nobody_reads_can_be_closed():
    embedder = Embedder(SMILES, n_conformers=1, seed=1, n_processes=1)
    embedder.close()
    assert embedder.take() == []


def test_no_two_fluorines_of_sf5_and_pf6_start_within_two_angstrom_of_each_other():
    # On an octahedron with bonds of 1.6 Å they are 2.2 Å apart; by RDKit's own bounds 1.0 Å.
    for smiles in ("CS(F)(F)(F)(F)F", "F[P-](F)(F)(F)(F)F"):
        molecule = embed(smiles, 0, 4, 1, 10)
        fluorines = molecule.positions[:, molecule.numbers == 9]
        apart = np.linalg.norm(fluorines[:, :, None] - fluorines[:, None], axis=-1)
        first, second = np.triu_indices(fluorines.shape[1], 1)
        assert apart[:, first, second].min() > 2.0


def test_two_ions_of_a_record_are_apart_by_another_distance_in_each_conformer():
    molecule = embed("C[NH3+].CCC(=O)[O-]", 3, 12, 1, 10)
    assert molecule.charge == 0
    numbers, (first, second) = molecule.numbers, ([0, 1, 7, 8, 9, 10, 11, 12], [2, 3, 4, 5, 6])
    assert sorted(numbers[first]) == [1, 1, 1, 1, 1, 1, 6, 7]
    second += [k for k in range(len(numbers)) if k not in first + second]
    x = molecule.positions.astype(float)
    nearest = np.linalg.norm(x[:, first, None] - x[:, None, second], axis=-1).min((1, 2))
    assert nearest.min() > APART[0] - 1e-4
    assert nearest.max() < APART[1] + 1e-4
    assert nearest.max() - nearest.min() > 3.0
    # Turned and moved as it is: bonds, and which hand the atoms about a carbon are of.
    alone = embed("CCC(=O)[O-]", 3, 1, 1, 10)
    assert sorted(alone.numbers) == sorted(numbers[second])
    inside = np.linalg.norm(x[:, second, None] - x[:, None, second], axis=-1)
    assert inside.max() < 6.0


@pytest.mark.parametrize(
    ("smiles", "ionic", "both_signs"),
    [
        ("CC(=O)[O-]", True, False),
        ("[NH3+]CC[NH3+]", True, False),
        ("[NH3+]CC(=O)[O-]", True, True),
        ("[NH3+]C(C[NH3+])C(=O)[O-]", True, True),
        ("C[N+](=O)[O-]", False, False),
        ("CCO", False, False),
        # Two molecules with a charge each, and one that has both beside another.
        ("C[NH3+].CC(=O)[O-]", True, False),
        ("O.[NH3+]CC(=O)[O-]", True, True),
    ],
)
def test_charged_groups_are_known_where_their_charges_add_up_to_none_too(smiles, ionic, both_signs):
    molecule = embed(smiles, 0, 1, 1, 5)
    assert not isinstance(molecule, str)
    assert (molecule.ionic, molecule.both_signs) == (ionic, both_signs)
