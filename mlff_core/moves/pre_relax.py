"""Which conformers to relax once more after a pre-relaxation, by the model alone.

Conformers walk with a cheaper model first (`relax.relax_conformers`). Where bonds or stereo are
others at the end, or nothing is known there, that walk may be to blame: the model itself begins
again at the embedded geometry, and what it comes to is what counts. So nothing ends as another
molecule that would not do so without the cheaper model.
"""

from collections.abc import Sequence

import numpy as np

from mlff_core.chem.held import stretched
from mlff_core.chem.topology import BROKEN, Topology, rearrangements
from mlff_core.models.force_field import ForceField
from mlff_core.moves.in_flight import Relaxed
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import ConformerStatus

_USABLE = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)


def relax_where_changed(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int]],
    relaxed: Sequence[Relaxed],
    topologies: Sequence[Topology],
    held: Sequence[np.ndarray],
    potential: ForceField,
    settings: RelaxSettings = RelaxSettings(),  # noqa: B008, frozen
    frozen: Sequence[np.ndarray] | None = None,
) -> dict[int, Relaxed]:
    """Relax those that changed by the model alone, from where they were given.

    Args:
        conformers: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        relaxed: How each ended after a pre-relaxation.
        topologies: What each is judged against.
        held: Heavy atom and hydrogen of each held bond, [n_held, 2]; one in which such a bond broke
            is left to `held.relax_where_protons_moved`, which begins where it was given, too.
        potential: The model.
        settings: As they were.
        frozen: As in `relax_conformers`.

    Returns:
        Place of a conformer -> how it ended, for those that were relaxed again.
    """
    known = [k for k, end in enumerate(relaxed) if end.status is not None]
    changes = rearrangements([relaxed[k].positions for k in known], [topologies[k] for k in known])
    again = [
        k
        for k, change in zip(known, changes, strict=True)
        if relaxed[k].status not in _USABLE
        or (
            change is not None
            and not stretched(relaxed[k].positions, conformers[k][0], held[k], BROKEN)
        )
    ]
    kept = None if frozen is None else [frozen[k] for k in again]
    ends = relax_conformers([conformers[k] for k in again], potential, settings, frozen=kept)
    return dict(zip(again, ends, strict=True))
