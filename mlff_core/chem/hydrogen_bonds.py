"""Hydrogen bonds within a molecule, closed by turning the bonds between donor and acceptor.

What distance geometry with the torsion preferences of crystals hardly ever finds: two carboxyl
groups beside each other want to be flat, and one of them to have its hydrogen at the far side, all
at once (phthalic acid). Here the bonds on the way from a polar hydrogen to an acceptor are turned
on a grid, rigidly, and the turn is taken that brings the two together without a clash.
"""

from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.stereo import is_axis

#: Elements whose hydrogens are donors.
_DONORS: Final = frozenset([7, 8, 16])
#: Elements with lone pairs that are looked for.
_ACCEPTORS: Final = frozenset([7, 8, 16])
#: Bonds between the hydrogen and its acceptor: rings of 5 to 8 atoms are closed.
_BONDS: Final = range(4, 8)
#: Steps of the grid around a bond.
_STEPS: Final = 18
#: Angles at which an acid's O-H stands, from where the other oxygen is: syn and anti.
_ACID_ANGLES: Final = np.array([0.0, np.pi])
#: Best distance from hydrogen to acceptor in Å, and what is off by one unit of the score.
_DISTANCE: Final = 1.8
_DISTANCE_UNIT: Final = 0.25
#: Longest distance at which the bond counts as closed.
_CLOSED: Final = 2.4
#: Score of a bond of sp2 atoms that is turned out of the plane by a right angle.
_TWIST: Final = 2.0
#: Places of the grid whose clashes are looked at.
_LOOKED_AT: Final = 24
#: Share of the sum of van der Waals radii below which atoms clash, and the score of a full overlap.
_CONTACT: Final = 0.75
_CLASH: Final = 240.0
#: Score above which a turn is not worth a start: some clash of a tenth in two places.
_WORST: Final = 8.0


class _Turn(NamedTuple):
    """A bond that may turn.

    Attributes:
        fixed, moved: Its atoms.
        atoms: Those that turn with `moved`.
        flat: A neighbour at each end if it prefers to be flat, or None.
        acid: The other oxygen if the bond carries the O-H of an acid, or -1.
    """

    fixed: int
    moved: int
    atoms: NDArray[np.intp]
    flat: tuple[int, int] | None
    acid: int


class Pair(NamedTuple):
    """A hydrogen bond that may be closed.

    Attributes:
        hydrogen, donor, acceptor: Its atoms.
        turns: At most two from the hydrogen, and the last one, which turns the acceptor.
        at_acceptor: Whether there is that last one.
    """

    hydrogen: int
    donor: int
    acceptor: int
    turns: tuple[_Turn, ...]
    at_acceptor: bool


class HydrogenBonds:
    """What of a molecule does not depend on its geometry.

    Args:
        mol: With all hydrogens.

    Attributes:
        contact: Å below which two atoms clash, [n_atoms, n_atoms]; 0 for those that are fewer than
            three bonds apart.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        paths = Chem.GetDistanceMatrix(mol)
        ends = sorted(_ends(mol, paths), key=lambda ends: paths[ends])
        made = (_pair(mol, hydrogen, acceptor) for hydrogen, acceptor in ends)
        #: Pairs as they are asked for: most conformers are content with the first.
        self._coming = (pair for pair in made if pair is not None)
        self._made: list[Pair] = []
        table = Chem.GetPeriodicTable()
        radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in atoms_of(mol)])
        self.contact = np.where(paths > 2, _CONTACT * (radii[:, None] + radii), 0.0)

    def pairs(self, first: int = 0) -> Iterator[Pair]:
        """Hydrogen bonds that rotations can close, those of the smallest rings first.

        Args:
            first: The number of the one to begin with; those before it come last.
        """
        if first:
            n = sum(1 for _ in self.pairs())
            yield from (self._made[(first + k) % n] for k in range(n))
            return
        for place in count():
            if place == len(self._made):
                coming = next(self._coming, None)
                if coming is None:
                    return
                self._made.append(coming)
            yield self._made[place]

    def closed(
        self, x: NDArray[np.float64], pair: Pair, kept: Sequence[Pair] = ()
    ) -> NDArray[np.float64] | None:
        """The geometry with one of the bonds closed; None if that cannot be without a clash.

        Args:
            x: Å [n_atoms, 3].
            pair: One of `pairs()`.
            kept: Others that are closed in this geometry and have to stay so.
        """
        angles = [_angles(x, turn) for turn in pair.turns]
        penalties = [_twist(x, turn, grid) for turn, grid in zip(pair.turns, angles, strict=True)]
        scores = _grid(x, pair, angles, penalties)
        places = np.argsort(scores, axis=None)[:_LOOKED_AT]
        places = places[scores.flat[places] < _WORST]
        if not len(places):
            return None
        at = np.unravel_index(places, scores.shape)
        turned = np.repeat(x[None], len(places), axis=0)
        for turn, grid, k in zip(pair.turns, angles, at, strict=True):
            moved = turned[:, turn.atoms]
            turned[:, turn.atoms] = _rotated(moved, x, turn, grid[k, None])
        total = scores[at] + self._clashes(turned, (pair, *kept))
        best = int(total.argmin())
        return turned[best] if total[best] < _WORST else None

    def all_closed(self, x: NDArray[np.float64], first: Pair) -> NDArray[np.float64]:
        """A geometry that has one bond closed, with one of each other hydrogen closed as well."""
        kept = [first]
        for pair in self.pairs():
            if any(pair.hydrogen == one.hydrogen for one in kept):
                continue
            closed = self.closed(x, pair, kept)
            if closed is not None:
                x = closed
                kept.append(pair)
        return x

    def _clashes(self, x: NDArray[np.float64], closed: Sequence[Pair]) -> NDArray[np.float64]:
        """Scores of geometries [n, n_atoms, 3]; infinite where one of the bonds is not closed."""
        contact = self.contact.copy()
        for pair in closed:
            contact[pair.hydrogen, pair.acceptor] = contact[pair.acceptor, pair.hydrogen] = 0.0
        norms = np.square(x).sum(2)
        squares = norms[:, :, None] + norms[:, None] - 2.0 * (x @ x.transpose(0, 2, 1))
        which, i, j = np.nonzero((squares < contact**2) & (contact > 0))
        overlap = 1.0 - np.sqrt(np.clip(squares[which, i, j], 0.0, None)) / contact[i, j]
        scores = 0.5 * _CLASH * np.bincount(which, np.square(overlap), len(x))  # each pair twice
        hydrogens, acceptors = np.array([(p.hydrogen, p.acceptor) for p in closed]).T
        far = np.linalg.norm(x[:, hydrogens] - x[:, acceptors], axis=2) > _CLOSED
        return np.where(far.any(1), np.inf, scores)


def _grid(
    x: NDArray[np.float64],
    pair: Pair,
    angles: Sequence[NDArray[np.float64]],
    penalties: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Scores of all combinations of angles, an axis for each bond that turns."""
    n_donor_side = len(pair.turns) - pair.at_acceptor
    ends = x[[pair.donor, pair.hydrogen]]  # [..., 2, 3]: donor and hydrogen
    for turn, grid in zip(pair.turns[:n_donor_side], angles, strict=False):
        ends = _rotated(ends[..., None, :, :], x, turn, grid[:, None])
    acceptor = x[pair.acceptor]
    if pair.at_acceptor:
        acceptor = _rotated(acceptor, x, pair.turns[-1], angles[-1])
        ends = ends[..., None, :, :]
    towards = acceptor - ends[..., 1, :]
    distance = np.linalg.norm(towards, axis=-1)
    along = ends[..., 1, :] - ends[..., 0, :]
    cosine = (along * towards).sum(-1) / (np.linalg.norm(along, axis=-1) * distance + 1e-9)
    # Best in a line; at 110 degrees, as in rings of five, half a unit is lost.
    scores = np.square((distance - _DISTANCE) / _DISTANCE_UNIT) + np.square(
        np.clip(0.9 - cosine, 0.0, None)
    )
    for k, penalty in enumerate(penalties):
        scores = scores + penalty.reshape([-1 if k == axis else 1 for axis in range(scores.ndim)])
    return scores


def _angles(x: NDArray[np.float64], turn: _Turn) -> NDArray[np.float64]:
    if turn.acid < 0:
        return np.linspace(0.0, 2 * np.pi, _STEPS, endpoint=False)
    others = [int(a) for a in turn.atoms if a != turn.moved]
    return _ACID_ANGLES - _dihedral(x, turn.acid, turn.fixed, turn.moved, others[0])


def _twist(x: NDArray[np.float64], turn: _Turn, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    if turn.flat is None:
        return np.zeros(len(angles))
    now = _dihedral(x, turn.flat[0], turn.fixed, turn.moved, turn.flat[1])
    return _TWIST * np.square(np.sin(angles + now))


def _dihedral(x: NDArray[np.float64], a: int, b: int, c: int, d: int) -> float:
    axis = x[c] - x[b]
    axis = axis / np.linalg.norm(axis)
    first, last = _cross(axis, x[a] - x[b]), _cross(axis, x[d] - x[c])
    return float(np.arctan2(_cross(first, last) @ axis, first @ last))


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `np.cross` of vectors [..., 3], which takes several times as long for a few of them."""
    product = np.empty(np.broadcast_shapes(a.shape, b.shape))
    for k, i, j in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        product[..., k] = a[..., i] * b[..., j] - a[..., j] * b[..., i]
    return product


def _rotated(
    points: NDArray[np.float64], x: NDArray[np.float64], turn: _Turn, angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Points [..., 3] about a bond by angles that their leading axes are broadcast with."""
    axis = x[turn.moved] - x[turn.fixed]
    axis = axis / np.linalg.norm(axis)
    from_axis = points - x[turn.moved]
    along = (from_axis @ axis)[..., None] * axis
    across = from_axis - along
    turned = _cross(axis, across)
    angles = angles[..., None]
    return x[turn.moved] + along + np.cos(angles) * across + np.sin(angles) * turned


def _ends(mol: Chem.Mol, paths: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Hydrogens and acceptors that are as many bonds apart as a hydrogen bond has between."""
    acceptors = [atom.GetIdx() for atom in atoms_of(mol) if _accepts(atom)]
    for donor in atoms_of(mol):
        if donor.GetAtomicNum() not in _DONORS or donor.GetDegree() < 2:
            continue
        hydrogens = [n.GetIdx() for n in donor.GetNeighbors() if n.GetAtomicNum() == 1]
        if donor.GetHybridization() == Chem.HybridizationType.SP3:
            hydrogens = hydrogens[:1]  # the others come to the same place as it turns
        for hydrogen in hydrogens:
            for acceptor in acceptors:
                if int(paths[hydrogen, acceptor]) in _BONDS:
                    yield hydrogen, acceptor


def _pair(mol: Chem.Mol, hydrogen: int, acceptor: int) -> Pair | None:
    path = Chem.GetShortestPath(mol, hydrogen, acceptor)
    steps = [*pairwise(path[1:-1])]  # the bonds at the ends turn nothing
    bonds = [step for step in steps if _turns(mol.GetBondBetweenAtoms(*step))]
    if not bonds:
        return None
    at_acceptor = len(bonds) > 1
    turns = [
        _one(mol, fixed=far, moved=near) for near, far in bonds[: min(2, len(bonds) - at_acceptor)]
    ]
    if at_acceptor:
        near, far = bonds[-1]
        turns.append(_one(mol, fixed=near, moved=far))
    return Pair(hydrogen, path[1], acceptor, tuple(turns), at_acceptor)


def _one(mol: Chem.Mol, fixed: int, moved: int) -> _Turn:
    atoms, waiting = {moved}, [moved]
    while waiting:
        for atom in mol.GetAtomWithIdx(waiting.pop()).GetNeighbors():
            if atom.GetIdx() != fixed and atom.GetIdx() not in atoms:
                atoms.add(atom.GetIdx())
                waiting.append(atom.GetIdx())
    ends = mol.GetAtomWithIdx(fixed), mol.GetAtomWithIdx(moved)
    flat = None
    if all(end.GetHybridization() == Chem.HybridizationType.SP2 for end in ends):
        first, last = (
            next(n.GetIdx() for n in end.GetNeighbors() if n.GetIdx() != other.GetIdx())
            for end, other in (ends, ends[::-1])
        )
        flat = first, last
    acid = -1
    if ends[1].GetAtomicNum() == 8 and len(atoms) == 2:
        acid = next(iter(_doubly_bonded(ends[0])), -1)
    return _Turn(fixed, moved, np.array(sorted(atoms), np.intp), flat, acid)


def _turns(bond: Chem.Bond) -> bool:
    """Whether a bond turns without much ado: no ring, no double bond, no amide, no ester."""
    if bond.GetBondType() != Chem.BondType.SINGLE or bond.IsInRing() or is_axis(bond):
        return False
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    for end, other in (ends, ends[::-1]):
        if end.GetDegree() < 2:
            return False
        if end.GetAtomicNum() == 7 and end.GetHybridization() != Chem.HybridizationType.SP3:
            return False
        is_hydroxyl = any(n.GetAtomicNum() == 1 for n in end.GetNeighbors())
        if end.GetAtomicNum() == 8 and _doubly_bonded(other) and not is_hydroxyl:
            return False
    return True


def _doubly_bonded(atom: Chem.Atom) -> list[int]:
    """Oxygen, sulfur and nitrogen on a double bond to an atom of carbon."""
    if atom.GetAtomicNum() != 6:
        return []
    return [
        bond.GetOtherAtomIdx(atom.GetIdx())
        for bond in atom.GetBonds()
        if bond.GetBondType() == Chem.BondType.DOUBLE
        and bond.GetOtherAtom(atom).GetAtomicNum() in _ACCEPTORS
    ]


def _accepts(atom: Chem.Atom) -> bool:
    """Whether an atom has a lone pair that is worth a bond: no amide nitrogen, no ester oxygen."""
    if atom.GetAtomicNum() not in _ACCEPTORS or atom.GetFormalCharge() > 0:
        return False
    if atom.GetAtomicNum() == 7:
        return atom.GetDegree() < 3 or atom.GetHybridization() == Chem.HybridizationType.SP3
    if atom.GetDegree() > 2 or atom.GetIsAromatic():
        return False
    return atom.GetDegree() == 1 or not any(_doubly_bonded(n) for n in atom.GetNeighbors())
