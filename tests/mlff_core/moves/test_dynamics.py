import ase.io
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ase import Atoms, units
from ase.data import atomic_masses
from ase.md.verlet import VelocityVerlet

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.errors import OutOfDomainError
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.noise import normal
from mlff_core.moves.trajectory import write_trajectory
from mlff_core.testing import random_model, random_molecule
from mlff_core.units import BOLTZMANN_EV_K, TIME_FS

SPRING = 10.0  # eV/Å²


@pytest.fixture(scope="module")
def potential():
    return Potential(random_model(3, n_features=16), precision="float64")


def batch_of(*sizes):
    return MolBatch.from_arrays([random_molecule(n, seed=5) for n in sizes], dtype=torch.float64)


class Springs(Potential):
    """Diatomics, their two atoms tied by k d² / 2: everything is known in closed form."""

    def evaluate(self, batch):
        bond = batch.positions[0::2] - batch.positions[1::2]
        forces = torch.stack([-SPRING * bond, SPRING * bond], 1).reshape(-1, 3)
        return Outputs(0.5 * SPRING * bond.double().square().sum(1), forces)


def diatomics(n_mols):
    molecule = ([6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]], 0)
    return MolBatch.from_arrays([molecule] * n_mols, dtype=torch.float64)


def springs():
    return Springs(random_model(0, n_features=8), precision="float64")


def test_without_friction_the_path_is_that_of_ases_velocity_verlet(potential):
    batch = batch_of(7, 3)
    dynamics = Dynamics(batch, potential, timestep_fs=0.5, temperature_k=[300.0, 50.0], seed=1)
    start = dynamics.frame()
    dynamics.run(40)
    ours = dynamics.frame()
    for k, (numbers, positions, _) in enumerate(random_molecule(n, seed=5) for n in (7, 3)):
        atoms = Atoms(
            numbers,
            positions,
            velocities=batch.split(start.velocities)[k].numpy() / units.fs,
            calculator=PaiNNCalculator(potential),
        )
        VelocityVerlet(atoms, timestep=0.5 * units.fs, logfile=None).run(40)
        np.testing.assert_allclose(
            batch.split(ours.batch.positions)[k].numpy(), atoms.positions, atol=1e-5
        )
        assert ours.potential_energy[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert ours.kinetic_energy[k] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-4)
        assert ours.temperature[k] == pytest.approx(atoms.get_temperature(), rel=1e-4)


def test_the_energy_error_falls_with_the_square_of_the_time_step(potential):
    errors = []
    for timestep, n_steps in ((0.4, 50), (0.2, 100), (0.1, 200)):
        dynamics = Dynamics(
            batch_of(8), potential, timestep_fs=timestep, temperature_k=300.0, seed=2
        )
        totals = [
            float(frame.potential_energy + frame.kinetic_energy)
            for frame in dynamics.frames(n_steps, every=n_steps // 25)
        ]
        errors.append(np.ptp(totals))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.25)


def test_a_frame_stays_what_it_was_when_the_molecules_go_on(potential):
    dynamics = Dynamics(batch_of(7, 3), potential, temperature_k=300.0, seed=3)
    for frame in list(dynamics.frames(6, every=2)):
        out = potential(frame.batch)
        assert torch.allclose(frame.potential_energy, out.energy, rtol=0, atol=1e-9)
        assert torch.allclose(frame.forces, out.forces.double(), rtol=0, atol=1e-9)
        kinetic = 0.5 * frame.velocities.mul(TIME_FS).square().sum(1)
        masses = torch.tensor(atomic_masses)[frame.batch.numbers.long()]
        expected = [part.sum() for part in frame.batch.split(masses * kinetic)]
        assert torch.allclose(frame.kinetic_energy, torch.stack(expected), rtol=1e-9)


def test_without_friction_momentum_is_kept_and_begins_at_zero(potential):
    batch = batch_of(9, 1)
    dynamics = Dynamics(batch, potential, temperature_k=300.0)
    for frame in dynamics.frames(30, every=10):
        momentum = [
            (masses * v).sum(0)
            for masses, v in zip(
                [dynamics.masses[0, :9], dynamics.masses[1, :1]],
                batch.split(frame.velocities),
                strict=True,
            )
        ]
        torch.testing.assert_close(momentum[0], torch.zeros(3).double(), atol=1e-10, rtol=0)
        assert momentum[1].abs().max() > 0  # an atom alone would otherwise stand still


@pytest.mark.parametrize("timestep", [0.5, 3.0])
def test_langevin_samples_the_boltzmann_distribution_of_a_spring(timestep):
    temperature = np.repeat([100.0, 400.0], 200)
    dynamics = Dynamics(
        diatomics(400),
        springs(),
        timestep_fs=timestep,
        temperature_k=temperature,
        friction_per_ps=40.0,
        seed=3,
    )
    dynamics.run(int(150 / timestep))
    square, kinetic, n_frames = np.zeros(400), np.zeros(400), 30
    for _ in range(n_frames):
        dynamics.run(int(30 / timestep))
        frame = dynamics.frame()
        x = frame.batch.positions.view(400, 2, 3)
        square += (x[:, 0] - x[:, 1]).square().sum(1).numpy() / n_frames
        kinetic += frame.temperature.numpy() / n_frames
    for half in (slice(0, 200), slice(200, 400)):
        T = temperature[half][0]
        assert square[half].mean() == pytest.approx(3 * BOLTZMANN_EV_K * T / SPRING, rel=0.05)
        assert kinetic[half].mean() == pytest.approx(T, rel=0.05)


def test_initial_velocities_have_the_temperature_asked_for():
    frame = Dynamics(diatomics(2000), springs(), temperature_k=300.0).frame()
    # The net momentum's three of six degrees of freedom are empty.
    assert frame.temperature.mean() == pytest.approx(150.0, rel=0.05)


def test_a_molecule_takes_the_same_path_alone_and_in_a_batch(potential):
    options = {"temperature_k": 300.0, "friction_per_ps": 10.0, "seed": 4}
    batch = batch_of(4, 9, 6)
    together = Dynamics(batch, potential, **options)
    alone = Dynamics(batch.select([2]), potential, streams=[2], **options)
    other = Dynamics(batch.select([2]), potential, streams=[3], **options)
    for dynamics in (together, alone, other):
        dynamics.run(20)
    found = batch.split(together.frame().batch.positions)[2]
    torch.testing.assert_close(found, alone.frame().batch.positions, rtol=0, atol=1e-9)
    assert (found - other.frame().batch.positions).abs().max() > 1e-3


@pytest.mark.parametrize("friction_per_ps", [0.0, 10.0])
def test_a_molecule_that_is_not_finite_leaves_the_others_alone(potential, friction_per_ps):
    options = {"temperature_k": 300.0, "friction_per_ps": friction_per_ps, "seed": 4}
    broken = batch_of(4, 5, 1)
    positions = broken.positions.clone()
    positions[6, 1] = torch.nan
    broken = broken.with_positions(positions)
    together = Dynamics(broken, potential, **options)
    alone = Dynamics(broken.select([0, 2]), potential, streams=[0, 2], **options)
    for dynamics in (together, alone):
        dynamics.run(10)
    frame = together.frame()
    assert frame.potential_energy.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(
        frame.batch.select([0, 2]).positions, alone.frame().batch.positions, rtol=0, atol=1e-9
    )
    # One atom alone feels nothing, and moves all the same.
    assert not frame.forces[-1].any()
    assert (frame.batch.positions[-1] != positions[-1]).any()


def test_runs_in_parts_equal_one_run(potential):
    options = {"temperature_k": 300.0, "friction_per_ps": 10.0}
    whole, parts = (Dynamics(batch_of(5), potential, **options) for _ in range(2))
    whole.run(12)
    for n_steps in (5, 0, 7):
        parts.run(n_steps)
    a, b = whole.frame(), parts.frame()
    assert a.step == b.step == 12
    assert a.time_fs == 6.0
    assert torch.equal(a.batch.positions, b.batch.positions)


def test_frozen_atoms_do_not_move(potential):
    batch = batch_of(6)
    dynamics = Dynamics(
        batch, potential, temperature_k=500.0, friction_per_ps=5.0, frozen=[1, 4], seed=5
    )
    dynamics.run(10)
    moved = (dynamics.frame().batch.positions != batch.positions).any(1)
    assert moved.tolist() == [True, False, True, True, False, True]


def test_a_molecule_far_from_the_origin_feels_the_same_in_float32():
    potential = Potential(random_model(3, n_features=16))
    near = batch_of(6)
    far = near.with_positions(near.positions + 2.0**14)  # a step of float32 there is 2 mÅ
    forces = [Dynamics(b, potential).frame().forces for b in (near, far)]
    torch.testing.assert_close(forces[0], forces[1], rtol=0, atol=1e-5)


def test_a_new_temperature_takes_hold_and_scales_velocities_when_asked_to():
    dynamics = Dynamics(diatomics(3), springs(), temperature_k=[100.0, 200.0, 0.0])
    before = dynamics.kinetic_energy
    dynamics.set_temperature([200.0, 200.0, 50.0], rescale=True)
    torch.testing.assert_close(dynamics.kinetic_energy, before * torch.tensor([2.0, 1.0, 1.0]))


def test_the_noise_is_normal_and_independent():
    keys = torch.arange(50)
    noise = torch.stack([normal(keys, torch.tensor(step), 20) for step in range(40)])
    flat = noise.flatten()
    assert flat.mean().abs() < 4 / len(flat) ** 0.5
    assert flat.var() == pytest.approx(1, abs=0.02)
    assert (flat**4).mean() == pytest.approx(3, abs=0.1)
    assert (flat.abs() > 1.959964).double().mean() == pytest.approx(0.05, abs=0.003)
    for shifted in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2), noise.roll(1, 3)):
        assert (noise * shifted).mean().abs() < 5 / len(flat) ** 0.5
    # Numbers of an atom do not depend on how wide the rows are.
    assert torch.equal(noise[3][:, :7], normal(keys, torch.tensor(3), 7))


@pytest.mark.parametrize("ending", [".traj", ".extxyz"])
def test_ase_reads_the_trajectory_back(potential, tmp_path, ending):
    batch = batch_of(5, 3)
    dynamics = Dynamics(batch, potential, temperature_k=300.0)
    frames = list(dynamics.frames(6, every=2))
    write_trajectory(tmp_path / f"m{{molecule}}{ending}", iter(frames))
    for k in range(2):
        images = ase.io.read(tmp_path / f"m{k}{ending}", ":")
        assert len(images) == 4
        for atoms, frame in zip(images, frames, strict=True):
            positions = frame.batch.split(frame.batch.positions)[k]
            np.testing.assert_allclose(atoms.positions, positions, atol=1e-7)
            velocities = batch.split(frame.velocities)[k]
            np.testing.assert_allclose(atoms.get_velocities() * units.fs, velocities, atol=1e-7)
            assert atoms.get_potential_energy() == pytest.approx(float(frame.potential_energy[k]))
            forces = batch.split(frame.forces)[k]
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-7)
            assert atoms.info["charge"] == 0


def test_parquet_holds_a_row_for_each_molecule_of_each_frame(potential, tmp_path):
    dynamics = Dynamics(batch_of(5, 3), potential, temperature_k=300.0)
    frames = list(dynamics.frames(4, every=2))
    write_trajectory(tmp_path / "all.parquet", iter(frames))
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [(r["step"], r["molecule"]) for r in rows] == [(s, k) for s in (0, 2, 4) for k in (0, 1)]
    last = frames[2].batch.split(frames[2].batch.positions)[1]
    found = np.reshape(rows[5]["positions_angstrom"], (3, 3))
    np.testing.assert_allclose(found, last, atol=1e-5)


def test_a_trajectory_is_refused_by_name(potential, tmp_path):
    dynamics = Dynamics(batch_of(2, 2), potential)
    with pytest.raises(ValueError, match=r"expected an ending of .parquet, .traj, .extxyz"):
        write_trajectory(tmp_path / "x.xtc", dynamics.frames(1, 1))
    with pytest.raises(ValueError, match=r"expected \{molecule\} in the name for 2 molecules"):
        write_trajectory(tmp_path / "x.traj", dynamics.frames(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep_fs": 0.0}, "timestep_fs: expected more than 0, found 0.0"),
        ({"friction_per_ps": -1.0}, "friction_per_ps: expected 0 or more"),
        ({"temperature_k": -5.0}, "temperature_k: expected 0 or more, found -5.0"),
        ({"temperature_k": [1.0, 2.0]}, r"temperature_k: expected one or \(1,\), found \(2,\)"),
        ({"velocities": np.zeros((2, 3))}, r"velocities: expected \(3, 3\), found \(2, 3\)"),
        ({"frozen": [3]}, "frozen: expected indices from 0 to 2, found 3"),
        ({"streams": [1, 2]}, "streams: expected 1 numbers, found 2"),
    ],
)
def test_wrong_arguments_are_refused(potential, options, message):
    with pytest.raises(ValueError, match=message):
        Dynamics(batch_of(3), potential, **options)


def test_an_unknown_element_is_refused_by_name(potential):
    gold = MolBatch.from_arrays([([79], [[0.0, 0.0, 0.0]], 0)])
    with pytest.raises(OutOfDomainError, match="element 79 is unknown"):
        Dynamics(gold, potential)
    with pytest.raises(ValueError, match="batch: expected at least one molecule"):
        Dynamics(MolBatch.from_arrays([]), potential)
