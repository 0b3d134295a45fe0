"""A student against its teacher on molecules that it never saw.

The test geometries are the teacher's own work: its members drive the relaxations and trajectories,
and its mean labels them, so that every student meets the same test.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mlff_core.distill.embedding import Embedded
from mlff_core.distill.labelling import Buckets, LabelConfig, label_geometries, pad, valid_labels
from mlff_core.distill.sampling import KINDS, SamplingConfig, fire_state, fire_step, sample
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.units import EV_KCAL_MOL

#: Energy in eV [n] and forces in eV/Å [n, width, 3] from numbers, positions, charge, padded.
Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TestBlock:
    """Labelled geometries of molecules of similar size, padded.

    Attributes:
        index: Place of each molecule in the held-out list, int64 [n].
        numbers: Atomic numbers, 0 on padding, int64 [n, width].
        charge: e, int64 [n].
        positions: Å [n, n_geometries, width, 3].
        energy: eV, float64 [n, n_geometries].
        forces: eV/Å [n, n_geometries, width, 3].
        valid: Which labels count, bool [n, n_geometries].
    """

    __test__ = False  # not a test class of pytest

    index: Tensor
    numbers: Tensor
    charge: Tensor
    positions: Tensor
    energy: Tensor
    forces: Tensor
    valid: Tensor


def make_test_blocks(
    teacher: LabelsMolecules,
    molecules: Iterable[Embedded],
    sampling: SamplingConfig,
    labels: LabelConfig,
    counts: Counter[str],
    *,
    seed: int,
) -> list[TestBlock]:
    """Sample and label every conformer of each molecule, one geometry of each kind."""
    chosen = sorted(molecules, key=lambda m: m.index)
    n_conformers = chosen[0].positions.shape[0] if chosen else 1
    buckets = Buckets(labels.atoms_a_call, n_conformers)
    buckets.add(chosen)
    torch.manual_seed(seed)
    blocks: list[TestBlock] = []
    while (taken := buckets.take(partial=True)) is not None:
        width, chunk = taken
        padded = pad(chunk, width, teacher.device)
        n = len(chunk)
        numbers = padded.numbers.repeat_interleave(n_conformers, 0)
        charge = padded.charge.repeat_interleave(n_conformers, 0)

        def driver(z: Tensor, x: Tensor, q: Tensor, k: int = len(blocks)) -> Tensor:
            return teacher.member(k, z, x, q).forces

        geometries = sample(
            driver,
            numbers,
            padded.positions.flatten(0, 1),
            charge,
            padded.axis.repeat_interleave(n_conformers, 0),
            padded.side.repeat_interleave(n_conformers, 0),
            sampling,
        )
        label = label_geometries(teacher, numbers, geometries, charge)
        valid = valid_labels(numbers, geometries, label, labels, counts)
        blocks.append(
            TestBlock(
                padded.index,
                padded.numbers,
                padded.charge,
                geometries.view(n, -1, width, 3),
                label.energy.view(n, -1),
                label.forces.view(n, -1, width, 3),
                valid.view(n, -1),
            )
        )
    return blocks


def geometry_errors(blocks: list[TestBlock], evaluate: Evaluate) -> dict[str, np.ndarray]:
    """What student and teacher say of every test geometry, flat.

    Returns:
        For each geometry: molecule, kind, charge, n_atoms, energy, student_energy (eV); and for
        each atom: geometry, number, force, student_force (eV/Å, [n, 3]).
    """
    columns: dict[str, list[np.ndarray]] = {}

    def put(name: str, values: Tensor) -> None:
        columns.setdefault(name, []).append(values.cpu().numpy())

    n_geometries = 0
    for block in blocks:
        for kind in range(block.positions.shape[1]):
            x, valid = block.positions[:, kind], block.valid[:, kind]
            energy, forces = evaluate(block.numbers, x, block.charge)
            n = int(valid.sum())
            real = (block.numbers > 0) & valid[:, None]
            put("molecule", block.index.to(valid.device)[valid])
            put("kind", torch.full((n,), kind % len(KINDS)))
            put("charge", block.charge[valid])
            put("n_atoms", (block.numbers > 0).sum(1)[valid])
            put("energy", block.energy[valid, kind])
            put("student_energy", energy[valid])
            place = n_geometries + valid.cumsum(0) - 1
            put("geometry", place[:, None].expand_as(real)[real])
            put("number", block.numbers[real].to(torch.uint8))
            put("force", block.forces[:, kind][real])
            put("student_force", forces[real])
            n_geometries += n
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def summarise(errors: dict[str, np.ndarray]) -> dict[str, float]:
    """Headline errors: forces in meV/Å, energies within one molecule in kcal/mol."""
    difference = 1e3 * (errors["student_force"] - errors["force"])
    out = {
        "n_molecules": float(len(np.unique(errors["molecule"]))),
        "n_geometries": float(len(errors["molecule"])),
        "rms_force": float(np.sqrt(np.square(errors["force"], dtype=np.float64).mean())),
        "force_mae": float(np.abs(difference).mean(dtype=np.float64)),
        "force_rmse": float(np.sqrt(np.square(difference, dtype=np.float64).mean())),
    }
    within = within_molecule(errors["molecule"], errors["student_energy"] - errors["energy"])
    out["energy_mae"] = float(EV_KCAL_MOL * np.abs(within).mean()) if len(within) else float("nan")
    return out


def within_molecule(molecule: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Errors relative to their mean over each molecule that has at least two geometries.

    Scaled by sqrt(n / (n - 1)), so that they do not look smaller where the mean is over few.
    """
    _, place, count = np.unique(molecule, return_inverse=True, return_counts=True)
    mean = np.bincount(place, error) / count
    enough, n = count[place] >= 2, count[place]
    return (error - mean[place])[enough] * np.sqrt(n[enough] / (n[enough] - 1.0))


def subset(errors: dict[str, np.ndarray], geometries: np.ndarray) -> dict[str, np.ndarray]:
    """The errors of some geometries, bool [n_geometries], with their atoms."""
    atoms = geometries[errors["geometry"]]
    a_geometry = ("molecule", "kind", "charge", "n_atoms", "energy", "student_energy")
    return {
        name: values[geometries if name in a_geometry else atoms] for name, values in errors.items()
    }


def by_kind(errors: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Headline errors of each kind of geometry."""
    return {kind: summarise(subset(errors, errors["kind"] == k)) for k, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class RelaxedConformers:
    """Conformers relaxed by the teacher and by a student from the same start.

    Each array has one entry a conformer; conformers that did not converge are left out.

    Attributes:
        molecule: Place of the molecule in the held-out list.
        charge: e.
        energy: The teacher's, at its own minimum, in eV.
        student_energy_there: The student's at the teacher's minimum, in eV.
        student_energy: The student's at its own minimum, in eV.
        rmsd: Between the two minima over all atoms, best superposition, in Å.
        heavy_rmsd: The same over the heavy atoms.
        n_started: How many conformers there were.
    """

    molecule: np.ndarray
    charge: np.ndarray
    energy: np.ndarray
    student_energy_there: np.ndarray
    student_energy: np.ndarray
    rmsd: np.ndarray
    heavy_rmsd: np.ndarray
    n_started: int


def relax_padded(
    evaluate: Evaluate,
    numbers: Tensor,
    positions: Tensor,
    charge: Tensor,
    *,
    fmax: float,
    max_steps: int,
    burst: int = 20,
) -> tuple[Tensor, Tensor]:
    """Minima by FIRE, and which of them converged to forces below `fmax` in eV/Å.

    Once half of the batch has converged, the batch is halved, so that the expensive teacher spends
    its time on the others, and yet meets few shapes that its TorchScript is not yet ready for.
    """
    x = positions.clone()
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    live = torch.arange(len(x), device=x.device)
    state = fire_state(x)
    for step in range(max_steps + 1):
        _, force = evaluate(numbers[live], x[live], charge[live])
        done[live] |= force.square().sum(-1).amax(-1).sqrt() < fmax
        moved = fire_step(x[live], force, state)
        x[live] = torch.where(done[live][:, None, None], x[live], moved)
        if step % burst == burst - 1:
            left = int((~done).sum())
            if left == 0:
                break
            size = len(live)
            while left <= size // 2:
                size //= 2
            if size < len(live):
                chosen = torch.argsort(done[live].byte(), stable=True)[:size]
                live = live[chosen]
                state = {name: value[chosen] for name, value in state.items()}
    return x, done


def compare_minima(
    teacher: LabelsMolecules,
    student: Evaluate,
    molecules: Iterable[Embedded],
    labels: LabelConfig,
    *,
    fmax: float = 0.03,
    max_steps: int = 400,
) -> RelaxedConformers:
    """Relax every conformer with the teacher and with the student, and compare where they end."""
    names = [f.name for f in fields(RelaxedConformers) if f.name != "n_started"]
    columns: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in names}
    chosen = sorted(molecules, key=lambda m: m.index)
    n_conformers = chosen[0].positions.shape[0]
    buckets = Buckets(labels.atoms_a_call, n_conformers)
    buckets.add(chosen)
    n_started = 0

    def teach(numbers: Tensor, x: Tensor, charge: Tensor) -> tuple[Tensor, Tensor]:
        label = teacher(numbers, x, charge)
        return label.energy, label.forces

    while (taken := buckets.take(partial=True)) is not None:
        width, chunk = taken
        padded = pad(chunk, width, teacher.device)
        numbers = padded.numbers.repeat_interleave(n_conformers, 0)
        charge = padded.charge.repeat_interleave(n_conformers, 0)
        molecule = padded.index.repeat_interleave(n_conformers, 0).to(charge.device)
        start = padded.positions.flatten(0, 1)
        n_started += len(start)
        theirs, done = relax_padded(teach, numbers, start, charge, fmax=fmax, max_steps=max_steps)
        ours, also = relax_padded(student, numbers, start, charge, fmax=fmax, max_steps=max_steps)
        both = done & also
        numbers, charge, theirs, ours = numbers[both], charge[both], theirs[both], ours[both]
        if len(numbers) == 0:
            continue
        for name, values in {
            "molecule": molecule[both],
            "charge": charge,
            "energy": teach(numbers, theirs, charge)[0],
            "student_energy_there": student(numbers, theirs, charge)[0],
            "student_energy": student(numbers, ours, charge)[0],
            "rmsd": superposed_rmsd(theirs, ours, numbers > 0),
            "heavy_rmsd": superposed_rmsd(theirs, ours, numbers > 1),
        }.items():
            columns[name].append(values.cpu().numpy())
    return RelaxedConformers(
        **{name: np.concatenate(parts) for name, parts in columns.items()}, n_started=n_started
    )


def superposed_rmsd(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """RMSD after the best rotation and translation in Å [n] (Kabsch, Acta Cryst. A32, 922, 1976).

    Args:
        a: Å [n, width, 3].
        b: Å [n, width, 3].
        counts: Which atoms count, bool [n, width].
    """
    w = counts.double()[..., None]
    size = w.sum(1, keepdim=True).clamp(min=1.0)
    a, b = a.double(), b.double()
    a = (a - (a * w).sum(1, keepdim=True) / size) * w
    b = (b - (b * w).sum(1, keepdim=True) / size) * w
    u, _, v = torch.linalg.svd(a.transpose(1, 2) @ b)
    flip = torch.ones_like(a[:, 0])
    flip[:, 2] = torch.linalg.det(u @ v).sign()
    rotation = (u * flip[:, None, :]) @ v
    return ((a @ rotation - b).square().sum((1, 2)) / size[:, 0, 0]).sqrt()


def join(parts: list[RelaxedConformers]) -> RelaxedConformers:
    """Several comparisons as one."""
    names = [f.name for f in fields(RelaxedConformers) if f.name != "n_started"]
    return RelaxedConformers(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
        n_started=sum(part.n_started for part in parts),
    )


def summarise_minima(
    result: RelaxedConformers, counts: np.ndarray | None = None
) -> dict[str, float]:
    """Headline numbers of the minima, or of some: energies in kcal/mol, lengths in Å."""
    if counts is not None:
        names = [f.name for f in fields(RelaxedConformers) if f.name != "n_started"]
        result = replace(result, **{name: getattr(result, name)[counts] for name in names})

    def quantile(values: np.ndarray, q: float) -> float:
        return float(np.quantile(values, q)) if len(values) else float("nan")

    out = {
        "n_conformers": float(len(result.energy)),
        "n_started": float(result.n_started),
        "rmsd_median": quantile(result.rmsd, 0.5),
        "rmsd_90_percent": quantile(result.rmsd, 0.9),
        "heavy_rmsd_median": quantile(result.heavy_rmsd, 0.5),
    }
    _, place, count = np.unique(result.molecule, return_inverse=True, return_counts=True)
    enough = count[place] >= 3
    out["n_molecules"] = float((count >= 3).sum())
    for name, energy in (
        ("energy_mae", result.student_energy_there),
        ("own_minima_energy_mae", result.student_energy),
    ):
        error = within_molecule(result.molecule[enough], (energy - result.energy)[enough])
        out[name] = float(EV_KCAL_MOL * np.abs(error).mean()) if len(error) else float("nan")
    return out
