"""Polar hydrogens turned to acceptors nearby.

The torsion preferences of ETKDG come from crystals, where an OH finds its partner in the next
molecule. Alone in vacuum it turns to a partner in its own, and distance geometry seldom starts it
there: hardly ever where a carboxyl group would have to turn its hydrogen outwards (oxalic acid).
"""

from collections.abc import Collection, Iterator
from itertools import islice, zip_longest
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.hydrogen_bonds import HydrogenBonds

#: Elements whose single hydrogen turns freely: O, S, Se.
_DONORS: Final = frozenset([8, 16, 34])
#: Those, and N, whose hydrogens close hydrogen bonds as what lies between is turned.
_POLAR: Final = _DONORS | {7}
#: Acceptors, and the longest distance in Å from the hydrogen at which it is turned to one.
_ACCEPTORS: Final = {7: 2.7, 8: 2.7, 9: 2.6, 16: 3.0, 17: 2.9, 34: 3.1, 35: 3.0, 53: 3.2}
#: Bonds between a hydrogen and its acceptor: the least that closes a ring of five.
_FEWEST_BONDS: Final = 4
#: Å that the turned hydrogen keeps from all other atoms.
_CLASH: Final = 1.5


class Rotamers:
    """Starts with hydrogen bonds, made of the conformers of a molecule.

    Args:
        mol: With all hydrogens.
        positions: Its conformers, Å [n_conformers, n_atoms, 3].
    """

    def __init__(self, mol: Chem.Mol, positions: NDArray[np.float64]) -> None:
        self._rotors = _rotors(mol)
        self._acceptors = _acceptors(mol)
        self._paths = Chem.GetDistanceMatrix(mol)
        self._bonds = HydrogenBonds(mol)
        self._embedded = positions

    def turned(self) -> NDArray[np.float64]:
        """The conformers, every second one turned if it has what to turn.

        The conformers 1, 5, 9 ... have all their OH and SH turned to the nearest acceptors. Of
        3, 7, 11 ... a hydrogen bond is closed by turning whatever lies between, another one each
        time; of 7, 15 ... as many more as go with it. Then OH and SH are turned but those of
        acids, which prefer to point to their own C=O. The others stay as they are.
        """
        turned = self._embedded.copy()
        for k in range(1, len(turned), 2):
            x = turned[k]
            if k % 4 == 3:
                x = next(self._closed(x, k // 4, all_of_them=k % 8 == 7), x)
            self._turn_to_nearest(x, acids=k % 4 == 1)
            turned[k] = x
        return turned

    def more(self, n: int, of: Collection[int]) -> list[NDArray[np.float64]]:
        """At most n further starts with hydrogen bonds closed, made of some conformers in turn."""
        waiting = [
            self._closed(self._embedded[k], 0, all_of_them=place % 2 == 0)
            for place, k in enumerate(of)
        ]
        found = (x for around in zip_longest(*waiting) for x in around if x is not None)
        return [*islice(found, n)]

    def _closed(
        self, x: NDArray[np.float64], first: int, *, all_of_them: bool
    ) -> Iterator[NDArray[np.float64]]:
        """Geometries with one hydrogen bond closed each, or with others too, from a number on."""
        for pair in self._bonds.pairs(first):
            closed = self._bonds.closed(x, pair)
            if closed is not None:
                yield self._bonds.all_closed(closed, pair) if all_of_them else closed

    def _turn_to_nearest(self, x: NDArray[np.float64], *, acids: bool) -> None:
        """Turn each OH and SH of a geometry to the nearest acceptor, those of acids if asked."""
        for axis_atom, donor, hydrogen, is_acid in self._rotors:
            if is_acid and not acids:
                continue
            far = [
                (a, limit)
                for a, limit in self._acceptors
                if self._paths[hydrogen, a] >= _FEWEST_BONDS
            ]
            turned = _turned(x, axis_atom, donor, hydrogen, far)
            if turned is not None:
                x[hydrogen] = turned


def may_turn(numbers: NDArray[np.integer], bonds: NDArray[np.integer]) -> bool:
    """Whether a molecule has a hydrogen that turns, or closes a hydrogen bond.

    Args:
        numbers: Atomic numbers, [n_atoms].
        bonds: [n_bonds, 2].
    """
    ends = np.asarray(numbers)[np.asarray(bonds)]
    beside_hydrogen = ends[(ends == 1).any(1)].max(1, initial=0)
    return not _POLAR.isdisjoint(beside_hydrogen.tolist())


def _rotors(mol: Chem.Mol) -> list[tuple[int, int, int, bool]]:
    """Each X-H that turns: the atom that X hangs on, X, the hydrogen, and whether it is an acid."""
    found = []
    for atom in atoms_of(mol):
        if atom.GetAtomicNum() not in _DONORS or atom.GetDegree() != 2:
            continue
        heavy, hydrogen = sorted(atom.GetNeighbors(), key=lambda n: n.GetAtomicNum() == 1)
        if heavy.GetAtomicNum() == 1 or hydrogen.GetAtomicNum() != 1:
            continue
        is_acid = any(
            bond.GetBondType() == Chem.BondType.DOUBLE
            and bond.GetOtherAtom(heavy).GetAtomicNum() in _DONORS
            for bond in heavy.GetBonds()
        )
        found.append((heavy.GetIdx(), atom.GetIdx(), hydrogen.GetIdx(), is_acid))
    return found


def _acceptors(mol: Chem.Mol) -> list[tuple[int, float]]:
    """Atoms with a lone pair to offer, and how near the hydrogen has to come."""
    return [
        (atom.GetIdx(), _ACCEPTORS[atom.GetAtomicNum()])
        for atom in atoms_of(mol)
        if atom.GetAtomicNum() in _ACCEPTORS
        and atom.GetFormalCharge() <= 0
        and not (
            atom.GetAtomicNum() == 7
            and any(b.GetIsConjugated() for b in atom.GetBonds())
            and atom.GetDegree() == 3
        )
    ]


def _turned(
    x: NDArray[np.float64],
    axis_atom: int,
    donor: int,
    hydrogen: int,
    acceptors: list[tuple[int, float]],
) -> NDArray[np.float64] | None:
    """Where the hydrogen comes nearest to an acceptor; None if it reaches none."""
    axis = x[donor] - x[axis_atom]
    axis /= np.linalg.norm(axis)
    bond = x[hydrogen] - x[donor]
    middle = x[donor] + axis * (bond @ axis)
    radius = np.linalg.norm(x[hydrogen] - middle)
    others = np.delete(x, [axis_atom, donor, hydrogen], axis=0)
    best, shortest = None, np.inf
    for acceptor, limit in acceptors:
        towards = x[acceptor] - middle
        towards -= axis * (towards @ axis)
        length = np.linalg.norm(towards)
        if length < 1e-6 or radius < 1e-6:
            continue
        place = middle + towards * (radius / length)
        distance = float(np.linalg.norm(x[acceptor] - place))
        nearest = np.linalg.norm(others - place, axis=1).min()
        if distance < min(limit, shortest) and nearest > _CLASH:
            best, shortest = place, distance
    return best
