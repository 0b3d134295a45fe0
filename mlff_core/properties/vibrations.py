"""Harmonic vibrations of many molecules: Hessians from differences of forces, in large batches.

A column of a Hessian is -(F(x+h) - F(x-h)) / 2h: two force calls a coordinate, of which each is a
molecule of its own to the force field, so that copies of several molecules fill a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from ase.data import atomic_masses
from numpy.typing import NDArray

from mlff_core.batch import MolBatch
from mlff_core.buckets import TABLE, Batching, batch_sizes, bucket_of
from mlff_core.models.force_field import ForceField
from mlff_core.moves.legs import is_out_of_memory
from mlff_core.units import WAVENUMBER_PER_CM

#: Atomic numbers, positions in Å [n_atoms, 3] and charge.
Geometry = tuple[np.ndarray, np.ndarray, int]

#: Å by which a coordinate is moved to either side. Rounding of forces in float32 then shows as
#: 0.1 to 2 cm⁻¹, and so does the third derivative.
STEP: Final = 0.005
#: A molecule whose smallest moment of inertia is below this, in amu·Å², is linear. Water has 0.6.
LINEAR: Final = 0.05
#: Imaginary modes up to this, in cm⁻¹, are rounding and what a relaxation left: they count as real
#: (Grimme does the same). Beyond it the geometry is no minimum.
ROUNDING_PER_CM: Final = 20.0


def hessians(
    geometries: Sequence[Geometry],
    potential: ForceField,
    *,
    step: float = STEP,
    batching: Batching = "auto",
    progress: Callable[[int], None] | None = None,
) -> list[NDArray[np.float64] | None]:
    """Second derivatives of the energy of each geometry, eV/Å² [3 n_atoms, 3 n_atoms].

    Args:
        geometries: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        potential: What computes forces.
        step: Å by which a coordinate is moved to either side.
        batching: Copies in a force call, as molecules of a relaxation.
        progress: Called with the number of geometries that are done.

    Returns:
        One a geometry, in their order, symmetric; None of one that does not fit into memory.

    Raises:
        OutOfDomainError: A geometry holds an element or a charge that the model does not know.
        ValueError: The step is not above 0, or a geometry's arrays disagree.
    """
    if not step > 0:
        raise ValueError(f"step: expected more than 0 Å, found {step!r}")
    potential.domain.check(MolBatch.from_arrays(geometries), potential.name)
    sizes = batch_sizes(batching, potential.device, potential.bytes_per_edge)
    found: list[NDArray[np.float64] | None] = [None] * len(geometries)
    n_done = 0
    for bucket in TABLE:
        own = [k for k, g in enumerate(geometries) if bucket_of(len(g[0])) == bucket.name]
        n_copies = sizes[bucket.name]
        while own:
            try:
                for k, hessian in _of_bucket(own, geometries, potential, step, n_copies):
                    found[k] = hessian
                    n_done += 1
                    own = own[1:]
                    if progress is not None:
                        progress(n_done)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if n_copies == 1:
                    own = own[1:]
                n_copies = max(n_copies // 2, 1)
    return found


def _of_bucket(
    these: Sequence[int],
    geometries: Sequence[Geometry],
    potential: ForceField,
    step: float,
    n_copies: int,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Hessians one after the other, `n_copies` displaced geometries in each force call."""
    waiting: list[_Copies] = []
    n_waiting = 0
    under_way: list[_Columns] = []

    def flush() -> Iterator[tuple[int, NDArray[np.float64]]]:
        nonlocal waiting, n_waiting
        for copies, forces in zip(waiting, _forces(waiting, potential), strict=True):
            copies.columns.put(copies.first, forces)
        waiting, n_waiting = [], 0
        while under_way and under_way[0].full:
            done = under_way.pop(0)
            yield done.index, done.hessian()

    for k in these:
        columns = _Columns(k, *geometries[k], step, potential.dtype)
        under_way.append(columns)
        first = 0
        while first < columns.n_copies:
            copies = columns.copies(first, n_copies - n_waiting)
            waiting.append(copies)
            n_waiting += len(copies.positions)
            first += len(copies.positions)
            if n_waiting == n_copies:
                yield from flush()
    if waiting:
        yield from flush()


class _Columns:
    """The displaced copies of a geometry: first all coordinates up, then all down."""

    def __init__(
        self,
        index: int,
        numbers: np.ndarray,
        positions: np.ndarray,
        charge: int,
        step: float,
        dtype: torch.dtype,
    ):
        self.index, self.charge = index, charge
        self.numbers = np.asarray(numbers, np.int64)
        x = np.asarray(positions, np.float64).reshape(-1)
        # About the centre: less is lost to rounding. What was lost is known: a step is the
        # difference of coordinates as the force field gets them.
        x = x - np.tile(x.reshape(-1, 3).mean(0), len(numbers))
        self._x = x.astype(np.float64 if dtype == torch.float64 else np.float32)
        self._up, self._down = ((x + h).astype(self._x.dtype) for h in (step, -step))
        self._forces = np.full((2 * len(x), len(x)), np.nan)
        self.full = False

    @property
    def n_copies(self) -> int:
        return len(self._forces)

    def copies(self, first: int, most: int) -> "_Copies":
        """At most so many copies, from the given one on."""
        which = np.arange(first, min(first + most, self.n_copies))
        positions = np.repeat(self._x[None], len(which), 0)
        coordinate, down = which % len(self._x), which >= len(self._x)
        moved = np.where(down, self._down[coordinate], self._up[coordinate])
        positions[np.arange(len(which)), coordinate] = moved
        return _Copies(self, first, positions.reshape(len(which), -1, 3))

    def put(self, first: int, forces: NDArray[np.float64]) -> None:
        """Forces [n_copies, 3 n_atoms] on the copies from the given one on."""
        self._forces[first : first + len(forces)] = forces
        self.full = first + len(forces) == self.n_copies

    def hessian(self) -> NDArray[np.float64]:
        """The symmetric part of what the differences give."""
        up, down = np.split(self._forces, 2)
        moved = self._up.astype(np.float64) - self._down.astype(np.float64)
        columns = -(up - down) / moved[:, None]
        return (columns + columns.T) / 2.0


@dataclass(frozen=True)
class _Copies:
    """Some copies of a geometry, which are computed together."""

    columns: _Columns
    first: int
    positions: np.ndarray


def _forces(waiting: Sequence[_Copies], potential: ForceField) -> list[NDArray[np.float64]]:
    """Forces [n_copies, 3 n_atoms] on each group of copies, in one call."""
    sizes = np.concatenate([np.full(len(c.positions), c.positions.shape[1]) for c in waiting])
    charges = np.concatenate([np.full(len(c.positions), c.columns.charge) for c in waiting])
    numbers = [np.tile(c.columns.numbers, len(c.positions)) for c in waiting]
    positions = [c.positions.reshape(-1, 3) for c in waiting]
    batch = MolBatch(
        numbers=torch.from_numpy(np.concatenate(numbers)),
        positions=torch.from_numpy(np.concatenate(positions)),
        mol_idx=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)),
        charge=torch.from_numpy(charges.astype(np.int64)),
    )
    # Of sizes that do not come again, so that `evaluate` would record graphs in vain.
    compute = potential.bare_step or potential.evaluate
    forces = compute(batch.to(potential.device, potential.dtype)).forces
    flat = forces.double().cpu().numpy().reshape(-1)
    ends = np.cumsum([c.positions.size for c in waiting])
    return [
        part.reshape(len(c.positions), -1)
        for part, c in zip(np.split(flat, ends[:-1]), waiting, strict=True)
    ]


def wavenumbers(
    numbers: NDArray[np.integer], positions: NDArray[np.floating], hessian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Wavenumbers of the vibrations in cm⁻¹, ascending; imaginary ones are negative.

    The six motions of the whole molecule, five of a linear one, are projected out.

    Args:
        numbers: Atomic numbers [n_atoms].
        positions: Å [n_atoms, 3].
        hessian: eV/Å² [3 n_atoms, 3 n_atoms].
    """
    mass_weighted, _, _ = _without_rigid_motions(numbers, positions, hessian)
    values = np.linalg.eigvalsh(mass_weighted)
    return np.sign(values) * np.sqrt(np.abs(values)) * WAVENUMBER_PER_CM


def softest_mode(
    numbers: NDArray[np.integer], positions: NDArray[np.floating], hessian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How atoms move in the vibration of the lowest wavenumber, [n_atoms, 3].

    The atom that moves most moves by 1. Args are those of `wavenumbers`.
    """
    mass_weighted, inside, root = _without_rigid_motions(numbers, positions, hessian)
    _, modes = np.linalg.eigh(mass_weighted)
    motion = (inside @ modes[:, 0] / root).reshape(-1, 3)
    return motion / np.linalg.norm(motion, axis=1).max()


def _without_rigid_motions(
    numbers: NDArray[np.integer], positions: NDArray[np.floating], hessian: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The mass-weighted Hessian of what is left, its coordinates, and roots of masses."""
    root = np.sqrt(np.repeat(atomic_masses[np.asarray(numbers, int)], 3))
    rigid = rigid_motions(numbers, positions)
    inside = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    return inside.T @ (hessian / np.outer(root, root)) @ inside, inside, root


def rigid_motions(
    numbers: NDArray[np.integer], positions: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Mass-weighted motions of a molecule as a whole, independent, [3 n_atoms, 3, 5 or 6]."""
    masses = atomic_masses[np.asarray(numbers, int)]
    x = np.asarray(positions, np.float64)
    x = x - (masses[:, None] * x).sum(0) / masses.sum()
    moments, axes = np.linalg.eigh(inertia(masses, x))
    root = np.sqrt(masses)[:, None]
    motions = [(root * axis).reshape(-1) for axis in np.eye(3)]
    for moment, axis in zip(moments, axes.T, strict=True):
        if moment > LINEAR:
            motions.append((root * np.cross(axis, x)).reshape(-1))
    return np.stack(motions, 1)


def inertia(masses: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tensor of inertia about the origin, amu·Å² [3, 3]."""
    return (masses * (x * x).sum(1)).sum() * np.eye(3) - (masses[:, None] * x).T @ x


def n_imaginary(modes: NDArray[np.float64]) -> int:
    """How many modes are imaginary beyond rounding."""
    return int((modes < -ROUNDING_PER_CM).sum())
