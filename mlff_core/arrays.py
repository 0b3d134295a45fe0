"""Molecules of ASE, of RDKit and of people as arrays: numbers, positions in Å, total charge."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlff_core.charge import (
    check_spin,
    check_vacuum,
    total_charge,
    warn_of_what_is_not_read,
    whole_number,
)

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit import Chem

#: Atomic numbers int64 [n_atoms], positions float64 [n_atoms, 3] in Å, total charge in e.
Arrays = tuple[np.ndarray, np.ndarray, int]


def arrays_of_atoms(systems: "Iterable[Atoms]") -> Iterator[Arrays]:
    """Of ASE's atoms; the total charge is `info["charge"]`, else 0.

    Raises:
        OutOfDomainError: One is periodic, has a charge that is not a whole number, or unpaired
            electrons by its `info`.
        TypeError: One is no `Atoms`, or only one is given.
    """
    from ase import Atoms

    if isinstance(systems, Atoms):
        raise TypeError("systems: expected a list of Atoms, found one; put it into a list")
    for k, atoms in enumerate(each(systems, "a list of Atoms")):
        if not isinstance(atoms, Atoms):
            raise TypeError(f"molecule {k}: expected Atoms, found {type(atoms).__name__}")
        check_spin(atoms)
        check_vacuum(atoms, k)
        warn_of_what_is_not_read(atoms)
        yield atoms.numbers, atoms.positions, total_charge(atoms)


def arrays_of_mols(mols: "Iterable[Chem.Mol]") -> Iterator[Arrays]:
    """Of every conformer of every RDKit molecule, one after the other.

    Raises:
        TypeError: One is no molecule, or only one is given.
        ValueError: One has no conformer in 3D, or hydrogens that are not atoms.
    """
    from rdkit import Chem

    if isinstance(mols, Chem.Mol):
        raise TypeError("mols: expected a list of molecules, found one; put it into a list")
    for k, mol in enumerate(each(mols, "a list of RDKit molecules")):
        if not isinstance(mol, Chem.Mol):
            raise TypeError(f"molecule {k}: expected a Mol, found {type(mol).__name__}")
        if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
            raise ValueError(
                f"molecule {k}: has hydrogens that are not atoms; Chem.AddHs(mol) before it is "
                "embedded"
            )
        if not mol.GetNumConformers() or not all(c.Is3D() for c in mol.GetConformers()):
            raise ValueError(
                f"molecule {k}: has no geometry in 3D; mlff_core.screen_mols([mol]) finds some"
            )
        numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        charge = Chem.GetFormalCharge(mol)
        for conformer in mol.GetConformers():
            yield numbers, conformer.GetPositions(), charge


def checked_arrays(k: int, molecule: Any) -> Arrays:
    """What someone gave as molecule `k`, as arrays.

    Raises:
        TypeError: It is no numbers, positions and charge.
        ValueError: It has no atoms, its arrays disagree in length, or an atomic number or its
            charge is not a whole number.
    """
    if not isinstance(molecule, (tuple, list)) or len(molecule) != 3:
        raise TypeError(
            "molecules: expected (numbers, positions, charge) of each, "
            f"found {type(molecule).__name__} among them"
        )
    given, x, q = molecule
    numbers, positions = _numeric(k, "numbers", given), _numeric(k, "positions", x)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(
            f"molecule {k}: numbers: expected (n_atoms,) with n_atoms >= 1, found {numbers.shape}"
        )
    if positions.shape != (len(numbers), 3):
        raise ValueError(
            f"molecule {k}: positions: expected ({len(numbers)}, 3), found {positions.shape}"
        )
    if numbers.dtype.kind == "i":
        whole = numbers.astype(np.int64)
    else:
        with np.errstate(invalid="ignore"):
            whole = numbers.astype(np.int64)
        if (whole != numbers).any():
            raise ValueError(f"molecule {k}: numbers: expected whole numbers, found {given!r}")
    return whole, positions.astype(np.float64), whole_number(q, f"molecule {k}: charge")


def each(molecules: Any, expected: str) -> Iterable[Any]:
    """What was given, if it can be gone through.

    Raises:
        TypeError: It cannot; says what was expected.
    """
    if isinstance(molecules, (str, bytes)) or not isinstance(molecules, Iterable):
        raise TypeError(f"molecules: expected {expected}, found {type(molecules).__name__}")
    return molecules


def _numeric(k: int, name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iuf":
        raise TypeError(f"molecule {k}: {name}: expected numbers, found {array.dtype}")
    return array
