"""Captured relaxation and dynamics on a CUDA device. `pytest -m gpu`."""

import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.potential import Potential
from mlff_core.moves import in_flight
from mlff_core.moves.baoab import make_step
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL
from mlff_core.moves.lbfgs import inverse_model_hessian
from mlff_core.moves.relax import relax
from mlff_core.moves.slots import Molecule, Rows
from mlff_core.moves.state import each
from mlff_core.moves.step import step
from mlff_core.moves.stepper import Stepper
from mlff_core.status import ConformerStatus
from mlff_core.testing import random_model, random_molecule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def potential():
    return Potential(random_model(3), device="cuda", backend="triton")


def molecules():
    return [random_molecule(n, seed=5) for n in (9, 4, 30, 2, 17, 40, 25, 1)]


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_captured_steps_are_the_plain_ones(potential, optimizer, monkeypatch):
    batch = MolBatch.from_arrays(molecules())
    options = {"optimizer": optimizer, "max_steps": 8, "fmax": 0.02}
    captured = relax(batch, potential, **options)
    swapped_in = relax(batch, potential, capacity=3, **options)
    monkeypatch.setattr(
        in_flight.InFlight,
        "_stepper",
        lambda batch, rows, state: Stepper(
            lambda now: step(rows, now, batch.potential, batch.settings, batch.rules), state
        ),
    )
    plain = relax(batch, potential, **options)
    for found in (captured, swapped_in):
        assert found.status == plain.status
        assert torch.equal(found.n_steps, plain.n_steps)
        torch.testing.assert_close(found.energy, plain.energy, rtol=0, atol=2e-3)


@pytest.mark.parametrize("model", [MODEL, RENEWED_MODEL], ids=["where they enter", "renewed"])
def test_the_inverse_of_the_model_hessian_is_that_of_plain_operators(model):
    them = [random_molecule(n, seed=7) for n in (45, 130, 2, 64, 1, 33)]
    rows = Rows.pack(
        [Molecule(k, z, x, q) for k, (z, x, q) in enumerate(them)],
        130, torch.device("cuda"), torch.float32,
    )  # fmt: skip
    found = inverse_model_hessian(rows, model)
    assert found.dtype == torch.float32
    expected = inverse_model_hessian(rows._replace(positions=rows.positions.double()), model)
    assert (expected.diagonal(dim1=1, dim2=2) < 0.5).any(1).sum() >= 4
    atol = 2e-5 * float(expected.max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


def test_the_steps_of_ase_are_those_on_a_cpu(potential):
    batch = MolBatch.from_arrays(molecules(), dtype=torch.float64)
    options = {"optimizer": "ase-lbfgs", "max_steps": 8, "fmax": 0.02}
    here = relax(batch, potential, **options)
    there = relax(batch, Potential(random_model(3)), **options)
    assert here.status == there.status
    assert here.n_steps.tolist() == there.n_steps.tolist()
    torch.testing.assert_close(here.energy.cpu(), there.energy, rtol=0, atol=2e-3)


def test_a_first_walk_by_another_model_leaves_all_numbers_to_the_one_that_is_asked(potential):
    first = Potential(random_model(4), device="cuda", backend="triton")
    batch = MolBatch.from_arrays(molecules())
    options = {"max_steps": 12, "fmax": 0.05, "pre_relax": first}
    found = relax(batch, potential, **options)
    swapped_in = relax(batch, potential, capacity=3, **options)
    assert found.status == swapped_in.status
    assert torch.equal(found.n_steps, swapped_in.n_steps)
    assert (found.n_steps <= 12).all()
    for where, energy in ((batch, found.initial_energy), (found.batch, found.energy)):
        computed = potential(where).energy
        torch.testing.assert_close(energy, computed, rtol=0, atol=2e-3)


def test_who_enters_and_leaves_by_kernels_walks_as_by_plain_operators(potential, monkeypatch):
    batch = MolBatch.from_arrays(molecules() * 2)
    options = {"max_steps": 10, "fmax": 0.05, "capacity": 4}
    kernels = relax(batch, potential, **options)
    monkeypatch.setattr(in_flight, "has_kernels", lambda state, potential: False)
    plain = relax(batch, potential, **options)
    assert kernels.status == plain.status
    assert torch.equal(kernels.n_steps, plain.n_steps)
    torch.testing.assert_close(kernels.energy, plain.energy, rtol=0, atol=2e-3)
    torch.testing.assert_close(kernels.initial_energy, plain.initial_energy, rtol=0, atol=1e-4)


def test_one_card_has_one_batch_in_flight(potential):
    batch = MolBatch.from_arrays(molecules())
    with pytest.raises(ValueError, match="n_threads: expected 1 on cuda, found 2"):
        relax(batch, potential, n_threads=2)


def test_bad_molecules_leave_the_others_alone(potential):
    good = random_molecule(20, seed=5)
    overlapping = ([6, 6, 1], np.zeros((3, 3)), 0)
    not_a_number = ([8, 1], [[0.0, 0, 0], [0, np.nan, 1]], 0)
    result = relax(MolBatch.from_arrays([overlapping, good, not_a_number]), potential, max_steps=8)
    alone = relax(MolBatch.from_arrays([good]), potential, max_steps=8)
    assert result.status[0] == result.status[2] == ConformerStatus.NON_FINITE
    assert result.status[1] == alone.status[0]
    torch.testing.assert_close(result.energy[1:2], alone.energy, rtol=0, atol=2e-3)


@pytest.mark.parametrize("friction_per_ps", [0.0, 5.0])
def test_captured_moves_are_the_plain_ones(potential, friction_per_ps):
    batch = MolBatch.from_arrays(molecules())
    options = {"temperature_k": 300.0, "friction_per_ps": friction_per_ps, "seed": 3}
    moving = Dynamics(batch, potential, **options)
    state = each(torch.clone, moving._stepper.state)
    plain = Stepper(make_step(moving.evaluate, moving._integrator), state)
    moving.run(20)
    plain.run(20)
    torch.testing.assert_close(
        moving._stepper.state.positions, plain.state.positions, rtol=0, atol=1e-3
    )
