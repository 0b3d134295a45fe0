"""Which ends of a pre-relaxation are of the molecules that were asked for.

Conformers walk with a cheaper model first (`relax.relax_conformers`). Where bonds or stereo are
others at the end, that walk may be to blame: the model itself begins again at the embedded
geometry, and what it comes to is what counts. So nothing ends as another molecule that would not
do so without the cheaper model.
"""

from collections.abc import Sequence

import numpy as np

from mlff_core.chem.held import stretched
from mlff_core.chem.topology import BROKEN, Topology, rearrangements
from mlff_core.moves.in_flight import Keeps


def keeps_bonds(topologies: Sequence[Topology], held: Sequence[np.ndarray]) -> Keeps:
    """Says of ends whether bonds and stereo are as they should be.

    Args:
        topologies: What each conformer is judged against.
        held: Heavy atom and hydrogen of each held bond, [n_held, 2]; one in which such a bond broke
            is left to `held.relax_where_protons_moved`, which begins where it was given, too.
    """

    def keeps(places: Sequence[int], positions: Sequence[np.ndarray]) -> list[bool]:
        judged_by = [topologies[k] for k in places]
        changes = rearrangements(positions, judged_by) if places else []
        return [
            change is None or bool(stretched(x, topologies[k].numbers, held[k], BROKEN))
            for k, x, change in zip(places, positions, changes, strict=True)
        ]

    return keeps
