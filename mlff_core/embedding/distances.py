"""Lengths of bonds and distances across angles as the student has them, by the atoms they join.

RDKit's bounds of such near distances are a force field's (UFF) with some tolerance. What the
student's minima differ from their middles by depends on little more than the elements and numbers
of neighbours of the atoms involved and on the distance itself, so a table of mean differences
brings starting geometries much nearer to the minima. `benchmarks/embedding/calibrate.py` makes it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.constraints import EmbeddingConstraints

#: Bounds further apart than this in Å do not mean one distance.
_WIDEST: Final = 0.25
#: Distances of one kind are told apart in steps of this many Å: bonds, and across angles.
_STEPS: Final = (0.03, 0.05)
#: Distances that an entry of the table must come from.
MIN_COUNT: Final = 5


@dataclass(frozen=True)
class NearPairs:
    """The bonded pairs, and those across one angle, whose distance the bounds fix.

    Attributes:
        i: Lower atom of each pair, counted through all molecules, int64 [n_pairs].
        j: The higher one.
        owner: Molecule of each, int64 [n_pairs].
        key: What decides the distance, int64 [n_pairs].
        middle: Between its bounds, Å [n_pairs].
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    owner: NDArray[np.int64]
    key: NDArray[np.int64]
    middle: NDArray[np.float64]


def near_pairs(
    molecules: Sequence[EmbeddingConstraints], numbers: Sequence[NDArray[np.integer]]
) -> NearPairs:
    """The near pairs of molecules.

    Args:
        molecules: Their constraints.
        numbers: Atomic numbers of each.

    Raises:
        ValueError: A molecule has another number of atoms than atomic numbers.
    """
    sizes = np.array([m.n_atoms for m in molecules])
    if [len(z) for z in numbers] != sizes.tolist():
        raise ValueError("numbers: expected as many as the molecule has atoms")
    start = np.cumsum(sizes) - sizes

    def joined(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = [getattr(m, name) for m in molecules]
        owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        return np.concatenate(rows).astype(np.int64) + start[owner, None], owner

    bonds, bond_owner = joined("bonds")
    angles, angle_owner = joined("angles")
    n_atoms = int(sizes.sum())
    degree = np.bincount(bonds.ravel(), minlength=n_atoms)
    kind = np.concatenate([*numbers]).astype(np.int64) * 8 + np.minimum(degree, 7)
    ends = np.sort(np.concatenate([bonds, angles[:, [0, 2]]]), axis=1)
    i, j = ends.T
    owner = np.concatenate([bond_owner, angle_owner])
    across = np.arange(len(i)) >= len(bonds)
    centre = np.concatenate([np.zeros(len(bonds), np.int64), kind[angles[:, 1]]])
    flat = np.concatenate([m.bounds.ravel() for m in molecules]).astype(np.float64)
    first = (np.cumsum(sizes * sizes) - sizes * sizes)[owner]
    a, b, n = i - start[owner], j - start[owner], sizes[owner]
    upper, lower = flat[first + a * n + b], flat[first + b * n + a]
    width, middle = upper - lower, 0.5 * (upper + lower)
    pair = i * n_atoms + j
    # In a ring of three the ends of an angle are bonded; NaN is not between anything.
    fixed = (width >= 0) & (width < _WIDEST) & ~(across & np.isin(pair, pair[~across]))
    step = np.where(across, _STEPS[1], _STEPS[0])
    bin_ = np.floor(np.where(fixed, middle, 0.0) / step + 0.5).astype(np.int64)
    low, high = np.minimum(kind[i], kind[j]), np.maximum(kind[i], kind[j])
    key = (((across * 1024 + low) * 1024 + high) * 1024 + centre) * 1024 + bin_
    return NearPairs(i[fixed], j[fixed], owner[fixed], key[fixed], middle[fixed])


@cache
def table() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The shipped table: keys, ascending, and what to add to the middle of the bounds in Å."""
    text = resources.files("mlff_core.embedding").joinpath("distances.json").read_text()
    rows = json.loads(text)["shifts"]
    keys = np.array([row[0] for row in rows], np.int64)
    return keys, np.array([row[1] for row in rows], np.float64)


def settled(
    molecules: Sequence[EmbeddingConstraints], numbers: Sequence[NDArray[np.integer]]
) -> list[NDArray[np.float32]]:
    """Bounds of molecules with near distances at one value each.

    That is the middle of the bounds, moved by the table where it knows the kind of pair.

    Args:
        molecules: Their constraints.
        numbers: Atomic numbers of each.

    Raises:
        ValueError: A molecule has another number of atoms than atomic numbers.
    """
    pairs = near_pairs(molecules, numbers)
    keys, shifts = table()
    place = np.searchsorted(keys, pairs.key).clip(max=max(len(keys) - 1, 0))
    known = keys[place] == pairs.key if len(keys) else np.zeros(len(place), bool)
    distance = (pairs.middle + np.where(known, shifts[place], 0.0)).astype(np.float32)
    bounds = [m.bounds.astype(np.float32, copy=True) for m in molecules]
    sizes = np.array([len(b) for b in bounds])
    start = np.cumsum(sizes) - sizes
    ends = np.cumsum(np.bincount(pairs.owner, minlength=len(bounds)))
    order = np.argsort(pairs.owner, kind="stable")
    for k, mine in enumerate(np.split(order, ends[:-1])):
        i, j = pairs.i[mine] - start[k], pairs.j[mine] - start[k]
        bounds[k][i, j] = bounds[k][j, i] = distance[mine]
    return bounds


def tabulated(
    pairs: NearPairs, positions: NDArray[np.floating]
) -> list[tuple[int, float, float, int]]:
    """What a table is made of: key, mean difference, its spread and the number of distances.

    Args:
        pairs: Near pairs of molecules.
        positions: Relaxed geometries of all of them, Å [n_atoms, 3].
    """
    distances = np.linalg.norm(positions[pairs.i] - positions[pairs.j], axis=1)
    keys, inverse = np.unique(pairs.key, return_inverse=True)
    counts = np.bincount(inverse)
    difference = distances - pairs.middle
    mean = np.bincount(inverse, difference) / counts
    spread = np.sqrt(np.bincount(inverse, (difference - mean[inverse]) ** 2) / counts)
    return [
        (int(k), round(float(m), 4), round(float(s), 4), int(n))
        for k, m, s, n in zip(keys, mean, spread, counts, strict=True)
        if n >= MIN_COUNT
    ]
