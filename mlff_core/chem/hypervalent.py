"""Distance bounds that respect hypervalent centres: SF5, PF6-, IF5, PhI(OAc)2 and their kind.

RDKit's bounds put all neighbours of such a centre at one angle from each other, which nothing can
satisfy: two fluorines come out 1 Å apart. Here the neighbours and the lone pairs of the centre
stand as far from each other as they can (R. J. Gillespie and R. S. Nyholm, Q. Rev. Chem. Soc. 1957,
11, 339): linear, T-shaped, seesaw and trigonal-bipyramidal for five of them, square-planar,
square-pyramidal and octahedral for six, pentagonal-bipyramidal for seven.
"""

import math
from itertools import combinations, permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, DistanceGeometry
from rdkit.Chem import rdDistGeom

from mlff_core.chem.atoms import atoms_of

#: Elements of the third period and below that the models know.
HYPERVALENT: Final = frozenset([14, 15, 16, 17, 33, 34, 35, 53])
#: Pauling's electronegativities: axial places of five go to the highest.
_ELECTRONEGATIVITY: Final = {
    1: 2.20, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16,
    33: 2.18, 34: 2.55, 35: 2.96, 53: 2.66,
}  # fmt: skip
#: Bonds of a higher order go where there is most room, however electronegative the neighbour.
_DOUBLE_BOND: Final = 2.0
#: Two neighbours in one small ring are not opposite to each other.
_RING_PENALTY: Final = 100.0
_SMALL_RING: Final = 7
#: Å by which distances may differ from the ideal ones, between neighbours and further on.
_TOLERANCE: Final = 0.05
_TOLERANCE_1_4: Final = 0.15
_FAR: Final = 1000.0
#: Lower bound in Å for atoms further apart than 1-4.
_APART: Final = 2.0


def _on_circle(n: int) -> list[tuple[float, float, float]]:
    angles = [2.0 * math.pi * k / n for k in range(n)]
    return [(math.cos(a), math.sin(a), 0.0) for a in angles]


_POLES: Final = [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]
#: Places around a centre by their number. Lone pairs take the last ones.
_PLACES: Final = {
    5: np.array([*_POLES, *_on_circle(3)]),
    6: np.array([*_on_circle(4), *_POLES]),
    7: np.array([*_POLES, *_on_circle(5)]),
}


def hypervalent_centres(mol: Chem.Mol) -> list[tuple[int, int]]:
    """Each centre with more than four neighbours and lone pairs: its atom and number of places."""
    found = []
    table = Chem.GetPeriodicTable()
    for atom in atoms_of(mol):
        number = atom.GetAtomicNum()
        if number not in HYPERVALENT or atom.GetIsAromatic():
            continue
        orders = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        free = table.GetNOuterElecs(number) - atom.GetFormalCharge() - orders
        n_places = atom.GetDegree() + max(0, int(free // 2))
        if n_places == 7 and atom.GetDegree() == 6:
            n_places = 6  # AX6E with heavy centres: the lone pair takes no place
        if n_places in _PLACES:
            found.append((atom.GetIdx(), n_places))
    return found


def hypervalent_bounds(mol: Chem.Mol) -> NDArray[np.float64] | None:
    """RDKit's smoothed bounds with the angles of hypervalent centres put right; None without any.

    Args:
        mol: One fragment with all hydrogens.

    Returns:
        Å [n_atoms, n_atoms], upper bounds above the diagonal, lower bounds below it. If the bounds
        contradict each other, RDKit's own.
    """
    centres = hypervalent_centres(mol)
    if not centres:
        return None
    own = rdDistGeom.GetMoleculeBoundsMatrix(mol, set15bounds=False, doTriangleSmoothing=False)
    bounds = own.copy()
    paths = Chem.GetDistanceMatrix(mol)
    for centre, n_places in centres:
        _put_right(mol, bounds, paths, centre, n_places)
    if not DistanceGeometry.DoTriangleSmoothing(bounds):
        return None
    return bounds


def _put_right(
    mol: Chem.Mol, bounds: NDArray[np.float64], paths: NDArray, centre: int, n_places: int
) -> None:
    atom = mol.GetAtomWithIdx(centre)
    around = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
    vectors = _places_of(mol, centre, around, n_places)
    cosines = np.clip(vectors @ vectors.T, -1.0, 1.0)
    behind = {near: _behind(paths, centre, near) for near in around}
    for (a, i), (b, j) in combinations(enumerate(around), 2):
        for k in behind[i]:
            for last in behind[j]:
                if paths[k, last] == paths[k, centre] + paths[centre, last] > 2:
                    _set(bounds, k, last, _APART, _FAR)
        if _share_small_ring(mol, centre, i, j):
            continue
        first, second = _length(bounds, centre, i), _length(bounds, centre, j)
        distance = _third_side(first, second, cosines[a, b])
        _set(bounds, i, j, distance - _TOLERANCE, distance + _TOLERANCE)
        for near, far, cosine in ((i, j, cosines[a, b]), (j, i, cosines[a, b])):
            for end in (n.GetIdx() for n in mol.GetAtomWithIdx(near).GetNeighbors()):
                if end != centre and paths[end, far] == 3:
                    low, high = _one_four(bounds, far, centre, near, end, cosine)
                    _set(bounds, end, far, low - _TOLERANCE_1_4, high + _TOLERANCE_1_4)


def _places_of(mol: Chem.Mol, centre: int, around: list[int], n_places: int) -> NDArray[np.float64]:
    """Unit vectors from the centre to its neighbours, [n_neighbours, 3]: the best of all orders."""
    places = _PLACES[n_places][: len(around)]
    chi = []
    for neighbour in around:
        order = mol.GetBondBetweenAtoms(centre, neighbour).GetBondTypeAsDouble()
        number = mol.GetAtomWithIdx(neighbour).GetAtomicNum()
        chi.append(_ELECTRONEGATIVITY.get(number, 2.5) - (_DOUBLE_BOND if order > 1 else 0.0))
    opposite = places @ places.T < -0.9
    rings = [
        (a, b)
        for a, b in combinations(range(len(around)), 2)
        if _share_small_ring(mol, centre, around[a], around[b])
    ]
    # The poles of five, and in a square pyramid the four places beside the lone pair.
    preferred = 4 if n_places == 6 and len(around) == 5 else 2 if n_places == 5 else 0

    def score(order: tuple[int, ...]) -> float:
        """What is gained with neighbour k at the place order[k]."""
        gain = sum(x for x, place in zip(chi, order, strict=True) if place < preferred)
        return gain - _RING_PENALTY * sum(bool(opposite[order[a], order[b]]) for a, b in rings)

    alike = len(set(chi)) == 1 and not rings
    orders: list[tuple[int, ...]] = (
        [tuple(range(len(around)))] if alike else list(permutations(range(len(around))))
    )
    best: tuple[int, ...] = max(orders, key=score)
    return places[list(best)]


def _share_small_ring(mol: Chem.Mol, centre: int, i: int, j: int) -> bool:
    return any(
        {centre, i, j} <= set(ring) and len(ring) <= _SMALL_RING
        for ring in mol.GetRingInfo().AtomRings()
    )


def _behind(paths: NDArray, centre: int, near: int) -> list[int]:
    """Atoms that are reached from the centre by this neighbour."""
    return [int(k) for k in np.flatnonzero(paths[centre] == paths[near] + 1)]


def _set(bounds: NDArray[np.float64], i: int, j: int, low: float, high: float) -> None:
    i, j = min(i, j), max(i, j)
    bounds[i, j], bounds[j, i] = high, low


def _length(bounds: NDArray[np.float64], i: int, j: int) -> float:
    return float(bounds[i, j] + bounds[j, i]) / 2.0


def _third_side(first: float, second: float, cosine: float) -> float:
    return math.sqrt(max(0.0, first * first + second * second - 2.0 * first * second * cosine))


def _one_four(
    bounds: NDArray[np.float64], i: int, j: int, k: int, last: int, cosine: float
) -> tuple[float, float]:
    """Shortest and longest distance of i and `last` along i-j-k-last, with the angle at j given."""
    a, b, c = _length(bounds, i, j), _length(bounds, j, k), _length(bounds, k, last)
    across = _length(bounds, j, last)
    other = np.clip((b * b + c * c - across * across) / (2.0 * b * c), -1.0, 1.0)
    sine, other_sine = math.sqrt(1.0 - cosine * cosine), math.sqrt(1.0 - other * other)
    along = b - a * cosine - c * other
    near, far = a * sine - c * other_sine, a * sine + c * other_sine
    return math.hypot(along, near), math.hypot(along, far)
