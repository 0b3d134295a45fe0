"""Relaxation that holds the protonation state: bonds to hydrogen of charged groups do not break.

Each held bond has a flat-bottomed restraint: no force up to `SANE`, beyond it a spring,
E = k/2 (r - r_sane)². A geometry in which no bond has come that far is a minimum of the model
itself; where one has, the energy and the forces that are reported are the model's, without the
spring, and the largest force is what the relaxation went by, with it.

For molecules that lost a proton without it: some in a thousand, so that nothing is gained by a
spring in the kernels of all others. Which hydrogen is held by which atom travels with the atomic
numbers, so that nothing between here and the force field has to know of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes, bucket_of
from mlff_core.chem.held import SANE, stretched
from mlff_core.chem.topology import BROKEN
from mlff_core.elements import COVALENT_RADII
from mlff_core.models.force_field import Domain, ForceField, Outputs
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, free_atoms
from mlff_core.moves.threads import relax_molecules
from mlff_core.status import ConformerStatus

#: Of the spring, in eV/Å²: a pull of 4 eV/Å, more than any proton transfer was seen to have,
#: stretches it by 0.04 Å, and 0.1 Å are left to a broken bond. That of N-H itself is about 40.
STIFFNESS: Final = 100.0
#: Atomic numbers of held hydrogens are 1 + LABEL (place of the other atom in the molecule + 1).
_LABEL: Final = 1024
#: Molecules whose energies without springs are computed in one force call.
_AT_ONCE: Final = 64
_ENDED: Final = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)


class HeldProtons:
    """A force field with springs on the held bonds of labelled molecules (`labelled`)."""

    def __init__(self, force_field: ForceField):
        """Take the force field that knows all else."""
        self.force_field = force_field
        self.name, self.sha256 = force_field.name, force_field.sha256
        self.device, self.dtype = force_field.device, force_field.dtype
        self.cutoff, self.bytes_per_edge = force_field.cutoff, force_field.bytes_per_edge
        self.domain = Domain()  # it would take the labels for elements
        radii = np.full(120, np.nan)
        radii[list(COVALENT_RADII)] = list(COVALENT_RADII.values())
        self._radii = torch.from_numpy(radii).to(self.device)
        self.bare_step: Callable[[MolBatch], Outputs] | None = None
        if force_field.bare_step is not None:
            self.bare_step = partial(self._bare_step, force_field.bare_step)

    def evaluate(self, batch: MolBatch) -> Outputs:
        """Energies and forces with the springs; as `ForceField.evaluate`."""
        numbers, partner = batch.numbers % _LABEL, batch.numbers // _LABEL
        plain = MolBatch(numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
        out = self.force_field.evaluate(plain)
        hydrogen = partner.nonzero()[:, 0]
        heavy = batch.ptr[batch.mol_idx[hydrogen]] + partner[hydrogen] - 1
        energy, force = self._springs(batch.positions, numbers, heavy, hydrogen)
        owner = batch.mol_idx[hydrogen]
        forces = out.forces.index_add(0, hydrogen, force.to(out.forces.dtype))
        forces = forces.index_add(0, heavy, -force.to(out.forces.dtype))
        return replace(out, energy=out.energy.index_add(0, owner, energy), forces=forces)

    def _bare_step(self, step: Callable[[MolBatch], Outputs], batch: MolBatch) -> Outputs:
        # Triton is an extra, which only its backend needs.
        from mlff_core.moves.held_triton import add_springs

        out = step(replace(batch, numbers=batch.numbers % _LABEL))
        add_springs(batch, out, SANE * self._radii, label=_LABEL, stiffness=STIFFNESS)
        return out

    def _springs(
        self, positions: Tensor, numbers: Tensor, heavy: Tensor, hydrogen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy [n_held] of each spring in eV and its force [n_held, 3] on the hydrogen."""
        away = (positions[hydrogen] - positions[heavy]).double()
        length = away.norm(dim=1)
        sane = SANE * (self._radii[numbers[hydrogen]] + self._radii[numbers[heavy]])
        beyond = (length - sane).clamp(min=0.0)
        # Where the spring is slack the length may be zero: the quotient is not looked at.
        direction = away / length.clamp(min=1e-6)[:, None]
        return 0.5 * STIFFNESS * beyond**2, -STIFFNESS * beyond[:, None] * direction


def labelled(numbers: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Atomic numbers that say which hydrogens are held, and by which atoms.

    Args:
        numbers: Atomic numbers [n_atoms].
        held: Heavy atom and hydrogen of each bond, [n_held, 2].
    """
    labels = np.asarray(numbers, np.int64).copy()
    labels[held[:, 1]] += _LABEL * (held[:, 0].astype(np.int64) + 1)
    return labels


def relax_held(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int, np.ndarray]],
    potential: ForceField,
    settings: RelaxSettings = RelaxSettings(),  # noqa: B008, frozen
    frozen: Sequence[np.ndarray] | None = None,
) -> list[Relaxed]:
    """Relax conformers with their held bonds held.

    Args:
        conformers: Atomic numbers [n_atoms], positions in Å [n_atoms, 3], charge, and heavy atom
            and hydrogen of each held bond [n_held, 2].
        potential: What computes energies and forces.
        settings: As in `mlff_core.moves.relax.relax_conformers`; the largest force that is left
            counts the springs.
        frozen: As there.

    Returns:
        One entry a conformer, in the order given; energies and forces are without the springs.
        The status is None of one that did not fit into memory alone.
    """
    # The model Hessian would take the labels for elements.
    settings = replace(settings, model_hessian=False)
    n_slots = batch_sizes(settings.batching, potential.device, potential.bytes_per_edge)
    springs = HeldProtons(potential)
    molecules = [
        Molecule(
            index,
            labelled(numbers, held),
            np.asarray(positions),
            int(charge),
            None if frozen is None else free_atoms(frozen[index], len(numbers)),
        )
        for index, (numbers, positions, charge, held) in enumerate(conformers)
    ]
    if not molecules:
        return []
    # All sizes together: there are few, and what a step costs is the launches, not the atoms.
    together = min(n_slots[bucket_of(molecule.size)] for molecule in molecules)
    ended = sorted(relax_molecules(molecules, springs, settings, together), key=_place)
    of = [(numbers, charge) for numbers, _, charge, _ in conformers]
    return without_springs(ended, of, potential)


def relax_where_protons_moved(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int, np.ndarray]],
    relaxed: Sequence[Relaxed],
    potential: ForceField,
    settings: RelaxSettings = RelaxSettings(),  # noqa: B008, frozen
    frozen: Sequence[np.ndarray] | None = None,
) -> dict[int, Relaxed]:
    """Relax again, held and from the same start, what lost the proton of a charged group.

    Args:
        conformers: As for `relax_held`, and so are the others.
        relaxed: How each of them ended without springs.
        potential: What computes energies and forces.
        settings: How they are relaxed.
        frozen: As for `relax_conformers`.

    Returns:
        Place of a conformer -> how it ended, for those that were relaxed again.
    """
    again = [
        k
        for k, ((numbers, _, _, held), end) in enumerate(zip(conformers, relaxed, strict=True))
        if len(held) and end.status in _ENDED and stretched(end.positions, numbers, held, BROKEN)
    ]
    kept = None if frozen is None else [frozen[k] for k in again]
    ends = relax_held([conformers[k] for k in again], potential, settings, kept)
    return dict(zip(again, ends, strict=True))


def _place(relaxed: Relaxed) -> int:
    return relaxed.index


def without_springs(
    relaxed: Sequence[Relaxed],
    of: Sequence[tuple[np.ndarray, int]],
    potential: ForceField,
) -> list[Relaxed]:
    """Energies and forces of the model alone.

    Args:
        relaxed: How they ended.
        of: Atomic numbers and charge of each.
        potential: The model.
    """
    # Of sizes that do not come again, so that `evaluate` would record graphs in vain.
    compute = potential.bare_step or potential.evaluate
    done = list(relaxed)
    known = [k for k, one in enumerate(done) if one.status is not None]
    for first in range(0, len(known), _AT_ONCE):
        these = known[first : first + _AT_ONCE]
        batch = MolBatch.from_arrays([(of[k][0], done[k].positions, of[k][1]) for k in these])
        out = compute(batch.to(potential.device, potential.dtype))
        forces = out.forces.cpu().numpy().astype(np.float64)
        ends = np.cumsum([len(of[k][0]) for k in these])
        apart = np.split(forces, ends[:-1])
        for k, energy, force in zip(these, out.energy.tolist(), apart, strict=True):
            done[k] = replace(done[k], energy=energy, forces=force)
    return done
