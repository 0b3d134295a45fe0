"""A student against its teacher on molecules that it never saw.

The test geometries are the teacher's own work: its members drive the relaxations and trajectories,
and its mean labels them, so that every student meets the same test.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.labelling import Buckets, LabelConfig, label_geometries, pad, valid_labels
from mlff_core.distill.sampling import KINDS, Driver, SamplingConfig, sample
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.models.force_field import ForceField
from mlff_core.units import EV_KCAL_MOL

#: Energy in eV [n] and forces in eV/Å [n, width, 3] from numbers, positions, charge, padded.
Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def on_padded(potential: ForceField) -> Evaluate:
    """A force field as a function of padded batches."""

    def evaluate(numbers: Tensor, positions: Tensor, charge: Tensor) -> tuple[Tensor, Tensor]:
        real = numbers > 0
        sizes = real.sum(1)
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        mol_idx = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        out = potential.evaluate(
            MolBatch(numbers[real], positions[real], mol_idx, ptr, charge.long())
        )
        padded = torch.zeros_like(positions)
        padded[real] = out.forces.to(positions.dtype)
        return out.energy, padded

    return evaluate


def driver_of(potential: ForceField) -> Driver:
    """A potential as what drives relaxations and trajectories of padded batches."""
    evaluate = on_padded(potential)

    def drive(numbers: Tensor, x: Tensor, charge: Tensor) -> Tensor:
        # Where the potential errs wildly, molecules must not fly apart.
        return evaluate(numbers, x, charge)[1].nan_to_num().clamp(-30.0, 30.0)

    return drive


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
        spread: How far the teacher's members are apart (`Label.force_spread`), eV/Å
            [n, n_geometries].
        valid: Which labels count, bool [n, n_geometries].
    """

    __test__ = False  # not a test class of pytest

    index: Tensor
    numbers: Tensor
    charge: Tensor
    positions: Tensor
    energy: Tensor
    forces: Tensor
    spread: Tensor
    valid: Tensor


def make_test_blocks(
    teacher: LabelsMolecules,
    molecules: Iterable[Embedded],
    sampling: SamplingConfig,
    labels: LabelConfig,
    counts: Counter[str],
    *,
    seed: int,
    driver: Driver | None = None,
) -> list[TestBlock]:
    """Sample and label every conformer of each molecule, one geometry of each kind.

    Args:
        teacher: Whose labels are meant.
        molecules: With their conformers.
        sampling: How geometries are made.
        labels: Which labels count.
        counts: Where is counted what was labelled and what was left out.
        seed: Of everything random.
        driver: What relaxes and heats the molecules; the teacher's members in turn if None.
    """
    # By size within a width, so that few places of a block are padding.
    chosen = sorted(molecules, key=lambda m: (len(m.numbers), m.index))
    n_conformers = chosen[0].positions.shape[0] if chosen else 1
    buckets = Buckets(labels.atoms_a_call, n_conformers)
    buckets.add(chosen)
    torch.manual_seed(seed)
    blocks: list[TestBlock] = []
    while (taken := buckets.take(partial=True)) is not None:
        chunk = taken[1]
        width = max(len(molecule.numbers) for molecule in chunk)
        padded = pad(chunk, width, teacher.device)
        n = len(chunk)
        numbers = padded.numbers.repeat_interleave(n_conformers, 0)
        charge = padded.charge.repeat_interleave(n_conformers, 0)

        def member(z: Tensor, x: Tensor, q: Tensor, k: int = len(blocks)) -> Tensor:
            return teacher.member(k, z, x, q).forces

        geometries = sample(
            driver or member,
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
                label.force_spread.view(n, -1),
                valid.view(n, -1),
            )
        )
    return blocks


def geometry_errors(blocks: list[TestBlock], evaluate: Evaluate) -> dict[str, np.ndarray]:
    """What student and teacher say of every test geometry, flat.

    Returns:
        For each geometry: molecule, kind, charge, n_atoms, spread (of the teacher's members,
        eV/Å), energy, student_energy (eV); and for each atom: geometry, number, force,
        student_force (eV/Å, [n, 3]).
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
            put("spread", block.spread[valid, kind])
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
    a_geometry = ("molecule", "kind", "charge", "n_atoms", "spread", "energy", "student_energy")
    part = {
        name: values[geometries if name in a_geometry else atoms] for name, values in errors.items()
    }
    part["geometry"] = (geometries.cumsum() - 1)[part["geometry"]]
    return part


def finite_geometries(errors: dict[str, np.ndarray]) -> np.ndarray:
    """For which geometries the student gives numbers, bool [n_geometries]."""
    finite = np.isfinite(errors["student_energy"])
    finite[errors["geometry"][~np.isfinite(errors["student_force"]).all(-1)]] = False
    return finite


def by_kind(errors: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Headline errors of each kind of geometry."""
    return {kind: summarise(subset(errors, errors["kind"] == k)) for k, kind in enumerate(KINDS)}
