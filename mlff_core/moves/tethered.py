"""Relaxation in which some atoms stay near given places: a flat bottom, and springs beyond it.

Each tethered atom feels nothing within `reach` of its place, and beyond it E = k/2 (r - reach)², as
with ASE's `Hookean`. Energies and forces that are reported are the model's, without the springs.

Which molecule's places are meant travels with the total charge, so that nothing between here and
the force field has to know of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes, bucket_of
from mlff_core.models.force_field import Domain, ForceField, Outputs
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.held import HeldProtons, labelled, without_springs
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule
from mlff_core.moves.threads import relax_molecules

#: Of the springs, eV/Å²: 23 kcal/mol/Å². A pull of 0.1 eV/Å is at its end after 0.1 Å.
STIFFNESS: Final = 1.0
#: Charges are the molecule's own + LABEL times its number.
_LABEL: Final = 64


class Tethered:
    """A force field with springs that hold atoms of labelled molecules (`label`) near places."""

    def __init__(
        self,
        force_field: ForceField,
        places: Sequence[np.ndarray],
        tethered: Sequence[np.ndarray],
        reach: float,
    ):
        """Take the force field that knows all else.

        Args:
            force_field: On any device.
            places: Of the atoms of each molecule, Å [n_atoms, 3].
            tethered: Which of them are held, bool [n_atoms].
            reach: How far these may go freely, Å.
        """
        self.force_field, self.reach = force_field, reach
        self.name, self.sha256 = force_field.name, force_field.sha256
        self.device, self.dtype = force_field.device, force_field.dtype
        self.cutoff, self.bytes_per_edge = force_field.cutoff, force_field.bytes_per_edge
        self.domain = Domain()  # it would take the labels for charges
        #: Springs are operations of PyTorch, each of which may ask for memory.
        self.bare_step: Callable[[MolBatch], Outputs] | None = None
        width = max(map(len, places))
        at, held = np.zeros((len(places), width, 3)), np.zeros((len(places), width), bool)
        for k, (place, which) in enumerate(zip(places, tethered, strict=True)):
            at[k, : len(place)], held[k, : len(place)] = place, which
        self._places = torch.from_numpy(at).to(self.device)
        self._tethered = torch.from_numpy(held).to(self.device)

    def evaluate(self, batch: MolBatch) -> Outputs:
        """Energies and forces with the springs; as `ForceField.evaluate`."""
        molecule, charge = unlabelled(batch.charge)
        # Of sizes that do not come again, so that `evaluate` would record graphs in vain.
        compute = self.force_field.bare_step or self.force_field.evaluate
        out = compute(replace(batch, charge=charge))
        within = torch.arange(batch.n_atoms, device=self.device) - batch.ptr[batch.mol_idx]
        owner = molecule[batch.mol_idx]
        away = batch.positions.double() - self._places[owner, within]
        distance = away.norm(dim=1)
        beyond = (distance - self.reach).clamp(min=0.0) * self._tethered[owner, within]
        # Where the spring is slack the distance may be zero: the quotient is not looked at.
        pull = STIFFNESS * beyond[:, None] * away / distance.clamp(min=1e-6)[:, None]
        energy = out.energy.index_add(0, batch.mol_idx, 0.5 * STIFFNESS * beyond**2)
        return replace(out, energy=energy, forces=out.forces - pull.to(out.forces.dtype))


def label(charge: int, molecule: int) -> int:
    """A charge that says which molecule it belongs to."""
    return charge + _LABEL * molecule


def unlabelled(charge: Tensor) -> tuple[Tensor, Tensor]:
    """The molecule and the charge that labels say, each int64 [n_mols]."""
    molecule = torch.div(charge + _LABEL // 2, _LABEL, rounding_mode="floor")
    return molecule, charge - _LABEL * molecule


def relax_tethered(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int]],
    places: Sequence[np.ndarray],
    tethered: Sequence[np.ndarray],
    potential: ForceField,
    settings: RelaxSettings = RelaxSettings(),  # noqa: B008, frozen
    *,
    reach: float = 0.3,
    held: Sequence[np.ndarray] | None = None,
) -> list[Relaxed]:
    """Relax conformers with some of their atoms near given places.

    Args:
        conformers: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        places: Of the atoms of each, Å [n_atoms, 3].
        tethered: Which of them are held, bool [n_atoms].
        potential: What computes energies and forces.
        settings: As in `mlff_core.moves.relax.relax_conformers`; the largest force that is left
            counts the springs.
        reach: How far held atoms may go freely, Å.
        held: Heavy atom and hydrogen of bonds of each that do not break, [n_held, 2], as in
            `mlff_core.moves.held`; None for none.

    Returns:
        One entry a conformer, in the order given; energies and forces are without the springs.
        The status is None of one that did not fit into memory alone.

    Raises:
        ValueError: The reach is negative.
    """
    if not reach >= 0:
        raise ValueError(f"reach: expected 0 Å or more, found {reach!r}")
    if not conformers:
        return []
    n_slots = batch_sizes(settings.batching, potential.device, potential.bytes_per_edge)
    springs: ForceField = Tethered(potential, places, tethered, reach)
    elements = [np.asarray(numbers) for numbers, _, _ in conformers]
    if held is not None and any(map(len, held)):
        springs = HeldProtons(springs)
        elements = [labelled(z, bonds) for z, bonds in zip(elements, held, strict=True)]
        # It would take the labels for elements.
        settings = replace(settings, model_hessian=False)
    molecules = [
        Molecule(index, z, np.asarray(positions), label(int(charge), index))
        for index, (z, (_, positions, charge)) in enumerate(zip(elements, conformers, strict=True))
    ]
    together = min(n_slots[bucket_of(molecule.size)] for molecule in molecules)
    ended = sorted(
        relax_molecules(molecules, springs, settings, together), key=lambda one: one.index
    )
    return without_springs(ended, [(c[0], c[2]) for c in conformers], potential)
