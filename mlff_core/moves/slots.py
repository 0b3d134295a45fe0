"""Slots: where molecules stay on the device while they are relaxed or moved.

A slot is a row of every tensor, padded to the widest molecule, so that each sum over a molecule's
atoms is a sum along a row: its result does not depend on the other rows, and a molecule leaves or
enters by overwriting a row. The flat batch that a potential wants is gathered from the rows, and
its forces are put back, at every step; that costs two index operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import ForceField


@dataclass(frozen=True)
class Molecule:
    """One molecule on the host.

    Attributes:
        index: Its place in the caller's order.
        numbers: Atomic numbers, int64 [n_atoms].
        positions: Å [n_atoms, 3].
        charge: Total charge in e.
        free: Which atoms may move, bool [n_atoms]; None means all.
        given: Where it was before another force field moved it, Å [n_atoms, 3]; None: not moved.
        n_before: Moves made there.
    """

    index: int
    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    free: np.ndarray | None = None
    given: np.ndarray | None = None
    n_before: int = 0

    @property
    def size(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def start(self) -> np.ndarray:
        """Where it was given, Å [n_atoms, 3]."""
        return self.positions if self.given is None else self.given

    def moved(self, positions: np.ndarray, n_steps: int) -> "Molecule":
        """The same elsewhere, after so many moves."""
        return replace(self, positions=positions, given=self.start, n_before=n_steps)

    def restarted(self) -> "Molecule":
        """The same where it was given."""
        return replace(self, positions=self.start, given=None, n_before=0)


def molecules_of(batch: MolBatch, free: np.ndarray) -> list[Molecule]:
    """The molecules of a batch, on the host.

    Args:
        batch: On any device.
        free: Atoms that may move, bool [n_atoms].
    """
    numbers, positions = batch.numbers.cpu().numpy(), batch.positions.cpu().numpy()
    ptr, charges = batch.ptr.tolist(), batch.charge.tolist()
    return [
        Molecule(k, numbers[a:b], positions[a:b], charge, free[a:b])
        for k, (a, b, charge) in enumerate(zip(ptr[:-1], ptr[1:], charges, strict=True))
    ]


def frozen_atoms(frozen: Tensor | np.ndarray | Sequence[int] | None, n_atoms: int) -> np.ndarray:
    """Which atoms stay where they are, bool [n_atoms], from such a mask or from indices.

    Raises:
        TypeError: They are neither a mask nor whole numbers.
        ValueError: The mask has another length, or an index is out of range.
    """
    mask = np.zeros(n_atoms, bool)
    if frozen is None:
        return mask
    given = frozen.cpu().numpy() if isinstance(frozen, Tensor) else np.asarray(frozen)
    if given.dtype == bool:
        if given.shape != (n_atoms,):
            raise ValueError(f"frozen: expected ({n_atoms},), found {given.shape}")
        return given.copy()
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"frozen: expected a mask or indices, found {given.dtype}")
    outside = given[(given < 0) | (given >= n_atoms)]
    if outside.size:
        raise ValueError(f"frozen: expected indices from 0 to {n_atoms - 1}, found {outside[0]}")
    mask[given.astype(np.int64)] = True
    return mask


def free_atoms(frozen: np.ndarray, n_atoms: int) -> np.ndarray | None:
    """Which atoms may move, bool [n_atoms], from the indices of the others; None for all."""
    return None if not len(frozen) else ~frozen_atoms(frozen, n_atoms)


class Rows(NamedTuple):
    """Molecules side by side, one a row, padded to w atoms.

    Attributes:
        numbers: Atomic numbers, 0 beyond the molecule, int64 [n_rows, w].
        positions: Initial positions in Å, 0 beyond the molecule [n_rows, w, 3].
        free: Atoms that may move, False beyond the molecule, bool [n_rows, w].
        sizes: Number of atoms, 0 for an empty row, int64 [n_rows].
        charge: Total charges in e, int64 [n_rows].
    """

    numbers: Tensor
    positions: Tensor
    free: Tensor
    sizes: Tensor
    charge: Tensor

    @classmethod
    def pack(
        cls, molecules: Sequence[Molecule], width: int, device: torch.device, dtype: torch.dtype
    ) -> "Rows":
        """Molecules of at most `width` atoms, sent to the device; none gives no rows."""
        return cls(*to_device_together(arrays_of(molecules, width, dtype), device))

    @classmethod
    def empty(cls, n_rows: int, width: int, device: torch.device, dtype: torch.dtype) -> "Rows":
        """Rows without molecules."""
        return cls(
            numbers=torch.zeros(n_rows, width, dtype=torch.int64, device=device),
            positions=torch.zeros(n_rows, width, 3, dtype=dtype, device=device),
            free=torch.zeros(n_rows, width, dtype=torch.bool, device=device),
            sizes=torch.zeros(n_rows, dtype=torch.int64, device=device),
            charge=torch.zeros(n_rows, dtype=torch.int64, device=device),
        )


def arrays_of(
    molecules: Sequence[Molecule], width: int, dtype: torch.dtype
) -> tuple[np.ndarray, ...]:
    """What `Rows` of molecules of at most `width` atoms hold, on the host."""
    numbers = np.zeros((len(molecules), width), np.int64)
    real = np.float32 if dtype == torch.float32 else np.float64
    positions = np.zeros((len(molecules), width, 3), real)
    free = np.zeros((len(molecules), width), bool)
    for row, molecule in enumerate(molecules):
        numbers[row, : molecule.size] = molecule.numbers
        positions[row, : molecule.size] = molecule.positions
        free[row, : molecule.size] = True if molecule.free is None else molecule.free
    sizes = np.array([molecule.size for molecule in molecules], np.int64)
    charge = np.array([molecule.charge for molecule in molecules], np.int64)
    return numbers, positions, free, sizes, charge


def to_device_together(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays on a device in one transfer, without waiting for what the device is at."""
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    # Each where kernels may read sixteen bytes at once.
    begins = np.cumsum([0, *(-(-array.nbytes // 16) * 16 for array in arrays)]).tolist()
    host = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=True)
    for begin, array in zip(begins, arrays, strict=False):
        place = host.numpy()[begin : begin + array.nbytes]
        place[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    sent = host.to(device, non_blocking=True)
    return [
        sent[begin : begin + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for begin, array in zip(begins, arrays, strict=False)
    ]


def to_device(array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """An array on a device, without waiting for what the device is at."""
    tensor = torch.from_numpy(array).to(dtype)
    if device.type != "cuda":
        return tensor.to(device)
    # From memory that is not pinned the host would copy, and wait.
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfer:
    """A tensor on its way to the host, while the device goes on."""

    def __init__(self, tensor: Tensor):
        """Send a tensor as it is when the device gets here."""
        self._arrived = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = tensor.clone()

    def wait(self) -> Tensor:
        """The tensor, once it is here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


def evaluate_rows(
    rows: Rows, positions: Tensor, active: Tensor, potential: ForceField
) -> tuple[Tensor, Tensor]:
    """Energies in eV, float64 [n_rows], and forces in eV/Å, type of the positions [n_rows, w, 3].

    The host waits for the device, to learn how many atoms there are.

    Args:
        rows: The molecules.
        positions: Where to compute them, Å [n_rows, w, 3]. If they are more precise than the
            potential, it sees coordinates about each molecule's centre, so that little is lost to
            where the molecule is.
        active: Which of them to compute, bool [n_rows]; the others get zeros.
        potential: What computes.
    """
    n_rows, width = rows.numbers.shape
    sizes = torch.where(active, rows.sizes, 0)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    here = torch.arange(width, device=positions.device) < sizes[:, None]  # [n_rows, w]
    mol_idx, within = here.nonzero(as_tuple=True)
    spread = torch.zeros_like(positions)
    if len(mol_idx) == 0:
        return positions.new_zeros(n_rows, dtype=torch.float64), spread
    if positions.dtype != potential.dtype:
        within_molecule = here[..., None]
        centre = torch.where(within_molecule, positions, 0.0).sum(1) / sizes.clamp(min=1)[:, None]
        positions = positions - centre[:, None]
    out = potential.evaluate(
        MolBatch(
            numbers=rows.numbers[mol_idx, within],
            positions=positions[mol_idx, within],
            mol_idx=mol_idx,
            ptr=ptr,
            charge=rows.charge,
        )
    )
    spread[mol_idx, within] = out.forces.to(spread.dtype)
    return out.energy, spread
