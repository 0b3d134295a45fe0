"""MolBatch: molecules of any sizes, flat. The one type that everything else here depends on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MolBatch:
    """A ragged batch of molecules, atoms one after the other, no padding.

    Attributes:
        numbers: Atomic numbers, int64 [n_atoms].
        positions: Cartesian coordinates in Å, float [n_atoms, 3].
        mol_idx: The molecule that each atom belongs to, ascending, int64 [n_atoms].
        ptr: Where each molecule's atoms begin, and the end of the last, int64 [n_mols + 1].
        charge: Total charge of each molecule in e, int64 [n_mols].
    """

    numbers: Tensor
    positions: Tensor
    mol_idx: Tensor
    ptr: Tensor
    charge: Tensor

    @classmethod
    def from_arrays(
        cls,
        molecules: Iterable[tuple[Sequence[int] | np.ndarray, Sequence | np.ndarray, int]],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "MolBatch":
        """Build a batch from (numbers [n], positions [n, 3] in Å, charge) of each molecule.

        Args:
            molecules: The molecules; an empty iterable gives an empty batch.
            device: Where the tensors live.
            dtype: Type of the positions.

        Raises:
            ValueError: A molecule has no atoms, its arrays disagree in length, or its charge is
                not a whole number.
        """
        numbers, positions, sizes, charges = [], [], [], []
        for k, (z, x, q) in enumerate(molecules):
            z_array, x_array = np.asarray(z), np.asarray(x, dtype=np.float64)
            if z_array.ndim != 1 or len(z_array) == 0:
                raise ValueError(
                    f"molecule {k}: numbers: expected (n_atoms,) with n_atoms >= 1, "
                    f"found {z_array.shape}"
                )
            if x_array.shape != (len(z_array), 3):
                raise ValueError(
                    f"molecule {k}: positions: expected ({len(z_array)}, 3), found {x_array.shape}"
                )
            if int(q) != q:
                raise ValueError(f"molecule {k}: charge: expected a whole number, found {q!r}")
            numbers.append(z_array.astype(np.int64))
            positions.append(x_array)
            sizes.append(len(z_array))
            charges.append(int(q))
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        flat_numbers = np.concatenate(numbers) if numbers else np.zeros(0, np.int64)
        flat_positions = np.concatenate(positions) if positions else np.zeros((0, 3))
        return cls(
            numbers=torch.from_numpy(flat_numbers).to(device),
            positions=torch.from_numpy(flat_positions).to(device=device, dtype=dtype),
            mol_idx=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device),
            ptr=torch.from_numpy(ptr).to(device),
            charge=torch.tensor(charges, dtype=torch.int64, device=device),
        )

    @property
    def n_mols(self) -> int:
        """Number of molecules."""
        return self.charge.shape[0]

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all molecules together."""
        return self.numbers.shape[0]

    @property
    def sizes(self) -> Tensor:
        """Number of atoms of each molecule, int64 [n_mols]."""
        return self.ptr[1:] - self.ptr[:-1]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.positions.device

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "MolBatch":
        """The same batch on another device, or with positions of another type."""
        return MolBatch(
            numbers=self.numbers.to(device),
            positions=self.positions.to(device=device, dtype=dtype),
            mol_idx=self.mol_idx.to(device),
            ptr=self.ptr.to(device),
            charge=self.charge.to(device),
        )

    def with_positions(self, positions: Tensor) -> "MolBatch":
        """The same molecules at other coordinates [n_atoms, 3] in Å.

        Raises:
            ValueError: The shape differs from that of the present coordinates.
        """
        if positions.shape != self.positions.shape:
            raise ValueError(
                f"positions: expected {tuple(self.positions.shape)}, found {tuple(positions.shape)}"
            )
        return replace(self, positions=positions)

    def select(self, molecules: Sequence[int] | Tensor) -> "MolBatch":
        """A batch of some of the molecules, in the order asked for."""
        index = torch.as_tensor(molecules, dtype=torch.int64, device=self.device)
        sizes = self.sizes[index]
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        mol_idx = torch.repeat_interleave(torch.arange(len(index), device=self.device), sizes)
        within = torch.arange(len(mol_idx), device=self.device) - ptr[mol_idx]
        atoms = self.ptr[index][mol_idx] + within
        return MolBatch(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            mol_idx=mol_idx,
            ptr=ptr,
            charge=self.charge[index],
        )

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut a per-atom tensor [n_atoms, ...] into one tensor a molecule."""
        return list(torch.split(values, self.sizes.tolist()))
