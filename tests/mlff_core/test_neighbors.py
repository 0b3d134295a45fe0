import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from mlff_core.batch import MolBatch
from mlff_core.neighbors import candidate_pairs, neighbor_pairs
from mlff_core.testing import named_batch, random_molecule


@pytest.mark.parametrize("sizes", [[1], [2], [40], [1, 7, 100, 2, 33], [250]], ids=str)
def test_pairs_are_those_of_ase_molecule_by_molecule(sizes: list[int]) -> None:
    molecules = [random_molecule(n, seed) for seed, n in enumerate(sizes)]
    batch = MolBatch.from_arrays(molecules, dtype=torch.float64)
    i, j = neighbor_pairs(batch.positions, batch.ptr, 5.0)
    expected = []
    for (numbers, positions, _), start in zip(molecules, batch.ptr.tolist(), strict=False):
        first, second = neighbor_list("ij", Atoms(numbers, positions), 5.0)
        expected += [(a + start, b + start) for a, b in zip(first, second, strict=True)]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == sorted(expected)


def test_pairs_beyond_the_cutoff_and_between_molecules_are_not_listed() -> None:
    batch = named_batch()
    i, j = neighbor_pairs(batch.positions, batch.ptr, 5.0)
    assert (batch.mol_idx[i] == batch.mol_idx[j]).all()
    assert 2 not in batch.mol_idx[i]  # two fluorides, 7.5 Å apart
    assert (i != j).all()


def test_an_atom_at_nan_has_no_pairs_and_spares_the_others() -> None:
    positions = torch.tensor([[0.0, 0, 0], [np.nan, 0, 0], [0, 0, 1.0]])
    i, j = neighbor_pairs(positions, torch.tensor([0, 3]), 5.0)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 2), (2, 0)]


def test_candidates_of_single_atoms_and_empty_molecules_are_none() -> None:
    i, j = candidate_pairs(torch.tensor([0, 1, 1, 3]))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(1, 2), (2, 1)]
