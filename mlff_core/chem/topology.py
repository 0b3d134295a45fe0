"""Did a geometry stay the molecule it was? Judged against the bonds and the stereo of the SMILES.

Two atoms count as bonded by their distance over the sum of their covalent radii (Cordero et al.,
Dalton Trans. 2008, 2832; carbon as sp3). Between "surely bonded" and "surely not" lies a gap, so
that a stretched bond or a strong hydrogen bond is neither.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlff_core.elements import COVALENT_RADII, SYMBOLS

#: Above this a bond is broken. Longest real ones: 1.1 (hexaphenylethane), 1.16 (N->B in nitriles).
BROKEN: Final = 1.3
#: Below this a new bond has formed. Nearest real contacts: 1.23 (across bicyclo[1.1.1]pentane),
#: 1.24 (a hydrogen halfway between two oxygens).
FORMED: Final = 1.15
#: The same between atoms that share a neighbour: 1.08 across a ring of two Si and two O.
FORMED_AROUND_CORNER: Final = 1.03

#: Pairs of atoms in one array operation of `rearrangements`.
_PAIRS_AT_ONCE: Final = 500_000
#: By how many Å² a squared distance of `_too_near` may be off in single precision, and more.
_ROUNDING: Final = 0.01

#: Covalent radii in Å by atomic number; 1.5 where the model has no element anyway.
RADII: Final = np.full(120, 1.5)
RADII[list(COVALENT_RADII)] = list(COVALENT_RADII.values())


def rearranged(
    positions: NDArray[np.floating],
    numbers: NDArray[np.integer],
    bonds: NDArray[np.integer],
    chirality: NDArray[np.integer],
    double_bonds: NDArray[np.integer],
) -> str | None:
    """What is no longer as the SMILES says, in a few words, or None if all is.

    Args:
        positions: Å, [n_atoms, 3]. A coordinate that is not a number counts as a broken bond.
        numbers: Atomic numbers, [n_atoms].
        bonds: [n_bonds, 2], as in `PreparedMolecule`; so are the next two.
        chirality: [n_centres, 4].
        double_bonds: [n_double_bonds, 5].
    """
    x = np.asarray(positions, np.float64)
    radii = RADII[numbers]
    i, j = bonds.T
    bond_lengths = _norm(x[i] - x[j])
    # "not below" rather than "above": NaN is neither.
    broken = np.flatnonzero(~(bond_lengths <= BROKEN * (radii[i] + radii[j])))
    if broken.size:
        first = broken[0]
        return f"bond {_pair(i[first], j[first], numbers)} broken ({bond_lengths[first]:.2f} Å)"
    formed = _formed(x, radii, bonds)
    if formed is not None:
        a, b, distance = formed
        return f"bond {_pair(a, b, numbers)} formed ({distance:.2f} Å)"
    a, b, c, d = x[chirality.T]
    inverted = np.flatnonzero(np.einsum("ni,ni->n", a - d, np.cross(b - d, c - d)) <= 0)
    if inverted.size:
        row = chirality[inverted[0]]
        if _is_axis(row, bonds):
            return f"hindered axis {_pair(row[1], row[2], numbers)} turned over"
        return f"stereocentre {atom_name(_centre(row, bonds), numbers)} inverted"
    flipped = np.flatnonzero(cos_dihedrals(x, double_bonds) * double_bonds[:, 4] <= 0)
    if flipped.size:
        _, a, b, _, sign = double_bonds[flipped[0]]
        return f"double bond {_pair(a, b, numbers)} is {'trans' if sign > 0 else 'cis'} now"
    return None


class Topology(NamedTuple):
    """What a geometry is judged against; the arguments of `rearranged` beside the positions."""

    numbers: NDArray[np.integer]
    bonds: NDArray[np.integer]
    chirality: NDArray[np.integer]
    double_bonds: NDArray[np.integer]


def rearrangements(
    positions: Sequence[NDArray[np.floating]], topologies: Sequence[Topology]
) -> list[str | None]:
    """`rearranged` of many geometries, most of which are expected to have stayed what they were.

    All of them are looked at in a few array operations first, so that a geometry costs some
    microseconds and the interpreter's lock is free for other threads; those that look odd are then
    judged one by one.

    Args:
        positions: Å, [n_atoms, 3] of each geometry.
        topologies: One a geometry.
    """
    answers: list[str | None] = [None] * len(positions)
    sizes = np.array([len(x) for x in positions], np.int64)
    order = np.argsort(sizes, kind="stable")  # alike ones together: `_too_near` pads
    squares = np.cumsum(sizes[order] ** 2)
    # Pieces of a bounded number of pairs keep the arrays of all pairs small.
    first = 0
    while first < len(order):
        base = squares[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(squares, base + _PAIRS_AT_ONCE, "right")))
        piece = order[first:last].tolist()
        odd = _odd([positions[k] for k in piece], [topologies[k] for k in piece])
        for place in np.flatnonzero(odd).tolist():
            k = piece[place]
            answers[k] = rearranged(positions[k], *topologies[k])
        first = last
    return answers


def _odd(positions: Sequence[NDArray], topologies: Sequence[Topology]) -> NDArray[np.bool_]:
    """Which geometries `rearranged` has to look at, [n_geometries]; it may clear them."""
    sizes = np.array([len(x) for x in positions])
    start = np.concatenate([[0], np.cumsum(sizes)])
    x = np.concatenate(positions).astype(np.float64)
    radii = RADII[np.concatenate([t.numbers for t in topologies])]
    odd = np.zeros(len(positions), bool)

    def gathered(name: str, width: int) -> tuple[NDArray, NDArray]:
        """Rows of one kind of all molecules, their atoms counted through, and whose they are."""
        rows = [getattr(t, name) for t in topologies]
        owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        joined = np.concatenate(rows).astype(np.int64)
        joined[:, :width] += start[owner, None]
        return joined, owner

    bonds, owner = gathered("bonds", 2)
    i, j = bonds.T
    odd[owner[~(_norm(x[i] - x[j]) <= BROKEN * (radii[i] + radii[j]))]] = True
    with np.errstate(invalid="ignore", over="ignore"):
        odd |= _too_near(x, radii, start, bonds - start[owner, None], owner)
    centres, owner = gathered("chirality", 4)
    p, q, r, s = x[centres.T]
    odd[owner[~(np.einsum("ni,ni->n", p - s, np.cross(q - s, r - s)) > 0)]] = True
    doubles, owner = gathered("double_bonds", 4)
    odd[owner[~(cos_dihedrals(x, doubles) * doubles[:, 4] > 0)]] = True
    return odd


def _too_near(
    x: NDArray[np.float64],
    radii: NDArray[np.float64],
    start: NDArray[np.integer],
    bonds: NDArray[np.integer],
    owner: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Geometries with atoms as near as bonded ones that are not, and a few that all but have some.

    Args:
        x: Å, of all, one behind the other [n_atoms, 3].
        radii: Å [n_atoms].
        start: Where each begins, and the end.
        bonds: Atoms counted in each [n_bonds, 2].
        owner: Whose bonds these are.
    """
    sizes = np.diff(start)
    n, width = len(sizes), int(sizes.max(initial=0))
    here = np.arange(width) < sizes[:, None]
    spread = np.zeros((n, width, 3), np.float32)
    # About an atom of each: single precision is lost far from the origin.
    spread[here] = x - x[np.repeat(start[:-1], sizes)]
    reach = np.full((n, width), np.nan, np.float32)  # beyond the atoms nothing is near
    reach[here] = FORMED * radii
    squared = np.einsum("nai,nai->na", spread, spread)
    apart = spread @ spread.transpose(0, 2, 1)
    apart *= -2.0
    apart += squared[:, :, None]
    apart += squared[:, None]
    apart[:, np.arange(width), np.arange(width)] = np.inf
    i, j = bonds.T
    apart[owner, i, j] = apart[owner, j, i] = np.inf
    limit = reach[:, :, None] + reach[:, None]
    limit *= limit
    limit += _ROUNDING
    near = np.zeros(n, bool)
    near[np.nonzero(apart < limit)[0]] = True
    return near


def _norm(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.einsum("ni,ni->n", vectors, vectors))


def _formed(
    x: NDArray[np.float64], radii: NDArray[np.float64], bonds: NDArray[np.integer]
) -> tuple[int, int, float] | None:
    """The first pair that is bonded by distance but not in `bonds`, and its distance in Å."""
    n_atoms = len(x)
    squared = np.einsum("ni,ni->n", x, x)
    # |a-b|² from one matrix product; its rounding (1e-12 Å²) does not matter at this accuracy.
    distances = squared[:, None] + squared - 2.0 * (x @ x.T)
    close = distances < (FORMED * (radii[:, None] + radii)) ** 2
    np.fill_diagonal(close, False)
    close[bonds[:, 0], bonds[:, 1]] = False
    close[bonds[:, 1], bonds[:, 0]] = False
    if not close.any():
        return None
    neighbours: list[set[int]] = [set() for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].add(j)
        neighbours[j].add(i)
    for i, j in np.argwhere(np.triu(close)).tolist():
        distance = float(np.linalg.norm(x[i] - x[j]))
        around_corner = not neighbours[i].isdisjoint(neighbours[j])
        if not around_corner or distance < FORMED_AROUND_CORNER * (radii[i] + radii[j]):
            return i, j, distance
    return None


def _centre(around: NDArray[np.integer], bonds: NDArray[np.integer]) -> int:
    """The atom that a row of `chirality` surrounds: the one with most bonds to its atoms."""
    ends, starts = np.isin(bonds, around).T
    return int(np.bincount(np.concatenate([bonds[starts, 0], bonds[ends, 1]])).argmax())


def _is_axis(row: NDArray[np.integer], bonds: NDArray[np.integer]) -> bool:
    """Whether a row of `chirality` runs along a bond instead of around a centre."""
    bonded = {frozenset(bond) for bond in bonds.tolist()}
    first, begin, end, last = row.tolist()
    ways = ((first, begin, last, end), (first, end, last, begin))
    return frozenset((begin, end)) in bonded and any(
        {frozenset((a, b)), frozenset((c, d))} <= bonded for a, b, c, d in ways
    )


def cos_dihedrals(x: NDArray[np.float64], double_bonds: NDArray[np.integer]) -> NDArray[np.float64]:
    """Cosine, times a positive factor, of the dihedral of each row's atoms i j k l; cis is +."""
    i, j, k, last = x[double_bonds[:, :4].T]
    axis = k - j
    return np.einsum("ni,ni->n", np.cross(i - j, axis), np.cross(last - k, axis))


def _pair(a: int, b: int, numbers: NDArray[np.integer]) -> str:
    return f"{atom_name(a, numbers)}-{atom_name(b, numbers)}"


def atom_name(atom: int, numbers: NDArray[np.integer]) -> str:
    """An atom as messages call it: its element and its atom map number in `mapped_smiles`."""
    return f"{SYMBOLS[int(numbers[atom])]}{int(atom) + 1}"
