"""Walks with a coarse force field: the verdict and all numbers are the force field's own."""

import torch

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential
from mlff_core.moves.relax import relax
from mlff_core.status import ConformerStatus
from mlff_core.testing import random_model, random_molecule

ERROR = 2e-3


class Rough(Potential):
    """Off by `size` eV/Å in every coordinate, as the slope of a ripple on the energy."""

    size = ERROR
    calls = 0

    def evaluate(self, batch):
        self.calls += 1
        out, x = super().evaluate(batch), batch.positions.to(self.dtype)
        ripple = self.size / 7.0 * torch.cos(7.0 * x).sum(1).double()
        energy = out.energy.index_add(0, batch.mol_idx, ripple)
        return Outputs(energy, out.forces + self.size * torch.sin(7.0 * x))


class WithRough(Rough):
    """Exact, counts its calls, and brings a rough one along."""

    size = 0.0

    def __init__(self, roughness):
        network = random_model(3, n_features=16)
        super().__init__(network, precision="float64")
        self.coarse = Rough(network, precision="float64")
        self.coarse.size = roughness
        self.coarse_error = ERROR


def molecules():
    return MolBatch.from_arrays(
        [random_molecule(n, seed=5) for n in (9, 4, 14, 2, 11, 7)], dtype=torch.float64
    )


def alone(batch, **asked):
    return relax(batch, Potential(random_model(3, n_features=16), precision="float64"), **asked)


def test_molecules_walk_with_the_coarse_one_and_are_judged_by_the_other():
    batch, force_field = molecules(), WithRough(0.5 * ERROR)
    frozen = torch.arange(9)
    asked = {"fmax": 0.05, "max_steps": 400, "n_threads": 1, "frozen": frozen}
    found, expected = relax(batch, force_field, **asked), alone(batch, **asked)
    assert force_field.calls == 1
    assert force_field.coarse.calls > 10
    for where, energy in ((batch, found.initial_energy), (found.batch, found.energy)):
        torch.testing.assert_close(force_field(where).energy, energy, rtol=0, atol=1e-9)
    forces = force_field(found.batch).forces
    torch.testing.assert_close(found.forces, forces, rtol=0, atol=1e-8)
    assert found.status == expected.status == [ConformerStatus.CONVERGED] * 6
    largest = [f.norm(dim=1).max() for f in found.batch.split(forces)]
    assert max(largest[1:]) < 0.05
    # The first may not move, however strong the forces on it are.
    assert largest[0] > 0.05
    assert found.max_force[0] == 0
    assert (found.energy <= found.initial_energy).all()
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=0.02)


def test_those_that_are_not_at_rest_by_the_other_walk_again_with_it():
    batch, force_field = molecules(), WithRough(0.3)
    asked = {"fmax": 0.05, "max_steps": 400, "n_threads": 1}
    found, expected = relax(batch, force_field, **asked), alone(batch, **asked)
    assert found.status == expected.status
    assert torch.equal(found.n_steps, expected.n_steps)
    # The same walk but for rounding: matrices are as wide as the largest molecule beside it.
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    at_rest = expected.batch.positions
    torch.testing.assert_close(found.batch.positions, at_rest, rtol=0, atol=1e-9)


def test_steps_that_run_out_are_said_to_have_run_out_by_the_other_s_forces():
    batch, force_field = molecules(), WithRough(0.5 * ERROR)
    found = relax(batch, force_field, fmax=0.05, max_steps=5, n_threads=1)
    forces = [f.norm(dim=1).max() for f in batch.split(force_field(found.batch).forces)]
    assert ConformerStatus.MAX_STEPS in found.status
    for status, force in zip(found.status, forces, strict=True):
        assert (status == ConformerStatus.CONVERGED) == (force < 0.05)


def test_a_coarse_force_field_is_left_alone_where_its_error_would_show():
    force_field = WithRough(0.5 * ERROR)
    batch = molecules()
    relax(batch, force_field, fmax=4 * ERROR, max_steps=5)
    relax(batch, force_field, fmax=0.05, max_steps=5, optimizer="ase-lbfgs")
    assert force_field.coarse.calls == 0
