"""The one-pass engine against automatic differentiation of the model."""

import math

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.errors import ModelFileError
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import AnalyticEngine, energy_and_forces
from mlff_core.testing import (
    NAMED_MOLECULES,
    AutogradEngine,
    named_batch,
    random_model,
    random_molecule,
)


def arguments(batch):
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def shipped():
    """The shipped model, where there is one."""
    try:
        find_model("default")
    except ModelFileError:
        return []
    return ["default"]


@pytest.fixture(scope="module", params=["random", *shipped()])
def model(request):
    if request.param == "random":
        network = random_model(3, n_features=32)
    else:
        network = read_checkpoint(find_model(request.param))[0]
    return network.double().requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    sizes = (1, 2, 7, 41, 130)
    molecules = [*NAMED_MOLECULES.values(), *(random_molecule(n, n, charge=n % 3) for n in sizes)]
    return MolBatch.from_arrays(molecules, dtype=torch.float64)


def test_one_pass_gives_what_autograd_gives(model, batch):
    energy, forces, *_ = AnalyticEngine(model).evaluate(*arguments(batch))
    expected_energy, expected_forces, *_ = AutogradEngine(model).evaluate(*arguments(batch))
    # float64 itself ends at 6e-11 eV where a molecule has half a million.
    torch.testing.assert_close(energy, expected_energy, rtol=1e-15, atol=1e-11)
    # Random clouds are crowded: forces there are hundreds of eV/Å, and rounding goes with them.
    largest = expected_forces.abs().max()
    torch.testing.assert_close(forces, expected_forces, rtol=0, atol=1e-10 + 8e-12 * float(largest))


def test_forces_are_the_slope_of_the_energy(model):
    batch = named_batch()
    engine = AnalyticEngine(model)
    _, forces, *_ = engine.evaluate(*arguments(batch))
    # The largest energy, of 86,000 eV, ends at 1e-11 eV: shorter steps would round.
    step = 5e-5
    for atom, axis in [(1, 2), (4, 0), (6, 1), (15, 2)]:
        shifted = [batch.positions.clone() for _ in range(2)]
        shifted[0][atom, axis] += step
        shifted[1][atom, axis] -= step
        up, down = (engine.evaluate(*arguments(batch.with_positions(x)))[0] for x in shifted)
        slope = (up - down).sum() / (2 * step)
        assert math.isclose(-slope, forces[atom, axis], rel_tol=1e-6, abs_tol=1e-6)


def test_weight_gradients_of_a_force_loss_are_those_of_double_backward(batch):
    model = random_model(5, n_features=8).double()
    numbers, positions, mol_idx, ptr, charge = arguments(batch.select([1, 3, 4, 8]))
    i, j = neighbor_pairs(positions, ptr, model.config.cutoff)
    weights = list(model.parameters())

    def loss(energy, forces):
        return energy.sum() * 0.01 + forces.square().sum()

    x = positions.clone().requires_grad_(True)
    energy = model(numbers, x, mol_idx, charge, i, j)
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    expected = torch.autograd.grad(loss(energy, -gradient), weights)
    found = torch.autograd.grad(
        loss(*energy_and_forces(model, numbers, positions, mol_idx, charge, i, j)), weights
    )
    for a, b in zip(found, expected, strict=True):
        scale = b.abs().max().clamp(min=1.0)
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_coordinate_that_is_no_number_poisons_its_molecule_alone(model, batch, bad):
    good_energy, good_forces, *_ = AnalyticEngine(model).evaluate(*arguments(batch))
    positions = batch.positions.clone()
    victim = 3
    positions[batch.ptr[victim] + 1, 1] = bad
    energy, forces, *_ = AnalyticEngine(model).evaluate(*arguments(batch.with_positions(positions)))
    inside = batch.mol_idx == victim
    assert energy[victim].isnan()
    assert forces[inside].isnan().all()
    torch.testing.assert_close(forces[~inside], good_forces[~inside], rtol=0, atol=1e-12)
    keep = torch.arange(batch.n_mols) != victim
    torch.testing.assert_close(energy[keep], good_energy[keep], rtol=0, atol=1e-11)


def test_atoms_in_one_place_give_nan(model, batch):
    positions = batch.positions.clone()
    positions[batch.ptr[4]] = positions[batch.ptr[4] + 1]
    energy, forces, *_ = AnalyticEngine(model).evaluate(*arguments(batch.with_positions(positions)))
    assert energy.isnan().nonzero().flatten().tolist() == [4]
    assert forces[batch.mol_idx == 4].isnan().all()
