"""How the walk of a molecule ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlff_core.buckets import bucket_of
from mlff_core.moves.slots import Molecule
from mlff_core.status import ConformerStatus

#: Ends from where another walk may go on.
USABLE = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)


@dataclass(frozen=True)
class Relaxed:
    """How one molecule ended, on the host.

    Attributes:
        index: Its place in the caller's order.
        positions: Å [n_atoms, 3]; the last accepted point.
        energy: eV, there; NaN, as all that follows but the steps, if it is not finite at the start.
        initial_energy: eV.
        forces: eV/Å [n_atoms, 3], there, those on atoms that may not move included.
        max_force: Largest on an atom that may move, eV/Å.
        n_steps: Moves made; force calls are one more.
        status: None if the molecule did not fit into memory alone, so nothing is known of it.
        bucket: Its size class.
        batch_size: Molecules that were computed at once where it ended.
    """

    index: int
    positions: np.ndarray
    energy: float
    initial_energy: float
    forces: np.ndarray
    max_force: float
    n_steps: int
    status: ConformerStatus | None
    bucket: str
    batch_size: int


#: Says of molecules, by their places in the caller's order and where they ended in Å, whether each
#: is still the molecule that was asked for.
Keeps = Callable[[Sequence[int], Sequence[np.ndarray]], Sequence[bool]]


@dataclass(frozen=True)
class HandedOver:
    """One molecule that has ended a walk after which another one comes.

    Attributes:
        index: Its place in the caller's order.
    """

    index: int


def not_relaxed(molecule: Molecule) -> Relaxed:
    nan = float("nan")
    return Relaxed(
        index=molecule.index,
        positions=molecule.positions,
        energy=nan,
        initial_energy=nan,
        forces=np.full((molecule.size, 3), nan),
        max_force=nan,
        n_steps=0,
        status=None,
        bucket=bucket_of(molecule.size),
        batch_size=1,
    )
