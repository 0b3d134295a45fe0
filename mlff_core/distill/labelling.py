"""Embedded molecules to labels in the pool: buckets of one width, sampled and labelled at once."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlff_core.distill.embedding import Embedded
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.sampling import KINDS, Driver, SamplingConfig, sample
from mlff_core.distill.second_teacher import SecondTeacher
from mlff_core.distill.teacher import Label, LabelsMolecules
from mlff_core.elements import COVALENT_RADII

#: Widths of padded batches; few, so that one is soon full, and pairs of padding are few.
WIDTHS = (24, 32, 40, 48, 56, 64, 80, 96)


@dataclass(frozen=True)
class LabelConfig:
    """How geometries are labelled, and which labels are left out.

    Attributes:
        atoms_a_call: Size of a teacher's batch, padding included.
        max_force: Largest force on an atom in eV/Å.
        max_force_spread: Largest disagreement of the teacher's members on an atom in eV/Å.
        min_contact: Shortest distance of two atoms, relative to the sum of their covalent radii.
    """

    atoms_a_call: int = 65536
    max_force: float = 15.0
    max_force_spread: float = 1.5
    min_contact: float = 0.7


@dataclass(frozen=True)
class PaddedMolecules:
    """Molecules of similar size, padded to one width.

    Attributes:
        index: Place of each in the list that was embedded, int64 [n].
        numbers: Atomic numbers, 0 on padding, int64 [n, width].
        charge: e, int64 [n].
        positions: Å [n, n_conformers, width, 3].
        axis: Two atoms of a bond that can be turned, int64 [n, 2].
        side: Atoms that turn, bool [n, width].
        ionic: Which have a charge or charged groups, bool [n].
    """

    index: Tensor
    numbers: Tensor
    charge: Tensor
    positions: Tensor
    axis: Tensor
    side: Tensor
    ionic: Tensor


def pad(molecules: list[Embedded], width: int, device: torch.device | str) -> PaddedMolecules:
    """Molecules on the device, padded."""
    n, n_conformers = len(molecules), molecules[0].positions.shape[0]
    numbers = np.zeros((n, width), np.int64)
    positions = np.zeros((n, n_conformers, width, 3), np.float32)
    side = np.zeros((n, width), bool)
    for k, molecule in enumerate(molecules):
        size = len(molecule.numbers)
        numbers[k, :size] = molecule.numbers
        positions[k, :, :size] = molecule.positions
        side[k, :size] = molecule.side
    return PaddedMolecules(
        index=torch.tensor([m.index for m in molecules]),
        numbers=torch.from_numpy(numbers).to(device),
        charge=torch.tensor([m.charge for m in molecules], device=device),
        positions=torch.from_numpy(positions).to(device),
        axis=torch.tensor([m.axis for m in molecules], device=device),
        side=torch.from_numpy(side).to(device),
        ionic=torch.tensor([m.ionic for m in molecules], device=device),
    )


class Buckets:
    """Molecules waiting until there are enough of one width for a full call of the teacher."""

    def __init__(self, atoms_a_call: int, n_conformers: int):
        self.sizes = {w: max(1, atoms_a_call // (w * n_conformers)) for w in WIDTHS}
        self.waiting: dict[int, list[Embedded]] = {w: [] for w in WIDTHS}
        self.too_large = 0

    def add(self, molecules: list[Embedded]) -> None:
        """Put molecules in line."""
        for molecule in molecules:
            width = next((w for w in WIDTHS if w >= len(molecule.numbers)), None)
            if width is None:
                self.too_large += 1
            else:
                self.waiting[width].append(molecule)

    @property
    def full(self) -> bool:
        """Whether a bucket fills a call."""
        return len(self.waiting[self._fullest]) >= self.sizes[self._fullest]

    @property
    def _fullest(self) -> int:
        return max(WIDTHS, key=lambda w: len(self.waiting[w]) / self.sizes[w])

    def take(self, *, partial: bool = False) -> tuple[int, list[Embedded]] | None:
        """The fullest bucket that fills a call, or any non-empty one if `partial`; else None."""
        width = self._fullest
        line, size = self.waiting[width], self.sizes[width]
        if not line or not (self.full or partial):
            return None
        self.waiting[width] = line[size:]
        return width, line[:size]


def label_geometries(
    teacher: LabelsMolecules, numbers: Tensor, positions: Tensor, charge: Tensor
) -> Label:
    """Labels of several geometries of each molecule.

    Args:
        teacher: The ensemble.
        numbers: Atomic numbers, 0 on padding [n, width].
        positions: Å [n, n_geometries, width, 3].
        charge: e [n].

    Returns:
        Energy [n, n_geometries], forces [n, n_geometries, width, 3], spread [n, n_geometries], and
        charges [n, n_geometries, width] if the teacher has some.
    """
    labels = [teacher(numbers, positions[:, k], charge) for k in range(positions.shape[1])]
    charges = [label.charges for label in labels if label.charges is not None]
    return Label(
        torch.stack([label.energy for label in labels], 1),
        torch.stack([label.forces for label in labels], 1),
        torch.stack([label.force_spread for label in labels], 1),
        torch.stack(charges, 1) if charges else None,
    )


def valid_labels(
    numbers: Tensor, positions: Tensor, label: Label, config: LabelConfig, counts: Counter[str]
) -> Tensor:
    """Which labels are fit to learn from [n, n_geometries]; the others are counted by reason.

    Args:
        numbers: Atomic numbers, 0 on padding [n, width].
        positions: Å [n, n_geometries, width, 3].
        label: What the teacher says of them.
        config: The limits.
        counts: Where is counted what is left out.
    """
    finite = label.energy.isfinite() & label.forces.isfinite().all(-1).all(-1)
    strong = label.forces.square().sum(-1).sqrt().amax(-1) > config.max_force
    unsure = label.force_spread > config.max_force_spread
    # Where the teacher lets two atoms collapse, it is wrong, and sure of it.
    close = torch.stack(
        [closest_contact(numbers, x) < config.min_contact for x in positions.unbind(1)], 1
    )
    counts["labels"] += finite.numel()
    counts["not_finite"] += int((~finite).sum())
    counts["atoms_too_close"] += int((finite & close).sum())
    finite = finite & ~close
    counts["force_too_large"] += int((finite & strong).sum())
    counts["teacher_unsure"] += int((finite & ~strong & unsure).sum())
    return finite & ~strong & ~unsure


def fill(
    pool: LabelPool,
    teacher: LabelsMolecules,
    driver: Driver,
    molecules: PaddedMolecules,
    sampling: SamplingConfig,
    config: LabelConfig,
    counts: Counter[str],
    second: SecondTeacher | None = None,
) -> Tensor:
    """Sample geometries of some molecules, label them, and store them; returns their energies.

    Args:
        pool: Where the labels go.
        teacher: The ensemble.
        driver: What drives relaxations and trajectories.
        molecules: The molecules.
        sampling: How geometries are made.
        config: Which labels count.
        counts: Where is counted what was labelled and what was left out.
        second: Whose labels are mixed with the teacher's; None for nobody's.

    Returns:
        Energies in eV, float64 [n, n_conformers * len(KINDS)]; NaN where a label does not count.
    """
    n, n_conformers, width, _ = molecules.positions.shape
    n_labels = n_conformers * len(KINDS)
    repeat = lambda x: x.repeat_interleave(n_conformers, 0)  # noqa: E731
    numbers, charge = repeat(molecules.numbers), repeat(molecules.charge)
    geometries = sample(
        driver,
        numbers,
        molecules.positions.flatten(0, 1),
        charge,
        repeat(molecules.axis),
        repeat(molecules.side),
        sampling,
    )
    # TF32: what the pool is for forgives it; a test's labels are made in full.
    torch.set_float32_matmul_precision("high")
    label = label_geometries(teacher, numbers, geometries, charge)
    torch.set_float32_matmul_precision("highest")
    if second is not None:
        label = second.mixed_into(label, numbers, geometries, charge, repeat(molecules.ionic))
    valid = valid_labels(numbers, geometries, label, config, counts).view(n, -1)
    energy, charges = label.energy.view(n, -1), label.charges
    kept = pool.add(
        molecules.numbers,
        molecules.charge,
        geometries.view(n, n_labels, width, 3).nan_to_num(),
        energy.nan_to_num(),
        label.forces.view(n, n_labels, width, 3).nan_to_num(),
        valid,
        None if charges is None else charges.view(n, n_labels, width).nan_to_num(),
    )
    counts["molecules"] += n
    counts["molecules_left_out"] += n - kept
    return torch.where(valid, energy, torch.nan)


def closest_contact(numbers: Tensor, positions: Tensor) -> Tensor:
    """Shortest distance in each molecule relative to the sum of the covalent radii [n].

    Args:
        numbers: Atomic numbers, 0 on padding [n, width].
        positions: Å [n, width, 3].
    """
    radius = torch.ones(128, device=positions.device)
    for z, value in COVALENT_RADII.items():
        radius[z] = value
    r = radius[numbers]
    real = numbers > 0
    counts = real[:, :, None] & real[:, None, :]
    counts &= ~torch.eye(numbers.shape[1], dtype=torch.bool, device=numbers.device)
    distance = (positions[:, :, None] - positions[:, None]).square().sum(-1).sqrt()
    relative = distance / (r[:, :, None] + r[:, None, :])
    return torch.where(counts, relative, torch.inf).amin((1, 2))
