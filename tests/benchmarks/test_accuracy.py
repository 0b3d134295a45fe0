"""What the benchmark of accuracy works out."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ase.data import atomic_masses

from benchmarks.accuracy import (
    displaced,
    far,
    labels,
    members,
    nve,
    part,
    teacher,
    torsions,
)
from benchmarks.accuracy.ranking import ranking
from mlff_core.batch import MolBatch
from mlff_core.distill.embedding import embed
from mlff_core.distill.evaluation import on_padded
from mlff_core.distill.teacher import Label
from mlff_core.models.potential import load_potential
from mlff_core.moves.trajectory import Frame
from mlff_core.units import COULOMB_EV_ANGSTROM, TIME_FS

ROOT = Path(__file__).parents[2]


def test_labels_of_other_molecules_are_not_taken_for_these(tmp_path):
    held_out = tmp_path / "held_out.parquet"
    held_out.write_bytes(b"some molecules")
    arguments = argparse.Namespace(held_out=held_out, conformers=2, seed=7, device="cpu")
    assert labels.claim(tmp_path / "labels", arguments, 70, "first") == "first"
    # Another student may be tested where the first one went, and the results say so.
    assert labels.claim(tmp_path / "labels", arguments, 70, "second") == "first"
    with pytest.raises(SystemExit, match="holds labels of"):
        labels.claim(tmp_path / "labels", arguments, 71, "first")
    held_out.write_bytes(b"other molecules")
    with pytest.raises(SystemExit, match="holds labels of"):
        labels.claim(tmp_path / "labels", arguments, 70, "first")


def test_what_is_not_a_number_is_nothing_in_the_file():
    given = {"a": [1.0, float("nan")], "b": {"c": float("nan"), "d": "nan"}}
    assert part.without_nan(given) == {"a": [1.0, None], "b": {"c": None, "d": "nan"}}


def test_drift_is_the_slope_in_percent_of_the_kinetic_energy():
    rng = np.random.default_rng(0)
    spacing_ns = 5e-6
    t = np.arange(4000) * spacing_ns
    slopes = np.array([0.0, 0.02, -0.01])  # eV/ns
    total = slopes[:, None] * t + 1e-4 * rng.normal(size=(3, 4000)) - 1000.0
    kinetic = np.array([1.0, 2.0, 0.5])[:, None] + 0.1 * rng.normal(size=(3, 4000))
    found = nve.drift(total, kinetic, spacing_ns)
    expected = 100 * slopes / np.array([1.0, 2.0, 0.5])
    for value, error, wanted in zip(
        found["drift_of_each"], found["drift_error_of_each"], expected, strict=True
    ):
        assert 0 < error < 0.2
        assert abs(value - wanted) < 4 * error
    assert found["drift_percent_per_ns"] == pytest.approx(100 * 0.01 / 3.5, abs=0.2)


def test_velocity_verlet_keeps_the_shadow_energy_of_a_spring():
    """To the fourth order of the time step, where it keeps the total energy to the second."""
    spring, fs = 25.0, 0.5
    batch = MolBatch.from_arrays([([1], [[0.1, -0.2, 0.3]], 0)] * 2, dtype=torch.float64)
    mass, h = float(atomic_masses[1]), fs / TIME_FS
    x, v = batch.positions, torch.tensor([[0.5, 0.1, -0.3], [0.0, 0.0, 0.0]], dtype=torch.float64)
    frames = []
    for step in range(400):
        total = 0.5 * spring * x.square().sum(1), 0.5 * mass * v.square().sum(1)
        frames.append(
            Frame(step, step * fs, batch.with_positions(x), v / TIME_FS, -spring * x, *total, v[0])
        )
        v = v - 0.5 * h * spring * x / mass
        x = x + h * v
        v = v - 0.5 * h * spring * x / mass
    now = frames[1:-1]
    total = torch.stack([f.potential_energy + f.kinetic_energy for f in now])
    corrections = [nve.shadow_correction(*frames[k : k + 3]) for k in range(len(now))]
    shadow = total + torch.stack(corrections)
    angle = h * (spring / mass) ** 0.5  # of a step; C-H stretches have 0.28
    assert angle == pytest.approx(0.25, abs=0.02)
    assert (total.std(0) > 0.002 * total.mean(0)).all()
    assert (shadow.std(0) < angle**2 / 4 * total.std(0)).all()


def test_ranking_is_perfect_for_what_is_parallel_and_reversed_for_the_negative():
    teacher = np.array([0.0, 0.1, 0.3, 0.25])
    same = ranking(teacher + 7.0, teacher)
    assert (same["spearman"], same["kendall"], same["lowest_found"]) == pytest.approx((1, 1, 1))
    assert (same["pair_mae"], same["mae"]) == pytest.approx((0, 0), abs=1e-9)
    opposite = ranking(-teacher, teacher)
    assert opposite["spearman"] == pytest.approx(-1)
    assert opposite["lowest_found"] == 0
    # One of two conformers off by 1 eV: their difference is off by as much.
    assert ranking(np.array([0.0, 2.0]), np.array([0.0, 1.0]))["pair_mae"] == (
        pytest.approx(23.0605, abs=1e-3)
    )


def test_mirror_images_are_ranked_as_one():
    """Their energies are equal but for rounding, which would put them in any order."""
    teacher = np.array([0.1, 0.0, 0.3, 1e-7])
    for rounding in (-1e-7, 1e-7):
        energy = teacher + np.array([0.0, rounding, 0.0, -rounding])
        found = ranking(energy, teacher)
        assert found["spearman"] == pytest.approx(1)
        assert found["lowest_found"] == 1
    # One of them counts: of three pairs, two are off by 0.1 eV.
    off = ranking(teacher + np.array([0.0, 0.0, 0.1, 0.0]), teacher)
    assert off["pair_mae"] == pytest.approx(23.0605 * 0.2 / 3, abs=1e-3)


def test_rank_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    energy, teacher = np.random.default_rng(0).normal(size=(2, 9))
    found = ranking(energy, teacher)
    assert found["spearman"] == pytest.approx(stats.spearmanr(energy, teacher).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(energy, teacher).statistic)


def test_a_histogram_counts_everything_once():
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=5000)
    found = teacher.histogram(theirs, theirs + 0.01, bins=20)
    counts = np.array([row.split() for row in found["rows"]], dtype=int)
    assert counts.shape == (20, 20)
    assert counts.sum() == 5000
    assert np.trace(counts) > 4000


def test_charges_far_apart_pull_at_each_other_in_their_shell():
    """Two opposite charges 6 Å apart, a third 20 Å from both, and padding in one place with one."""
    x = torch.tensor([[[0.0, 0, 0], [6.0, 0, 0], [3.0, 20.0, 0], [0.0, 0, 0]]])
    q = torch.tensor([[0.5, -0.4, 1.0, 0.0]])
    found = far.coulomb_forces(q, x, torch.tensor([[True, True, True, False]]))
    assert found.shape == (1, 4, 3, len(far.SHELLS) - 1)
    attraction = COULOMB_EV_ANGSTROM * 0.2 / 36.0
    assert found[0, 0, :, 0].tolist() == pytest.approx([attraction, 0.0, 0.0])
    assert found[0, 1, :, 0].tolist() == pytest.approx([-attraction, 0.0, 0.0])
    # The positive one is pushed away from the third, and nothing happens in the other shells.
    assert found[0, 0, 1, 3] < 0 < found[0, 1, 1, 3]
    assert (found[..., 1:3] == 0).all()
    assert (found[0, 3] == 0).all()
    assert torch.allclose(found.sum(1), torch.zeros(()), atol=1e-7)


def test_shares_of_what_was_put_in_are_found():
    rng = np.random.default_rng(5)
    shells = rng.normal(size=(4000, 3, 2)) * np.array([0.02, 0.005])
    molecule = np.repeat(np.arange(200), 20)
    error = shells @ np.array([0.3, 1.0]) + 0.001 * rng.normal(size=(4000, 3))
    found = far.far_shares(error, shells, molecule)
    assert found["share"] == pytest.approx([0.3, 1.0], abs=0.01)
    assert np.abs(np.array(found["share"]) - [0.3, 1.0]) == pytest.approx(
        0.0, abs=4 * max(found["share_error"])
    )
    assert found["rms"] == pytest.approx([20.0, 5.0], rel=0.05)
    assert found["force_mae_without"] < 0.3 * found["force_mae"]
    # A shell that is empty has no share.
    shells[..., 1] = 0.0
    assert far.far_shares(error, shells, molecule)["share"][1] == pytest.approx(0.0)


def test_members_are_compared_with_the_mean_of_the_others():
    """Four members that err independently, and a student that says just what their mean says."""
    rng = np.random.default_rng(3)
    n_geometries, n_atoms = 60, 40
    energy = 0.02 * rng.normal(size=(4, n_geometries))
    force = 0.06 * rng.normal(size=(4, n_geometries * n_atoms, 3))
    errors = {
        "molecule": np.repeat(np.arange(6), 10),
        "kind": np.zeros(n_geometries, int),
        "charge": np.zeros(n_geometries, int),
        "n_atoms": np.full(n_geometries, n_atoms),
        "spread": np.zeros(n_geometries),
        "energy": energy.mean(0),
        "student_energy": energy.mean(0),
        "geometry": np.repeat(np.arange(n_geometries), n_atoms),
        "number": np.full(n_geometries * n_atoms, 6),
        "force": force.mean(0),
        "student_force": force.mean(0),
    }
    opinions = [{"energy": e, "force": f} for e, f in zip(energy, force, strict=True)]
    found = members.disagreement(errors, opinions, np.ones(n_geometries, bool))
    assert found["student"]["force_rmse"] == found["student"]["energy_mae"] == 0
    # Variances add: a member's own and a third of it in the mean of the three others.
    assert found["member"]["force_rmse"] == pytest.approx(60 * (4 / 3) ** 0.5, rel=0.03)
    mean_size = (2 / np.pi * 4 / 3) ** 0.5
    assert found["member"]["force_mae"] == pytest.approx(60 * mean_size, rel=0.03)
    assert found["member"]["energy_mae"] == pytest.approx(23.0605 * 0.02 * mean_size, rel=0.2)
    assert found["standard_error"] == pytest.approx(30, rel=0.03)
    # Ten geometries of a molecule leave little of what errs anew in each.
    assert found["student"]["molecule_energy_largest"] == 0
    assert 0 < found["member"]["molecule_energy_median"] < found["member"]["energy_mae"]
    # Of some geometries only: those where all agree.
    agreed = [{"energy": energy.mean(0), "force": force.mean(0)}] * 4
    some = np.arange(n_geometries) < 7
    found = members.disagreement(errors, agreed, some)
    assert found["member"]["n_geometries"] == 7
    assert found["standard_error"] == pytest.approx(0, abs=1e-9)


def test_what_the_geometries_of_a_molecule_share_is_its_error():
    molecule = np.array([4, 4, 9, 9, 9, 11])
    found = members.between_molecules(molecule, np.array([0.1, 0.3, -0.3, 0.3, 0.0, -1.0]))
    assert found["molecule_energy_median"] == pytest.approx(23.0605 * 0.2, abs=1e-3)
    assert found["molecule_energy_largest"] == pytest.approx(23.0605, abs=1e-3)


def test_molecules_moved_a_little_find_back(tmp_path, monkeypatch):
    monkeypatch.setattr(displaced, "WIDTHS", (0.02, 0.6))
    held_out = tmp_path / "held_out.parquet"
    rows = {"smiles": ["CCO", "c1ccccc1", "CC(=O)[O-]"], "charge": [0, 0, -1]}
    pq.write_table(pa.table(rows), held_out)
    arguments = argparse.Namespace(held_out=held_out, molecules=3, conformers=1, seed=7)
    student = load_potential("default", device="cpu")
    found = displaced.measure(arguments, student)
    assert found["n_molecules"] == 3
    little, much = found["rows"]
    assert little["n_below_minimum"] == 0
    assert little["n_converged"] == little["n_back"] == 3
    # The mean of a harmonic well: half its stiffness, some 40 eV/Å² a coordinate, times 0.02² Å².
    assert 0.005 < little["energy_an_atom_median"] < 0.1
    assert much["energy_an_atom_median"] > 2.0
    assert much["n_back"] < 3


def test_errors_of_a_torsion_profile_are_about_its_mean_and_without_clashes():
    theirs = np.array([3.0, 5.0, 4.0, 90.0, np.nan])
    more = np.array([11.0, 10.0, 12.0, 50.0, np.nan])
    off, profile = torsions.kept(np.array([theirs, theirs + more]))
    assert off.tolist() == [0.0, -1.0, 1.0]
    assert profile.tolist() == [0.0, 2.0, 1.0]
    found = torsions.summary([(None, off, profile), (None, 3 * off, 2 * profile)])
    assert found["energy_mae_kcal_mol"] == pytest.approx(4 / 3)
    assert found["energy_rmse_kcal_mol"] == pytest.approx(np.sqrt(20 / 6))
    assert found["highest_median_kcal_mol"] == 3.0


def test_who_teaches_itself_has_its_own_torsion_profile():
    """That of hydrogen peroxide, which is highest where both hydrogens are on one side."""
    student = load_potential("small", device="cpu")
    peroxide = embed("OO", 0, 1, 1, 10)
    [[theirs, ours]] = torsions.scanned([peroxide], SameTeacher(student), student, 40)
    assert np.abs(ours - theirs).max() < 1e-6
    # 7.4 kcal/mol above the lowest by experiment, 1.1 where they are opposite to each other.
    assert 4.0 < np.ptp(theirs) < 10.0


class SameTeacher:
    """A potential in the teacher's place."""

    def __init__(self, potential):
        self.evaluate = on_padded(potential)

    def member(self, index, numbers, positions, charge):
        return self(numbers, positions, charge)

    def __call__(self, numbers, positions, charge):
        energy, forces = self.evaluate(numbers, positions, charge)
        return Label(energy, forces, torch.zeros_like(energy))


def test_a_stretched_bond_is_seen():
    numbers, x = [6, 1, 1], np.array([[0.0, 0, 0], [1.09, 0, 0], [0, 1.8, 0]])
    batch = MolBatch.from_arrays([(numbers, x, 0), (numbers, x, 0)], dtype=torch.float64)
    bonds = [[(0, 1)], [(0, 1), (0, 2)]]
    (first, second), (_, which) = nve.longest_bonds(batch, bonds)
    assert first < 1.1
    assert second > nve.BROKEN
    assert bonds[1][which] == (0, 2)
    assert nve.bond_name(numbers, (2, 0)) == "C-H"


def test_the_shipped_conformers_are_ranked_and_the_part_is_written(small_model, tmp_path):
    out = tmp_path / "out.json"
    few = tmp_path / "few.npz"
    with np.load(ROOT / "benchmarks/conformers.npz") as stored:
        about = json.loads(str(stored["about"]))
        chosen = [0, len(about["smiles"]) - 1]  # a neutral one and a charged one
        arrays = {
            f"{k}/{name.split('/')[1]}": stored[name]
            for k, old in enumerate(chosen)
            for name in stored.files
            if name.startswith(f"{old}/")
        }
    about["smiles"] = [about["smiles"][k] for k in chosen]
    np.savez(few, about=np.array(json.dumps(about)), **arrays)
    command = [sys.executable, ROOT / "benchmarks/accuracy", "conformers", "--model", small_model,
               "--device", "cpu", "--conformers", few, "--out", out]  # fmt: skip
    # As from a clone: from anywhere, nothing installed.
    elsewhere = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), cwd=tmp_path, env=elsewhere, check=True)
    part = json.loads(out.read_text())["conformers"]
    assert part["n_molecules"] == 2
    assert part["n_charged"] == 1
    assert set(part["all"]) == {"MMFF94", "MMFF94, at its own minima", "GFN2-xTB", "student"}
    assert part["teacher_sha256"] == about["teacher_sha256"]
    assert part["minima"]["n_converged"] <= part["n_conformers"]


def test_parts_about_other_weights_are_not_kept(tmp_path):
    class Student:
        name, sha256 = "one", "1"

    out = tmp_path / "out.json"
    part.add_part(out, "a", {"x": 1}, Student)
    part.add_part(out, "b", {"x": 2}, Student)
    assert set(json.loads(out.read_text())) == {"model", "model_sha256", "a", "b"}
    Student.sha256 = "2"
    part.add_part(out, "b", {"x": 3}, Student)
    assert set(json.loads(out.read_text())) == {"model", "model_sha256", "b"}
