"""Charges learnt for a student whose weights stay."""

import copy

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.distill import readout
from mlff_core.distill.growth import grown
from mlff_core.distill.pool import LabelPool
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.testing import SpringTeacher, random_model, random_molecule

SHAPE = PaiNNConfig(n_features=16, n_interactions=2)


@pytest.fixture(scope="module")
def pool() -> LabelPool:
    """Forty clouds of several sizes and charges, three geometries each, one of them no label."""
    torch.manual_seed(0)
    teacher, pool = SpringTeacher(), LabelPool(40, 3, 12, "cpu", with_charges=True)
    numbers, x = torch.zeros(40, 12, dtype=torch.int64), torch.zeros(40, 3, 12, 3)
    charge = torch.arange(40) % 3 - 1
    for k in range(40):
        z, y, _ = random_molecule(5 + k % 7, k)
        numbers[k, : len(z)] = torch.tensor(z)
        x[k, :, : len(z)] = torch.tensor(y) + 0.1 * torch.randn(3, len(z), 3)
    labels = [teacher(numbers, x[:, k], charge) for k in range(3)]
    stacked = [
        torch.stack([getattr(label, name) for label in labels], 1)
        for name in ("energy", "forces", "charges")
    ]
    valid = torch.ones(40, 3, dtype=torch.bool)
    valid[7, 1] = False
    energy, forces, charges = stacked
    # Those of springs are nearly nothing: make them depend on the element.
    charges = charges + 0.1 * ((numbers == 8).float() - (numbers == 1).float())[:, None]
    real = (numbers > 0)[:, None].float()
    off = (charge[:, None] - (charges * real).sum(2)) / real.sum(2)
    charges = (charges + off[..., None]) * real
    pool.add(numbers, charge, x, energy, forces, valid, charges)
    return pool


@pytest.mark.parametrize("after", [1, 2])
def test_charges_in_training_are_those_of_the_model_that_is_shipped(pool, after):
    network = random_model(1, SHAPE)
    known = readout.labelled(network, pool, after)
    assert len(known.total) == 119
    larger = grown(network, PaiNNConfig(n_features=16, n_interactions=2, charges_after=after))
    model = Potential(copy.deepcopy(larger), backend="plain")
    chosen = torch.tensor([0, 22, 118])
    found = readout.charges_of(larger.partial_charges, known, chosen)
    # Label 22 is the third of molecule 7, whose second is none.
    for row, k, molecule in zip(found, chosen.tolist(), (0, 7, 39), strict=True):
        real = known.real[k]
        numbers = pool.numbers[molecule][: int(real.sum())]
        x = known.positions[k][real]
        total = int(known.total[k])
        batch = MolBatch.from_arrays([(numbers.numpy(), x.numpy(), total)], dtype=torch.float32)
        expected = model.evaluate(batch).charges
        torch.testing.assert_close(row[real], expected, rtol=0, atol=2e-6)
        assert (row[~real] == 0).all()


def test_learning_lowers_the_errors_of_charges_and_of_dipoles_and_nothing_else(pool):
    network = random_model(1, SHAPE)
    before = copy.deepcopy(network.state_dict())
    known = readout.labelled(network, pool, 2)
    trainer = readout.ReadoutTrainer(
        network, known, readout.ReadoutConfig(n_mols=32, warmup_steps=10, ema_decay=0.95)
    )
    first = [float(x.mean()) for x in readout.errors(trainer.averaged, known)]
    for k in range(250):
        trainer.step(k / 250)
    charge, dipole = (float(x.mean()) for x in readout.errors(trainer.averaged, known))
    assert charge < 0.4 * first[0]
    assert dipole < 0.5 * first[1]
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    sums = readout.charges_of(trainer.averaged, known, torch.arange(len(known.total))).sum(1)
    torch.testing.assert_close(sums, known.total.float(), rtol=0, atol=1e-5)


def test_errors_are_those_of_what_the_labels_say_else(pool):
    known = readout.labelled(random_model(1, SHAPE), pool, 1)
    trainer = readout.ReadoutTrainer(random_model(1, SHAPE), known, readout.ReadoutConfig())
    own = readout.charges_of(trainer.read, known, torch.arange(len(known.total))).detach()
    moved = own.clone()
    moved[:, 0] += 0.1
    moved[:, 1] -= 0.1
    there = readout.Labelled(
        known.features, known.place, known.real, known.positions, moved, known.total
    )
    charge, dipole = readout.errors(trainer.read, there)
    torch.testing.assert_close(charge, 0.2 / known.real.sum(1), rtol=1e-4, atol=0)
    apart = (known.positions[:, 0] - known.positions[:, 1]).norm(dim=1)
    torch.testing.assert_close(dipole, 0.1 * apart, rtol=1e-4, atol=1e-6)
