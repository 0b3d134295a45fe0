"""MolBatch: molecules of any sizes, flat. The one type that everything else here depends on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlff_core.arrays import arrays_of_atoms, arrays_of_mols, checked_arrays, each

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit import Chem


@dataclass(frozen=True, repr=False, eq=False)
class MolBatch:
    """A ragged batch of molecules, atoms one after the other, no padding.

    Whether the tensors' shapes and types agree is seen when a batch is made; whether `ptr` and
    `mol_idx` agree takes a look at their values, which `check` takes.

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

    def __post_init__(self) -> None:
        for name in ("numbers", "positions", "mol_idx", "ptr", "charge"):
            if not isinstance(found := getattr(self, name), Tensor):
                raise TypeError(f"{name}: expected a tensor, found {type(found).__name__}")
        n_atoms, n_mols = tuple(self.numbers.shape[:1]), tuple(self.charge.shape[:1])
        expected = {
            "numbers": n_atoms or (0,),
            "positions": (*n_atoms, 3),
            "mol_idx": n_atoms,
            "ptr": (n_mols[0] + 1 if n_mols else 1,),
            "charge": n_mols or (0,),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor.shape != shape:
                raise ValueError(f"{name}: expected {shape}, found {tuple(tensor.shape)}")
            if name == "positions":
                if not tensor.dtype.is_floating_point:
                    raise TypeError(f"positions: expected floats, found {tensor.dtype}")
            elif tensor.dtype != torch.int64:
                raise TypeError(f"{name}: expected int64, found {tensor.dtype}")

    def __repr__(self) -> str:
        what = f"{self.n_mols} molecules, {self.n_atoms} atoms"
        return f"MolBatch({what}, {self.positions.dtype}, {self.device})"

    def check(self) -> None:
        """Refuse a batch whose `ptr` and `mol_idx` disagree. Waits for the device.

        Raises:
            ValueError: They do not both say where one molecule ends and the next begins.
        """
        ptr, atom = self.ptr, torch.arange(self.n_atoms, device=self.device)
        ends = ptr[1:].contiguous()
        sound = (
            (ptr[0] == 0)
            & (ptr[-1] == self.n_atoms)
            & (self.sizes >= 0).all()
            & (self.mol_idx == torch.searchsorted(ends, atom, right=True)).all()
        )
        if not sound:
            raise ValueError(
                "ptr and mol_idx: expected mol_idx[ptr[k]:ptr[k + 1]] == k for every molecule k, "
                f"from ptr[0] = 0 to ptr[-1] = {self.n_atoms}, the number of atoms"
            )

    def check_bounds(self) -> None:
        """Refuse a batch on a CPU whose indices point outside of it: compiled code follows them.

        A tenth of what `check` costs, and for those who call `ForceField.evaluate` themselves.

        Raises:
            ValueError: An entry of `mol_idx` or `ptr` is no place in the batch.
        """
        for name, values, end in (
            ("mol_idx", self.mol_idx, self.n_mols - 1),
            ("ptr", self.ptr, self.n_atoms),
        ):
            if not len(values):
                continue
            low, high = (int(bound) for bound in values.aminmax())
            if low < 0 or high > end:
                raise ValueError(f"{name}: expected 0 to {end}, found {low} to {high}")

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
            ValueError: A molecule has no atoms, its arrays disagree in length, or an atomic number
                or its charge is not a whole number.
            TypeError: What is given are no molecules.
        """
        numbers, positions, sizes, charges = [], [], [], []
        for k, molecule in enumerate(each(molecules, "(numbers, positions, charge) of each")):
            z, x, q = checked_arrays(k, molecule)
            numbers.append(z)
            positions.append(x)
            sizes.append(len(z))
            charges.append(q)
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

    @classmethod
    def from_ase(
        cls,
        systems: "Iterable[Atoms]",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "MolBatch":
        """Build a batch from ASE's atoms; total charges are `atoms.info["charge"]`, else 0.

        >>> from ase.build import molecule
        >>> MolBatch.from_ase([molecule("H2O"), molecule("CH4")])
        MolBatch(2 molecules, 8 atoms, torch.float32, cpu)

        Args:
            systems: Molecules in vacuum.
            device: Where the tensors live.
            dtype: Type of the positions.

        Raises:
            OutOfDomainError: One is periodic, has a charge that is not a whole number, or unpaired
                electrons by its `info`.
            TypeError: One is no `Atoms`, or only one is given.
        """
        return cls.from_arrays(arrays_of_atoms(systems), device=device, dtype=dtype)

    @classmethod
    def from_rdkit(
        cls,
        mols: "Iterable[Chem.Mol]",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "MolBatch":
        """Build a batch of every conformer of every molecule, one after the other.

        Args:
            mols: RDKit molecules with all hydrogens, and conformers in 3D.
            device: Where the tensors live.
            dtype: Type of the positions.

        Raises:
            TypeError: One is no molecule, or only one is given.
            ValueError: One has no conformer in 3D, or hydrogens that are not atoms.
        """
        return cls.from_arrays(arrays_of_mols(mols), device=device, dtype=dtype)

    def to_ase(self) -> "list[Atoms]":
        """ASE's atoms of each molecule, its charge in `info["charge"]`."""
        from ase import Atoms

        numbers, positions = (self.split(t.cpu()) for t in (self.numbers, self.positions.double()))
        return [
            Atoms(z.numpy(), x.numpy(), info={"charge": q})
            for z, x, q in zip(numbers, positions, self.charge.tolist(), strict=True)
        ]

    def to_rdkit(self, mols: "Iterable[Chem.Mol]") -> "list[Chem.Mol]":
        """Copies of RDKit molecules with the coordinates of this batch.

        Args:
            mols: Those that `from_rdkit` made the batch of.

        Raises:
            ValueError: They do not have the atoms of this batch.
        """
        from rdkit import Chem

        copies = [Chem.Mol(mol) for mol in mols]
        conformers = [conformer for mol in copies for conformer in mol.GetConformers()]
        numbers = [a.GetAtomicNum() for c in conformers for a in c.GetOwningMol().GetAtoms()]
        if numbers != self.numbers.tolist() or len(conformers) != self.n_mols:
            raise ValueError("mols: expected those that this batch was made of, found other atoms")
        for conformer, x in zip(
            conformers, self.split(self.positions.detach().cpu().double()), strict=True
        ):
            conformer.SetPositions(x.contiguous().numpy())
        return copies

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

    def select(self, molecules: Sequence[int] | Sequence[bool] | np.ndarray | Tensor) -> "MolBatch":
        """A batch of some of the molecules.

        Args:
            molecules: Their places, in the order asked for, negative ones counted from the end; or
                a mask, bool [n_mols].

        Raises:
            IndexError: A place is not there.
            TypeError: They are neither whole numbers nor a mask.
            ValueError: The mask has another length.
        """
        given = (
            molecules if isinstance(molecules, Tensor) else torch.as_tensor(np.asarray(molecules))
        )
        if given.dtype == torch.bool:
            if given.shape != (self.n_mols,):
                raise ValueError(
                    f"molecules: expected a mask ({self.n_mols},), found {tuple(given.shape)}"
                )
            index = given.to(self.device).nonzero()[:, 0]
        elif given.numel() == 0:
            index = torch.zeros(0, dtype=torch.int64, device=self.device)
        elif given.dtype.is_floating_point or given.dtype.is_complex or given.dim() != 1:
            raise TypeError(
                "molecules: expected whole numbers or a mask, one after the other, "
                f"found {given.dtype} {tuple(given.shape)}"
            )
        else:
            index = given.to(self.device, torch.int64)
            outside = index[(index < -self.n_mols) | (index >= self.n_mols)]
            if len(outside):
                raise IndexError(
                    f"molecules: expected places from 0 to {self.n_mols - 1}, found {outside[0]}"
                )
            index = index % self.n_mols
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


def require_batch(found: object) -> None:
    """Refuse what is no batch.

    Raises:
        TypeError: Says what was given, and what makes a batch of it.
    """
    if not isinstance(found, MolBatch):
        raise TypeError(
            f"batch: expected a MolBatch, found {type(found).__name__}; "
            "MolBatch.from_ase, from_rdkit and from_arrays make one, "
            "and mlff_core.screen_mols takes SMILES"
        )
