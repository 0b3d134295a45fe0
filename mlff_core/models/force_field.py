"""The port through which everything that moves molecules asks for energies and forces.

The student (`potential.Potential`), the teacher (`distill.teacher.TeacherForceField`) and any ASE
calculator (`ase_force_field.AseForceField`) stand behind it. Relaxation and dynamics know no more
of a model than this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mlff_core.batch import MolBatch, require_batch
from mlff_core.errors import OutOfDomainError


@dataclass(frozen=True, repr=False)
class Outputs:
    """What a force field says of a batch.

    Attributes:
        energy: eV, float64 [n_mols].
        forces: eV/Å [n_atoms, 3].
        charges: Partial charges in e [n_atoms]; None where the force field has none.
    """

    energy: Tensor
    forces: Tensor
    charges: Tensor | None = None

    def __repr__(self) -> str:
        charges = "" if self.charges is None else ", charges"
        what = f"{len(self.energy)} molecules, {len(self.forces)} atoms"
        return f"Outputs({what}: energy, forces{charges}, {self.forces.device})"


@dataclass(frozen=True)
class Domain:
    """Which molecules a force field knows.

    Attributes:
        elements: Atomic numbers; None for all.
        min_charge: Lowest total charge in e; None for any.
        max_charge: Highest total charge in e; None for any.
        closed_shells: Only molecules with an even number of electrons, all of them paired.
    """

    elements: tuple[int, ...] | None = None
    min_charge: int | None = None
    max_charge: int | None = None
    closed_shells: bool = False

    def check(self, batch: MolBatch, name: str) -> None:
        """Refuse what is outside. Reads values, so it waits for the device.

        Args:
            batch: The molecules.
            name: Of the force field, for the message.

        Raises:
            OutOfDomainError: Names the first element or charge that is outside, or a molecule
                with fewer electrons than none, or an odd number of them.
            ValueError: The batch's `ptr` and `mol_idx` do not fit together.
        """
        batch.check()
        if batch.n_mols == 0:
            return
        numbers, charge = batch.numbers, batch.charge
        known = (numbers > 0) & (numbers < 119)
        if self.elements is not None:
            known &= torch.isin(numbers, _on_device(self.elements, numbers.device))
        electrons = (-charge).index_add(0, batch.mol_idx, numbers)
        outside = torch.zeros_like(charge, dtype=torch.bool)
        if self.min_charge is not None:
            outside |= charge < self.min_charge
        if self.max_charge is not None:
            outside |= charge > self.max_charge
        odd = (electrons % 2 != 0) & self.closed_shells
        too_few = electrons < 0
        # One transfer for all four.
        if not torch.stack([(~known).any(), outside.any(), odd.any(), too_few.any()]).any():
            return
        for z in numbers[~known].tolist():
            words = ", ".join(map(str, self.elements or ())) or "1 to 118"
            raise OutOfDomainError(f"element {z} is unknown to model {name}, which knows {words}")
        for q in charge[outside].tolist():
            low, high = (
                "any" if limit is None else f"{limit:+d}"
                for limit in (self.min_charge, self.max_charge)
            )
            raise OutOfDomainError(
                f"total charge {q:+d} is unknown to model {name}, which knows {low} to {high}"
            )
        if too_few.any():
            molecule = int(too_few.nonzero()[0])
            raise OutOfDomainError(
                f"molecule {molecule} has fewer electrons than none at a total charge of "
                f"{int(charge[molecule]):+d}"
            )
        molecule = int(odd.nonzero()[0])
        raise OutOfDomainError(
            f"molecule {molecule} has {int(electrons[molecule])} electrons at a total charge of "
            f"{int(charge[molecule]):+d}, an odd number: model {name} knows closed shells only; "
            "radicals are outside, and an ion needs its charge"
        )


@cache
def _on_device(elements: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(elements, dtype=torch.int64, device=device)


@runtime_checkable
class ForceField(Protocol):
    """Energies and forces of molecules in vacuum.

    Attributes:
        name: Of the model, for people.
        sha256: Of the model's file; empty where there is none.
        device: Where it computes, and where the batches that it is given are.
        dtype: Of the positions that it computes in.
        domain: Which molecules it knows.
        cutoff: Å beyond which atoms do not feel each other; infinite where there is none.
        bytes_per_edge: Memory that a pair of atoms within the cutoff takes, for `buckets`.
        bare_step: `evaluate` as launches on a CUDA device that are the same whatever the values
            are, and that never wait for the device, so that a CUDA graph can hold them. Takes
            padding: atoms from `ptr[-1]` on get forces that nobody reads. None where it has none.
    """

    name: str
    sha256: str
    device: torch.device
    dtype: torch.dtype
    domain: Domain
    cutoff: float
    bytes_per_edge: int
    bare_step: Callable[[MolBatch], Outputs] | None

    def evaluate(self, batch: MolBatch) -> Outputs:
        """Energies and forces, unchecked; the batch is on the device.

        Positions may be more precise than `dtype`. A molecule that cannot be computed gets NaN and
        leaves its neighbours in the batch alone. May be called by several threads at once.
        """


@runtime_checkable
class HasCoarse(Protocol):
    """A force field that may bring a quicker one along, near enough to it to walk to a minimum.

    Attributes:
        coarse: The quicker one, on the same device; None where there is none.
        coarse_error: How far its forces may be off, eV/Å.
    """

    coarse: ForceField | None
    coarse_error: float


def evaluate_checked(force_field: ForceField, batch: MolBatch) -> Outputs:
    """Energies and forces of a batch on any device; none of an empty one.

    Raises:
        OutOfDomainError: The batch holds what the force field does not know.
        TypeError: It is no batch.
        ValueError: Its `ptr` and `mol_idx` do not fit together.
    """
    require_batch(batch)
    batch = batch.to(force_field.device, force_field.dtype)
    if batch.n_mols == 0:
        energy = torch.zeros(0, dtype=torch.float64, device=force_field.device)
        return Outputs(energy, torch.zeros_like(batch.positions))
    force_field.domain.check(batch, force_field.name)
    return force_field.evaluate(batch)


def require_force_field(found: object) -> None:
    """Refuse what is no force field.

    Raises:
        TypeError: Says what was given, and what would do.
    """
    if not isinstance(found, ForceField):
        raise TypeError(
            f"potential: expected a ForceField, found {type(found).__name__}; "
            "load_potential(...) gives one, AseForceField(calculator) makes one of any ASE "
            "calculator"
        )
