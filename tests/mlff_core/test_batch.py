import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.testing import NAMED_MOLECULES, named_batch


def test_a_batch_keeps_every_molecule_apart() -> None:
    batch = named_batch()
    assert batch.n_mols == len(NAMED_MOLECULES)
    for k, (numbers, positions, charge) in enumerate(NAMED_MOLECULES.values()):
        atoms = batch.mol_idx == k
        assert batch.numbers[atoms].tolist() == numbers
        np.testing.assert_allclose(batch.positions[atoms], np.array(positions, float))
        assert batch.charge[k] == charge
        assert batch.ptr[k + 1] - batch.ptr[k] == len(numbers) == batch.sizes[k]


def test_select_takes_molecules_in_the_order_asked_for() -> None:
    batch = named_batch()
    chosen = batch.select([3, 0, 3])
    water = list(NAMED_MOLECULES.values())[3]
    assert chosen.numbers.tolist() == [*water[0], 1, *water[0]]
    assert chosen.ptr.tolist() == [0, 3, 4, 7]
    assert chosen.mol_idx.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert chosen.charge.tolist() == [0, -1, 0]
    np.testing.assert_allclose(chosen.positions[4:], np.array(water[1]))


def test_split_cuts_per_atom_values_by_molecule() -> None:
    batch = named_batch()
    parts = batch.split(torch.arange(batch.n_atoms))
    assert [len(p) for p in parts] == batch.sizes.tolist()
    assert torch.cat(parts).tolist() == list(range(batch.n_atoms))


def test_an_empty_batch_is_a_batch() -> None:
    batch = MolBatch.from_arrays([])
    assert (batch.n_mols, batch.n_atoms) == (0, 0)
    assert batch.positions.shape == (0, 3)


@pytest.mark.parametrize(
    ("molecule", "message"),
    [
        (([], np.zeros((0, 3)), 0), r"molecule 0: numbers: expected \(n_atoms,\)"),
        (([1, 1], np.zeros((3, 3)), 0), r"positions: expected \(2, 3\), found \(3, 3\)"),
        (([1], np.zeros(3), 0), r"positions: expected \(1, 3\), found \(3,\)"),
        (([1], np.zeros((1, 3)), 0.5), r"charge: expected a whole number, found 0.5"),
    ],
)
def test_a_molecule_that_is_none_is_refused_by_shape(molecule: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MolBatch.from_arrays([molecule])


def test_new_positions_must_have_the_old_shape() -> None:
    batch = named_batch()
    with pytest.raises(ValueError, match="positions: expected"):
        batch.with_positions(batch.positions[:-1])
