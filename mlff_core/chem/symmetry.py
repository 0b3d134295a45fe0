"""How many rotations leave a geometry what it is: the symmetry number of its rigid rotor.

Every way to exchange equal atoms is tried as a rotation. Those of the heavy atoms and polar
hydrogens are few, and all other hydrogens have to follow; where these alone do not say how a
molecule is turned (methane, ethane), all atoms are exchanged.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.duplicates import sites

#: Å that heavy atoms and polar hydrogens may be off after a rotation (RMSD), and other hydrogens.
_OFF: Final = 0.1
_HYDROGENS_OFF: Final = 0.4
#: Å from a line within which points say nothing of a turn about it.
_ON_A_LINE: Final = 0.1
#: Ways to exchange all atoms of a small molecule that are tried.
_MOST: Final = 1000


def symmetry_number(
    numbers: NDArray[np.integer], positions: NDArray[np.floating], bonds: NDArray[np.integer]
) -> int:
    """Rotations that lay a geometry on itself, at least 1.

    Args:
        numbers: Atomic numbers, [n_atoms].
        positions: Å [n_atoms, 3].
        bonds: [n_bonds, 2].
    """
    z, x = np.asarray(numbers), np.asarray(positions, np.float64)
    these = sites(z, bonds)
    atoms, orders = these.atoms, these.symmetries
    if not _spans(x[atoms]):
        atoms, orders = np.arange(len(z)), _exchanges(z, bonds)
    x = x - x[atoms].mean(0)
    found = 0
    for order in orders:
        turn = _rotation(x[atoms], x[atoms[order]])
        off = x[atoms] @ turn - x[atoms[order]]
        if np.sqrt((off**2).sum(1).mean()) < _OFF and _all_follow(z, x, turn):
            found += 1
    return max(found, 1)


def _spans(x: NDArray[np.float64]) -> bool:
    """Whether points do not lie on a line."""
    return len(x) > 2 and bool(np.linalg.svd(x - x.mean(0), compute_uv=False)[1] > _ON_A_LINE)


def _exchanges(z: NDArray[np.integer], bonds: NDArray[np.integer]) -> NDArray[np.intp]:
    """Orders of all atoms that leave the graph what it is, [n_orders, n_atoms]."""
    graph = Chem.RWMol()
    for number in z.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in np.asarray(bonds).tolist():
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    found = graph.GetSubstructMatches(graph, uniquify=False, maxMatches=_MOST)
    return np.unique(np.array([tuple(range(len(z))), *found], np.intp), axis=0)


def _rotation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The proper rotation that brings the rows of x nearest to those of y (Kabsch)."""
    u, _, v = np.linalg.svd(x.T @ y)
    u[:, -1] *= np.sign(np.linalg.det(u @ v))
    return u @ v


def _all_follow(z: NDArray[np.integer], x: NDArray[np.float64], turn: NDArray[np.float64]) -> bool:
    """Whether each atom comes to a place of an equal one, and no two to the same."""
    away = np.linalg.norm((x @ turn)[:, None] - x[None], axis=-1)
    away[z[:, None] != z[None]] = np.inf
    nearest = away.argmin(1)
    return bool((away.min(1) < _HYDROGENS_OFF).all() and len(np.unique(nearest)) == len(nearest))
