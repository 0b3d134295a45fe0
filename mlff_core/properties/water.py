"""Water around a conformer: the energy that it gives, by GFN2-xTB with ALPB, single points.

E(ALPB water) - E(vacuum) of the same geometry, which is not relaxed in water. tblite, an extra,
computes both (C. Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652; S. Ehlert et al.,
ibid. 2021, 17, 4250). Measured against hydration free energies in docs/chemistry.md.
"""

from importlib import metadata
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.units import BOHR_ANGSTROM, EV_KCAL_MOL, HARTREE_EV

METHOD: Final = "GFN2-xTB"
SOLVENT: Final = "water"
#: Bytes of stack: tblite keeps matrices there.
_STACK: Final = 512 * 2**20


def require_tblite() -> str:
    """The version of tblite.

    Raises:
        ValueError: It is not installed; says how to get it.
    """
    try:
        import tblite.interface  # noqa: F401
    except ImportError as error:
        raise ValueError(f'solvent water: {error}: pip install "mlff-screen[solvent]"') from error
    return metadata.version("tblite")


def described() -> str:
    """The model of water and what computes it, as footers and manifests say it."""
    return f"{SOLVENT}, {METHOD} with ALPB, tblite {require_tblite()}"


def solvation_kcal_mol(
    numbers: NDArray[np.integer], positions: NDArray[np.floating], charge: int
) -> float:
    """Free energy of solvation in water at a geometry, kcal/mol; 1 M gas to 1 M solution.

    Args:
        numbers: Atomic numbers, [n_atoms].
        positions: Å [n_atoms, 3].
        charge: Total charge in e.

    Raises:
        RuntimeError: The density did not converge, or the geometry is none.
    """
    from tblite.interface import Calculator

    bohr = np.asarray(positions, np.float64) / BOHR_ANGSTROM
    calculator = Calculator(METHOD, np.asarray(numbers, np.int32), bohr, charge=float(charge))
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    vacuum = float(result.get("energy"))
    calculator.add("alpb-solvation", SOLVENT)
    # Begins with the density of the vacuum, in whose place it puts that in water.
    hartree = float(calculator.singlepoint(result).get("energy")) - vacuum
    return hartree * HARTREE_EV * EV_KCAL_MOL


def solvate(
    number: int,
    name: None,
    smiles: str,
    numbers: NDArray[np.integer],
    positions: NDArray[np.floating],
    charge: int,
    settings: Any,
) -> float | str:
    """What a worker of a pool runs: the energy, or in words why there is none.

    The first three arguments and `settings` are the pool's.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    try:
        found = solvation_kcal_mol(numbers, positions, charge)
    except Exception as error:  # the conformer's fate, not the shard's
        return f"{type(error).__name__}: {error}"
    return found if np.isfinite(found) else "no finite energy"
