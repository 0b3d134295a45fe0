"""Labels in, batches of fixed shape out."""

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.distill.pool import LabelPool
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import energy_and_forces
from mlff_core.testing import random_model, random_molecule

CUTOFF = 5.0


@pytest.fixture
def pool() -> LabelPool:
    """Four molecules of three labels each; of the third, only one label counts."""
    torch.manual_seed(0)
    pool = LabelPool(8, 3, 20, "cpu")
    molecules = [random_molecule(n, n, charge=n % 3 - 1) for n in (5, 9, 12, 7)]
    numbers = torch.zeros(4, 14, dtype=torch.int64)
    positions = torch.zeros(4, 3, 14, 3)
    for k, (z, x, _) in enumerate(molecules):
        numbers[k, : len(z)] = torch.tensor(z)
        positions[k, :, : len(z)] = torch.tensor(x) + 0.1 * torch.randn(3, len(z), 3)
    valid = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 0, 1]]).bool()
    forces = torch.randn(4, 3, 14, 3) * (numbers > 0)[:, None, :, None]
    charge = torch.tensor([q for _, _, q in molecules])
    kept = pool.add(
        numbers, charge, positions, torch.arange(12.0).double().view(4, 3), forces, valid
    )
    assert kept == 3
    return pool


def test_labels_that_do_not_count_are_never_drawn(pool):
    assert pool.n_valid[:3].tolist() == [3, 2, 2]
    drawn = {float(energy) for _ in range(40) for energy in pool.draw(8, 512, 2048, CUTOFF).energy}
    assert drawn == {0.0, 1.0, 2.0, 4.0, 5.0, 9.0, 11.0}


def test_a_batch_pairs_two_different_geometries_of_a_molecule(pool):
    for _ in range(20):
        batch = pool.draw(8, 512, 2048, CUTOFF)
        first, second = batch.energy.chunk(2)
        assert (first != second).all()
        assert torch.equal((first / 3).floor(), (second / 3).floor())


def test_a_fixed_batch_means_what_a_flat_batch_means(pool):
    model = random_model(3, n_features=16).requires_grad_(False)
    row, slot = torch.tensor([0, 2, 1, 0]), torch.tensor([0, 1, 0, 2])
    fixed = pool.batch(row, slot, 64 + 256, 1200, CUTOFF)
    sizes = (pool.numbers[row] > 0).sum(1).tolist()
    flat = MolBatch.from_arrays(
        (pool.numbers[r, :n].numpy(), pool.positions[r, s, :n].numpy(), int(pool.charge[r]))
        for r, s, n in zip(row, slot, sizes, strict=True)
    )
    i, j = neighbor_pairs(flat.positions, flat.ptr, CUTOFF)
    expected = energy_and_forces(
        model, flat.numbers, flat.positions, flat.mol_idx, flat.charge, i, j
    )
    found = energy_and_forces(
        model, fixed.numbers, fixed.positions, fixed.mol_idx, fixed.charge, fixed.i, fixed.j
    )
    torch.testing.assert_close(found[0][:4], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][: flat.n_atoms], expected[1], rtol=0, atol=1e-4)
    labels = torch.cat([pool.forces[r, s, :n] for r, s, n in zip(row, slot, sizes, strict=True)])
    assert torch.equal(fixed.forces[: flat.n_atoms], labels)


def test_charges_come_with_the_atoms_that_they_belong_to(pool):
    with_charges = LabelPool(8, 3, 20, "cpu", with_charges=True)
    label = pool.numbers[:3].float()[:, None] / 10 + torch.tensor([0.0, 1.0, 2.0])[:, None]
    given = (pool.numbers[:3].long(), pool.charge[:3], pool.positions[:3], pool.energy[:3])
    valid = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1]]).bool()
    with_charges.add(*given, pool.forces[:3], valid, label)
    row, slot = torch.tensor([0, 2, 1, 0]), torch.tensor([0, 1, 0, 2])
    batch = with_charges.batch(row, slot, 64 + 256, 1200, CUTOFF)
    atoms = batch.mol_idx < 4
    # Of the third molecule the first and the last label count, so its second is the last.
    which = torch.tensor([0.0, 2.0, 1.0, 2.0])[batch.mol_idx[atoms]]
    torch.testing.assert_close(batch.charges[atoms], batch.numbers[atoms] / 10 + which)
    assert (batch.charges[~atoms] == 0).all()
    # The layout is that of the atoms that are here, and has no padding.
    padded = batch.layout.padded(batch.numbers)
    sizes = (pool.numbers[row] > 0).sum(1)
    assert torch.equal((padded > 0).sum(1), sizes)
    assert torch.equal(padded[padded > 0], batch.numbers[atoms])
    assert torch.equal(batch.layout.flat(padded)[atoms], batch.numbers[atoms])
    with pytest.raises(ValueError, match="learns them from a teacher that has some"):
        with_charges.add(*given, pool.forces[:3], valid)


def test_rows_of_a_fixed_batch_are_sorted_and_know_their_opposite(pool):
    batch = pool.draw(8, 512, 2048, CUTOFF)
    n_pairs = int(batch.row[-1])
    assert 0 < n_pairs < 2048
    assert (batch.i.diff() >= 0).all()
    i, j, reverse = batch.i[:n_pairs], batch.j[:n_pairs], batch.reverse[:n_pairs]
    assert torch.equal(i[reverse], j)
    assert torch.equal(j[reverse], i)
    counts = torch.bincount(i, minlength=512)
    assert torch.equal(batch.row.diff(), counts)
    # Padding joins padding only, at a distance that divides.
    assert (batch.mol_idx[batch.i[n_pairs:]] == 8).all()
    assert (batch.mol_idx[batch.j[n_pairs:]] == 8).all()
    apart = batch.positions[batch.i[n_pairs:]] - batch.positions[batch.j[n_pairs:]]
    assert (apart.norm(dim=1) > 0.5).all()


@pytest.mark.parametrize(("n_atoms", "n_edges"), [(256 + 12, 2048), (512, 60)])
def test_a_molecule_that_does_not_fit_is_left_out_whole(pool, n_atoms, n_edges):
    row, slot = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 0, 1])
    batch = pool.batch(row, slot, n_atoms, n_edges, CUTOFF)
    assert batch.weight[0] == 1
    assert int(batch.left_out) == int((batch.weight == 0).sum()) > 0
    in_batch = torch.bincount(batch.mol_idx, minlength=5)[:4]
    sizes = (pool.numbers[row] > 0).sum(1)
    assert torch.equal(in_batch, torch.where(batch.weight > 0, sizes, 0))
    n_pairs = int(batch.row[-1])
    assert torch.equal(batch.i[:n_pairs][batch.reverse[:n_pairs]], batch.j[:n_pairs])


def test_the_ring_overwrites_the_oldest(pool):
    numbers, positions = torch.ones(7, 2, dtype=torch.int64), torch.rand(7, 3, 2, 3)
    energy, valid = (
        torch.full((7, 3), 100.0, dtype=torch.float64),
        torch.ones(7, 3, dtype=torch.bool),
    )
    pool.add(numbers, torch.zeros(7), positions, energy, torch.zeros_like(positions), valid)
    assert pool.n_stored == 10
    assert int(pool.n_filled) == 8
    assert (pool.energy[[3, 4, 5, 6, 7, 0, 1]] == 100.0).all()
    assert (pool.energy[2] < 12).all()
    assert pool.numbers[0].sum() == 2  # nothing of the larger molecule that was there is left
