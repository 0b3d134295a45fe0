"""Leaving saddle points: a geometry without forces that is no minimum is moved along its softest
mode, to either side, and relaxed on.

A relaxation ends where forces are small, and a methyl group on top of its barrier has none.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.models.force_field import ForceField
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.properties.vibrations import Geometry, softest_mode
from mlff_core.status import ConformerStatus

#: Å by which the atom that moves most is moved along the mode. Less, and a flat barrier holds it.
PUSH: Final = 0.2
#: eV by which the end may lie above the saddle point: rounding.
_ROUNDING: Final = 1e-3


def leave_saddles(
    saddles: Sequence[Geometry],
    energies: Sequence[float],
    hessians: Sequence[NDArray[np.float64]],
    topologies: Sequence[Topology],
    potential: ForceField,
    settings: RelaxSettings,
) -> list[Relaxed | None]:
    """Where each saddle point relaxes to; None where neither side leads on to the same molecule.

    Args:
        saddles: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        energies: There, eV.
        hessians: There, eV/Å² [3 n_atoms, 3 n_atoms].
        topologies: Bonds and stereo that the end has to have.
        potential: What computes energies and forces.
        settings: Of the relaxation.
    """
    starts = []
    for (numbers, x, charge), hessian in zip(saddles, hessians, strict=True):
        push = PUSH * softest_mode(numbers, x, hessian)
        starts += [(numbers, x + push, charge), (numbers, x - push, charge)]
    ends = relax_conformers(starts, potential, settings)
    both = [topology for topology in topologies for _ in range(2)]
    changes = rearrangements([end.positions for end in ends], both) if ends else []
    found: list[Relaxed | None] = []
    for k, energy in enumerate(energies):
        good = [
            ends[j]
            for j in (2 * k, 2 * k + 1)
            if ends[j].status == ConformerStatus.CONVERGED
            and changes[j] is None
            and ends[j].energy <= energy + _ROUNDING
        ]
        found.append(min(good, key=lambda end: end.energy, default=None))
    return found
