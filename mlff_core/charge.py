"""Total charges and spins, as people write them: whole numbers, and what ASE's atoms say."""

import math
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlff_core.errors import OutOfDomainError

if TYPE_CHECKING:
    from ase import Atoms

#: What people write a spin multiplicity under.
SPIN_KEYS: Final = ("spin", "multiplicity", "spin_multiplicity", "mult")


def whole_number(value: Any, what: str) -> int:
    """A charge, or another number without a fraction.

    Raises:
        ValueError: It is none; says what was found.
    """
    if getattr(value, "ndim", None) == 0:  # of an array or a tensor
        value = value.item()
    is_number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not is_number or not math.isfinite(value) or int(value) != value:
        raise ValueError(f"{what}: expected a whole number, found {value!r}")
    return int(value)


def total_charge(atoms: "Atoms") -> int:
    """`atoms.info["charge"]`, 0 where it is not set.

    Raises:
        OutOfDomainError: It is not a whole number.
    """
    return _whole(atoms.info.get("charge", 0), 'total charge, atoms.info["charge"]')


def check_spin(atoms: "Atoms") -> None:
    """Refuse a spin multiplicity other than 1.

    Raises:
        OutOfDomainError: `atoms.info["spin"]`, or what else it may be called, is not 1.
    """
    for key in SPIN_KEYS:
        if key in atoms.info:
            what = f'spin multiplicity, atoms.info["{key}"]'
            if (found := _whole(atoms.info[key], what)) != 1:
                raise OutOfDomainError(
                    f"{what}: expected 1, all electrons paired, found {found}: the model knows "
                    "closed shells only"
                )


def check_vacuum(atoms: "Atoms", k: int) -> None:
    """Refuse a periodic system, the `k`-th of several.

    Raises:
        OutOfDomainError: It is periodic in some direction.
    """
    if any(atoms.pbc):
        raise OutOfDomainError(
            f"molecule {k} is periodic (pbc = {atoms.pbc.tolist()}), the model knows molecules in "
            "vacuum"
        )


def warn_of_what_is_not_read(atoms: "Atoms") -> None:
    """Warn of initial charges and magnetic moments that say something else than is computed."""
    charge, initial = total_charge(atoms), float(atoms.get_initial_charges().sum())
    if abs(initial - charge) > 0.5 and "charge" not in atoms.info:
        warnings.warn(
            f"the initial charges of {atoms.get_chemical_formula()} add up to {initial:+.2f} e and "
            'are not read; its total charge is atoms.info["charge"], which is not set: 0',
            stacklevel=3,
        )
    if np.abs(atoms.get_initial_magnetic_moments()).max(initial=0.0) > 0.0:
        warnings.warn(
            f"the initial magnetic moments of {atoms.get_chemical_formula()} are not read; all "
            "electrons are paired",
            stacklevel=3,
        )


def _whole(value: object, what: str) -> int:
    try:
        return whole_number(value, what)
    except ValueError as error:
        raise OutOfDomainError(str(error)) from error
