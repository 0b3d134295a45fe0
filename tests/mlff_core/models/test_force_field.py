"""The port, and the three kinds of model that stand behind it."""

from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from mlff_core import AseForceField, ForceField, MolBatch, relax
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.errors import OutOfDomainError
from mlff_core.models.force_field import Domain
from mlff_core.models.stream import evaluate_stream
from mlff_core.moves.dynamics import Dynamics
from mlff_core.status import ConformerStatus
from mlff_core.testing import SpringTeacher, named_batch, random_molecule, random_potential


def batch_of(*systems: Atoms) -> MolBatch:
    return MolBatch.from_arrays([(a.numbers, a.positions, 0) for a in systems], dtype=torch.float64)


@cache
def at_minimum(name: str) -> Atoms:
    """Where ASE's own optimiser finds a minimum of EMT, from where no symmetry holds it up."""
    system = molecule(name, calculator=EMT())
    system.rattle(0.1, seed=3)
    assert BFGS(system, logfile=None).run(fmax=1e-4, steps=1000)
    return system


def rattled(name: str, seed: int = 1) -> Atoms:
    system = at_minimum(name).copy()
    system.rattle(0.03, seed=seed)
    return system


def test_student_teacher_and_ase_calculators_are_force_fields():
    teacher = TeacherForceField(SpringTeacher(), torch.device("cpu"))
    for force_field in (random_potential(), teacher, AseForceField(EMT())):
        assert isinstance(force_field, ForceField)
        out = force_field.evaluate(named_batch().select([1, 3]).to(dtype=force_field.dtype))
        assert out.energy.dtype == torch.float64
        assert out.forces.shape == (5, 3)
        assert out.forces.abs().max() > 1e-3
    assert not isinstance(EMT(), ForceField)


def test_ethanol_relaxes_with_an_ase_calculator_to_the_minimum_that_ase_finds():
    start, expected = batch_of(rattled("CH3CH2OH")), at_minimum("CH3CH2OH")
    found = relax(start, AseForceField(EMT()), fmax=1e-3, max_steps=500)
    assert found.status == [ConformerStatus.CONVERGED]
    assert found.energy[0] < found.initial_energy[0] - 0.01
    assert found.energy[0].item() == pytest.approx(expected.get_potential_energy(), abs=1e-5)
    pairs = np.triu_indices(len(expected), 1)
    distances = expected.get_all_distances()[pairs]
    assert np.abs(torch.pdist(start.positions).numpy() - distances).max() > 0.05
    np.testing.assert_allclose(torch.pdist(found.batch.positions).numpy(), distances, atol=5e-3)


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire", "ase-lbfgs"])
def test_an_ase_calculator_serves_every_optimiser_and_several_molecules(optimizer):
    names = ["H2O", "CH3CH2OH", "NH3"]
    batch = batch_of(*(rattled(name) for name in names))
    options = {"optimizer": optimizer, "fmax": 2e-3, "max_steps": 1000, "n_threads": 2}
    found = relax(batch, AseForceField(EMT()), **options)
    assert found.status == [ConformerStatus.CONVERGED] * 3
    for energy, name in zip(found.energy.tolist(), names, strict=True):
        assert energy == pytest.approx(at_minimum(name).get_potential_energy(), abs=1e-4)


def test_dynamics_of_an_ase_calculator_is_that_of_ase():
    water = rattled("H2O")
    moving = Dynamics(batch_of(water), AseForceField(EMT()), timestep_fs=0.2, temperature_k=50.0)
    water.calc = EMT()
    start = moving.frame()
    water.set_velocities(start.velocities.numpy() / units.fs)
    VelocityVerlet(water, timestep=0.2 * units.fs, logfile=None).run(10)
    moving.run(10)
    np.testing.assert_allclose(moving.frame().batch.positions.numpy(), water.positions, atol=1e-6)


def test_what_an_ase_calculator_cannot_compute_spoils_its_molecule_alone():
    class Choosy(LennardJones):
        def calculate(self, atoms, *arguments):
            if len(atoms) == 3:
                raise CalculationFailed("no water")
            super().calculate(atoms, *arguments)

    out = AseForceField(Choosy()).evaluate(batch_of(molecule("H2O"), molecule("NH3")))
    assert out.energy.isnan().tolist() == [True, False]
    assert out.forces[:3].isnan().all()
    assert out.forces[3:].isfinite().all()


def test_partial_charges_of_an_ase_calculator_are_passed_on():
    class Charged(LennardJones):
        implemented_properties = [*LennardJones.implemented_properties, "charges"]  # noqa: RUF012

        def calculate(self, atoms, *arguments):
            super().calculate(atoms, *arguments)
            self.results["charges"] = np.arange(len(atoms)) + atoms.info["charge"]

    batch = MolBatch.from_arrays([(a.numbers, a.positions, -2) for a in [molecule("H2O")] * 2])
    out = AseForceField(Charged()).evaluate(batch)
    assert out.charges.tolist() == [-2.0, -1.0, 0.0] * 2
    assert AseForceField(LennardJones()).evaluate(batch).charges is None


def test_a_stream_serves_any_force_field():
    batches = [batch_of(molecule("H2O")), MolBatch.from_arrays([]), batch_of(molecule("NH3"))]
    found = [out.energy.tolist() for out in evaluate_stream(AseForceField(EMT()), batches)]
    expected = []
    for system in (molecule("H2O"), molecule("NH3")):
        system.calc = EMT()
        expected.append([pytest.approx(system.get_potential_energy(), abs=1e-9)])
    assert found == [expected[0], [], expected[1]]


@pytest.mark.parametrize(
    ("domain", "molecule", "message"),
    [
        (Domain(elements=(1, 8)), ([6], [[0, 0, 0]], 0), "element 6 is unknown to model x"),
        (Domain(), ([0], [[0, 0, 0]], 0), "element 0 is unknown"),
        (Domain(max_charge=1), ([8], [[0, 0, 0]], 2), r"total charge \+2 .* knows any to \+1"),
        (Domain(min_charge=0), ([8], [[0, 0, 0]], -2), r"total charge -2 .* knows \+0 to any"),
        (Domain(closed_shells=True), ([7, 8], [[0, 0, 0], [0, 0, 1.1]], 0), "has 15 electrons"),
    ],
)
def test_what_is_outside_a_domain_is_refused_by_name(domain, molecule, message):
    inside = ([8, 1, 1], [[0, 0, 0], [0, 0, 1], [0, 1, 0]], 0)
    domain.check(MolBatch.from_arrays([inside]), "x")
    with pytest.raises(OutOfDomainError, match=message):
        domain.check(MolBatch.from_arrays([inside, molecule]), "x")


@pytest.mark.parametrize("wrong", ["CCO", None, [([1], [[0, 0, 0]], 0)], molecule("H2O")])
def test_what_is_no_batch_or_no_force_field_is_told_in_words(wrong):
    potential, batch = random_potential(), batch_of(molecule("H2O"))
    for call in (
        lambda: relax(wrong, potential),
        lambda: Dynamics(wrong, potential),
        lambda: potential(wrong),
        lambda: list(evaluate_stream(potential, [wrong])),
    ):
        with pytest.raises(TypeError, match="batch: expected a MolBatch, found"):
            call()
    for call in (lambda: relax(batch, wrong), lambda: Dynamics(batch, wrong)):
        with pytest.raises(TypeError, match="potential: expected a ForceField, found"):
            call()


def test_a_batch_that_contradicts_itself_is_refused_and_the_process_lives():
    potential = random_potential()
    batch = MolBatch.from_arrays([random_molecule(5), random_molecule(4)])
    for changed in (
        {"ptr": torch.tensor([0, 5, 900])},
        {"ptr": torch.tensor([0, 5, 8])},
        {"ptr": torch.tensor([1, 5, 9])},
        {"ptr": torch.tensor([0, 12, 9])},
        {"mol_idx": torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 77])},
        {"mol_idx": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])},
        {"mol_idx": torch.tensor([-4, 0, 0, 0, 0, 1, 1, 1, 1])},
    ):
        broken = MolBatch(**(vars(batch) | changed))
        for call in (potential, lambda b: relax(b, potential), lambda b: Dynamics(b, potential)):
            with pytest.raises(ValueError, match="ptr and mol_idx: expected"):
                call(broken)
