"""A student against its teacher: errors, minima, superposition."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from ase.build import minimize_rotation_and_translation, molecule
from ase.data import covalent_radii

from mlff_core.batch import MolBatch
from mlff_core.distill import evaluation, minima
from mlff_core.distill.embedding import Embedded, embed
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.sampling import KINDS, SamplingConfig
from mlff_core.distill.teacher import Label
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.force_field import evaluate_checked
from mlff_core.models.potential import Potential
from mlff_core.testing import SpringTeacher, random_model, random_molecule, random_rotation


@pytest.fixture(scope="module")
def molecules() -> list[Embedded]:
    made = [embed(s, k, 2, 7, 10) for k, s in enumerate(("CCO", "C[NH3+]", "CC(=O)[O-]"))]
    assert not any(isinstance(m, str) for m in made)
    return made


@pytest.fixture(scope="module")
def blocks(molecules) -> list[evaluation.TestBlock]:
    return evaluation.make_test_blocks(
        SpringTeacher(), molecules, SamplingConfig(relax_steps=3, hot_steps=2), LabelConfig(),
        Counter(), seed=1,
    )  # fmt: skip


class BondWells(SpringTeacher):
    """A teacher whose relaxations only mend bond lengths: two atoms attract each other about the
    length of a bond, and are nothing to each other elsewhere."""

    def member(self, index, numbers, positions, charge):
        radii = torch.tensor(covalent_radii, dtype=positions.dtype)[numbers]
        length = 1.02 * (radii[:, :, None] + radii[:, None])
        real = numbers > 0
        pairs = (real[:, :, None] & real[:, None]).triu(1)
        with torch.enable_grad():
            x = positions.detach().clone().requires_grad_(True)
            d = torch.where(pairs, (x[:, :, None] - x[:, None]).square().sum(-1), 1.0).sqrt()
            well = torch.where(pairs, -torch.exp(-50 * (d - length).square()), 0.0)
            energy = well.sum((1, 2)).double()
            (slope,) = torch.autograd.grad(energy.sum(), x)
        return Label(energy.detach(), -slope, torch.full_like(energy, self.spread).detach())


def springs(numbers, x, charge):
    label = SpringTeacher()(numbers, x, charge)
    return label.energy, label.forces


def test_a_padded_batch_gives_what_the_potential_gives():
    potential = Potential(random_model(n_features=16))
    arrays = [random_molecule(n, n) for n in (3, 7, 5)]
    flat = MolBatch.from_arrays(arrays)
    numbers, x = (
        torch.nn.utils.rnn.pad_sequence(flat.split(of_atoms), batch_first=True)
        for of_atoms in (flat.numbers, flat.positions)
    )
    energy, forces = evaluation.on_padded(potential)(numbers, x, flat.charge)
    expected = potential(flat)
    torch.testing.assert_close(energy, expected.energy, rtol=0, atol=1e-6)
    torch.testing.assert_close(forces[numbers > 0], expected.forces, rtol=0, atol=1e-6)
    assert (forces[numbers == 0] == 0).all()


def test_the_teacher_makes_no_errors_against_itself(blocks):
    errors = evaluation.geometry_errors(blocks, springs)
    found = evaluation.summarise(errors)
    assert found["n_molecules"] == 3
    assert found["n_geometries"] == 3 * 2 * len(KINDS)
    assert found["force_mae"] == found["force_rmse"] == found["energy_mae"] == 0
    assert found["rms_force"] > 0
    assert set(errors["charge"]) == {-1, 0, 1}
    assert errors["geometry"].max() == found["n_geometries"] - 1


def test_how_far_the_members_are_apart_goes_with_each_geometry(molecules):
    made = evaluation.make_test_blocks(
        SpringTeacher(spread=0.3), molecules, SamplingConfig(relax_steps=3, hot_steps=2),
        LabelConfig(), Counter(), seed=1,
    )  # fmt: skip
    errors = evaluation.geometry_errors(made, springs)
    np.testing.assert_allclose(errors["spread"], np.full(len(errors["energy"]), 0.3), rtol=1e-6)
    assert len(evaluation.subset(errors, errors["charge"] == 0)["spread"]) == 2 * len(KINDS)


def test_errors_are_in_mev_and_kcal_and_a_constant_energy_is_none(blocks):
    def off(numbers, x, charge):
        energy, forces = springs(numbers, x, charge)
        return energy + 5.0, torch.where((numbers > 0)[..., None], forces + 0.01, 0.0)

    found = evaluation.summarise(evaluation.geometry_errors(blocks, off))
    assert found["force_mae"] == pytest.approx(10.0, rel=1e-3)
    assert found["force_rmse"] == pytest.approx(10.0, rel=1e-3)
    assert found["energy_mae"] == pytest.approx(0.0, abs=1e-6)


def test_a_part_of_the_errors_has_the_atoms_of_its_geometries(blocks):
    errors = evaluation.geometry_errors(blocks, springs)
    part = evaluation.subset(errors, errors["charge"] == -1)
    assert len(part["number"]) == 7 * 2 * len(KINDS)  # acetate has seven atoms
    assert set(part["molecule"]) == {2}
    hot = evaluation.subset(part, part["kind"] == KINDS.index("hot"))
    assert len(hot["number"]) == 7 * 2
    assert set(hot["geometry"]) == {0, 1}


def test_geometries_of_which_the_student_says_nothing_are_found(blocks):
    errors = evaluation.geometry_errors(blocks, springs)
    assert evaluation.finite_geometries(errors).all()
    errors["student_force"][0] = np.nan
    errors["student_energy"][5] = np.inf
    expected = np.ones(len(errors["molecule"]), dtype=bool)
    expected[[errors["geometry"][0], 5]] = False
    assert np.array_equal(evaluation.finite_geometries(errors), expected)


def test_labels_of_which_the_teacher_is_unsure_are_left_out_and_counted(molecules):
    counts: Counter[str] = Counter()
    sampling = SamplingConfig(relax_steps=2, hot_steps=1)
    blocks = evaluation.make_test_blocks(
        SpringTeacher(spread=9.0), molecules, sampling, LabelConfig(), counts, seed=1
    )
    assert counts["teacher_unsure"] == counts["labels"] - counts["atoms_too_close"] > 0
    assert not any(block.valid.any() for block in blocks)


def test_a_driver_leads_where_the_teacher_labels(molecules):
    def still(numbers, x, charge):
        return torch.zeros_like(x)

    sampling = SamplingConfig(relax_steps=6, hot_steps=1, turned=0.0)
    led, free = (
        evaluation.make_test_blocks(
            SpringTeacher(), molecules, sampling, LabelConfig(), Counter(), seed=1, driver=driver
        )
        for driver in (still, None)
    )
    minimum = KINDS.index("minimum")
    for one, other in zip(led, free, strict=True):
        energy, _ = springs(one.numbers, one.positions[:, minimum], one.charge)
        torch.testing.assert_close(one.energy[:, minimum], energy)
        assert (one.energy[:, minimum] > other.energy[:, minimum]).all()


def test_labels_that_are_not_numbers_are_left_out_and_counted(molecules):
    class Broken(SpringTeacher):
        def __call__(self, numbers, positions, charge):
            label = super().__call__(numbers, positions, charge)
            energy = torch.where(charge > 0, torch.nan, label.energy)
            return Label(energy, label.forces, label.force_spread)

    counts: Counter[str] = Counter()
    blocks = evaluation.make_test_blocks(
        Broken(), molecules, SamplingConfig(relax_steps=2, hot_steps=1), LabelConfig(), counts,
        seed=1,
    )  # fmt: skip
    assert counts["not_finite"] == 2 * len(KINDS)
    errors = evaluation.geometry_errors(blocks, springs)
    assert set(errors["charge"]) == {-1, 0}


def test_a_mean_over_few_does_not_make_errors_look_small():
    rng = np.random.default_rng(0)
    molecule_of = np.repeat(np.arange(4000), 2)
    within = evaluation.within_molecule(molecule_of, rng.normal(size=8000))
    assert np.square(within).mean() == pytest.approx(1.0, rel=0.05)
    assert len(evaluation.within_molecule(np.array([0, 1]), np.array([1.0, 2.0]))) == 0


def test_superposition_finds_a_rotation_and_no_reflection():
    atoms = molecule("CH3CHO")
    noise = np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    turned = atoms.positions @ random_rotation(3).numpy() + 2.0

    def batch(*positions: np.ndarray) -> MolBatch:
        return MolBatch.from_arrays([(atoms.numbers, x, 0) for x in positions], dtype=torch.float64)

    heavy = atoms.numbers > 1
    moved = atoms.copy()
    moved.positions = turned + noise
    minimize_rotation_and_translation(atoms, moved)
    expected = np.sqrt(np.square(moved.positions - atoms.positions).sum(1).mean())
    a, b = batch(atoms.positions, atoms.positions), batch(turned, turned + noise)
    assert minima.superposed_rmsd(a, b)[0] < 1e-6
    assert minima.superposed_rmsd(a, b)[1] == pytest.approx(expected, abs=1e-6)
    moved = atoms[heavy]
    moved.positions = (turned + noise)[heavy]
    minimize_rotation_and_translation(atoms[heavy], moved)
    expected = np.sqrt(np.square(moved.positions - atoms.positions[heavy]).sum(1).mean())
    found = minima.superposed_rmsd(a, b, heavy=True)[1]
    assert found == pytest.approx(expected, abs=1e-6)
    chiral = np.random.default_rng(1).normal(size=atoms.positions.shape)
    assert minima.superposed_rmsd(batch(chiral), batch(-chiral))[0] > 0.3
    hydrogen = MolBatch.from_arrays([([1, 1], np.eye(2, 3), 0)])
    assert minima.superposed_rmsd(hydrogen, hydrogen, heavy=True).tolist() == [0.0]


def test_a_teacher_in_the_place_of_a_potential_gives_its_own_labels(molecules):
    teacher = SpringTeacher()
    potential = TeacherForceField(partial(teacher.member, 0), teacher.device)
    batch = MolBatch.from_arrays((m.numbers, x, m.charge) for m in molecules for x in m.positions)
    out = evaluate_checked(potential, batch)
    for k, (numbers, x, forces) in enumerate(
        zip(*(batch.split(v) for v in (batch.numbers, batch.positions, out.forces)), strict=True)
    ):
        label = teacher(numbers[None], x[None], batch.charge[k : k + 1])
        torch.testing.assert_close(out.energy[k : k + 1], label.energy)
        torch.testing.assert_close(forces, label.forces[0], rtol=1e-4, atol=1e-5)


def test_minima_of_equal_surfaces_are_equal_and_their_counts_add_up(molecules):
    teacher = BondWells()
    same = TeacherForceField(teacher, teacher.device)
    loose, tight = minima.compare_minima(teacher, same, molecules, fmax=(0.5, 0.05))
    for result in (loose, tight):
        assert result.n_started == 6
        assert result.n_student_converged == result.n_teacher_converged == len(result.rmsd) > 0
        assert result.n_student_rearranged == result.n_teacher_rearranged == 0
        assert result.rmsd.max() < 1e-4
    assert len(loose.energy) == len(tight.energy)
    # The second goes on from where the first stopped, which for some was tight enough.
    assert (loose.energy >= tight.energy).all()
    assert (loose.energy > tight.energy + 1e-4).any()
    twice = minima.join([tight, tight])
    assert twice.n_started == 12
    assert twice.n_teacher_converged == 2 * tight.n_teacher_converged
    assert len(twice.rmsd) == 2 * len(tight.rmsd)
    found = minima.summarise_minima(tight)
    assert found["n_conformers"] == len(tight.rmsd)
    assert found["rmsd_median"] < 1e-4


def test_conformers_whose_bonds_changed_are_counted_and_not_compared(molecules):
    keeps, draws_together = BondWells(), SpringTeacher()
    for teacher, student in ((keeps, draws_together), (draws_together, keeps)):
        (result,) = minima.compare_minima(
            teacher, TeacherForceField(student, student.device), molecules, fmax=(0.05,)
        )
        assert result.n_teacher_converged == result.n_student_converged == result.n_started
        # Springs between all atoms draw together those that are not bonded.
        changed, kept = result.n_teacher_rearranged, result.n_student_rearranged
        if student is draws_together:
            changed, kept = kept, changed
        assert 0 < changed < result.n_started
        assert kept == 0
        assert len(result.energy) == len(result.rmsd) == result.n_started - changed


def test_conformers_that_end_in_one_minimum_count_once():
    molecule_of = np.array([0, 0, 0, 1, 1])
    energy = np.array([1.0, 2.0, 1.0001, 1.0, 1.5])
    kept = minima.different_minima(molecule_of, energy)
    assert kept.tolist() == [True, True, False, True, True]
