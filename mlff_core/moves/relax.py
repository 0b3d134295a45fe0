"""Batched relaxation: every molecule on its own path, all of them in one force call a step.

Molecules live in slots (see `slots.py`). A step does not wait for the device; on CUDA with the
triton backend it is captured once and replayed. Once a burst of steps the host looks at how the
molecules are doing, in one transfer; those that have ended leave, and waiting ones take their
places (`in_flight.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch, require_batch
from mlff_core.buckets import TABLE, batch_sizes, bucket_of
from mlff_core.models.force_field import ForceField, require_force_field
from mlff_core.moves.ended import Keeps, Relaxed
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, free_atoms, frozen_atoms, molecules_of
from mlff_core.moves.threads import relax_groups, relax_molecules
from mlff_core.status import ConformerStatus

if TYPE_CHECKING:
    from ase import Atoms

#: Molecules are few if they fill less than one in so many slots.
FEW_SHARE = 8


@dataclass(frozen=True, repr=False)
class RelaxResult:
    """How every molecule of a batch ended.

    Attributes:
        batch: The molecules at their final positions.
        energy: eV, float64 [n_mols], there.
        initial_energy: eV, float64 [n_mols].
        forces: eV/Å [n_atoms, 3], there, those on atoms that may not move included.
        max_force: Largest force on an atom that may move, eV/Å [n_mols].
        n_steps: Moves made, int64 [n_mols]; force calls are one more.
        status: One a molecule. One that converged is not above its initial energy; one that met a
            number that is not finite stands where everything still was.
    """

    batch: MolBatch
    energy: Tensor
    initial_energy: Tensor
    forces: Tensor
    max_force: Tensor
    n_steps: Tensor
    status: list[ConformerStatus]

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {word}" for word, n in Counter(map(str, self.status)).items())
        return f"RelaxResult({self.batch!r}: {counts or 'nothing'})"

    def to_ase(self) -> "list[Atoms]":
        """ASE's atoms of each molecule where it ended, energy and forces as their results."""
        from ase.calculators.singlepoint import SinglePointCalculator

        systems = self.batch.to_ase()
        for atoms, energy, forces in zip(
            systems, self.energy.tolist(), self.batch.split(self.forces.cpu().double()), strict=True
        ):
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces.numpy())
        return systems


def relax(
    batch: MolBatch,
    potential: ForceField,
    *,
    optimizer: str = "lbfgs",
    fmax: float = 0.05,
    max_steps: int = 300,
    capacity: int | None = None,
    frozen: Tensor | np.ndarray | Sequence[int] | None = None,
    hydrogens_only: bool = False,
    model_hessian: bool = True,
    n_threads: int | None = None,
    pre_relax: ForceField | None = None,
    progress: Callable[[int], None] | None = None,
) -> RelaxResult:
    """Relax every molecule to its nearest minimum.

    Args:
        batch: Molecules, on any device; an empty batch gives an empty result.
        potential: What computes energies and forces.
        optimizer: "lbfgs", "fire", or "ase-lbfgs", which takes the steps of ASE's LBFGS: slower,
            for energies that are to be ASE's own also where neither is at the bottom.
        fmax: A molecule has converged when no atom that may move feels more, eV/Å.
        max_steps: Moves a molecule may make.
        capacity: Molecules in a force call, the others wait for a place; None for all.
        frozen: Atoms that stay where they are: bool [n_atoms], or their indices in the batch.
        hydrogens_only: Only hydrogens move.
        model_hessian: "lbfgs" begins with a model of each molecule's Hessian, which about halves
            the steps; without, with ASE's constant.
        n_threads: Batches side by side, see `relax_molecules`.
        pre_relax: A cheaper force field to walk with first, see `relax_conformers`.
        progress: Called with the number of molecules that have ended, after each.

    Returns:
        One entry a molecule, on the potential's device. What goes wrong with a molecule is its
        status and leaves the others alone.

    Raises:
        OutOfDomainError: The batch holds an element or a charge that a model does not know, or a
            molecule with an odd number of electrons.
        TypeError: The first argument is no batch or the second no force field.
        ValueError: An argument is out of its range.
        torch.OutOfMemoryError: A molecule does not fit into memory alone.
    """
    require_batch(batch)
    require_force_field(potential)
    settings = RelaxSettings(optimizer, fmax, max_steps, model_hessian)
    for force_field in filter(None, (potential, pre_relax)):
        force_field.domain.check(batch, force_field.name)
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity: expected at least 1 molecule, found {capacity!r}")
    free = ~frozen_atoms(frozen, batch.n_atoms)
    if hydrogens_only:
        free &= batch.numbers.cpu().numpy() == 1
    molecules = molecules_of(batch, free)
    batch = batch.to(potential.device, potential.dtype)
    ended: list[Relaxed] = []
    n_slots = capacity or len(molecules)
    for relaxed in relax_molecules(
        molecules, potential, settings, n_slots, n_threads=n_threads, pre_relax=pre_relax
    ):
        ended.append(relaxed)
        if progress is not None:
            progress(len(ended))
    ended.sort(key=lambda relaxed: relaxed.index)
    status = []
    for relaxed in ended:
        if relaxed.status is None:
            raise torch.OutOfMemoryError(
                f"molecule {relaxed.index} of {len(relaxed.positions)} atoms does not fit into "
                f"the memory of {potential.device}, alone"
            )
        status.append(relaxed.status)

    def atoms(values: list[np.ndarray]) -> Tensor:
        flat = np.concatenate(values) if values else np.zeros((0, 3))
        return torch.from_numpy(flat).to(batch.positions)

    def mols(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=batch.device)

    return RelaxResult(
        batch=batch.with_positions(atoms([r.positions for r in ended])),
        energy=mols([r.energy for r in ended], torch.float64),
        initial_energy=mols([r.initial_energy for r in ended], torch.float64),
        forces=atoms([r.forces for r in ended]),
        max_force=mols([r.max_force for r in ended], batch.positions.dtype),
        n_steps=mols([r.n_steps for r in ended], torch.int64),
        status=status,
    )


def relax_conformers(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int]],
    potential: ForceField,
    settings: RelaxSettings = RelaxSettings(),  # noqa: B008, frozen
    *,
    frozen: Sequence[np.ndarray] | None = None,
    n_threads: int | None = None,
    pre_relax: ForceField | None = None,
    keeps: Keeps | None = None,
    progress: Callable[[int], None] | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> list[Relaxed]:
    """Relax many conformers of mixed sizes, bucket by bucket.

    With `pre_relax`, a cheaper force field, they walk with that one first, to the `pre_fmax` of the
    settings. Energies, forces, the verdict and the initial energy are of `potential` all the same;
    the moves of both walks count. One that ends above where it was given, or as another molecule by
    `keeps`, begins there once more, by `potential` alone.

    Args:
        conformers: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        potential: What computes energies and forces.
        settings: What is asked for.
        frozen: Indices of the atoms of each that stay where they are; None: all of them move.
        n_threads: Batches side by side, see `relax_molecules`.
        pre_relax: On the same device.
        keeps: Which ends after it are of the molecules asked for, see `pre_relax.keeps_bonds`;
            None: all.
        progress: Called with the number of conformers that have ended, after each; an end by
            `pre_relax` counts half.
        turn: Entered while the device is in use.

    Returns:
        One entry a conformer, in the order given. Its status is None if it did not fit into
        memory alone.

    Raises:
        OutOfDomainError: A conformer holds an element or a charge that a model does not know, or an
            odd number of electrons.
        TypeError: The second argument is no force field.
        ValueError: An argument is out of its range, or a conformer's arrays disagree.
    """
    require_force_field(potential)
    sizes = batch_sizes(settings.batching, potential.device, potential.bytes_per_edge)
    batch = MolBatch.from_arrays(conformers)
    for force_field in filter(None, (potential, pre_relax)):
        force_field.domain.check(batch, force_field.name)
    by_bucket: dict[str, list[Molecule]] = {bucket.name: [] for bucket in TABLE}
    for index, (numbers, positions, charge) in enumerate(conformers):
        free = None if frozen is None else free_atoms(frozen[index], len(numbers))
        molecule = Molecule(index, np.asarray(numbers), np.asarray(positions), int(charge), free)
        by_bucket[bucket_of(molecule.size)].append(molecule)
    results: list[Relaxed | None] = [None] * len(conformers)
    n_done = n_halfway = 0
    if settings.batching == "auto" and potential.device.type == "cuda":
        _join_few(by_bucket, sizes)
    groups = [(molecules, sizes[name]) for name, molecules in by_bucket.items()]
    with turn or nullcontext():
        for ended in relax_groups(groups, potential, settings, n_threads, pre_relax, keeps):
            if isinstance(ended, Relaxed):
                results[ended.index] = ended
                n_done += 1
            else:
                n_halfway += 1
            if progress is not None:
                # Who was not handed over has ended all at once.
                progress((max(n_halfway, n_done) + n_done) // 2)
    assert n_done == len(conformers)
    return [relaxed for relaxed in results if relaxed is not None]


def _join_few(by_bucket: dict[str, list[Molecule]], sizes: dict[str, int]) -> None:
    """Let size classes of few molecules walk with the next larger one that has any.

    A batch takes as long as its slowest molecule needs, however few it holds.
    """
    filled = [name for name, molecules in by_bucket.items() if molecules]
    for name, larger in pairwise(filled):
        if len(by_bucket[name]) * FEW_SHARE <= sizes[name]:
            by_bucket[larger] = by_bucket[name] + by_bucket[larger]
            by_bucket[name] = []
