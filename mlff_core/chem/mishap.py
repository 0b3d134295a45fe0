"""Which atoms a relaxation came to grief with: those that overlapped, or those that flew apart."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.topology import BROKEN, Topology, atom_name
from mlff_core.elements import COVALENT_RADII

#: Closer than this share of the sum of their covalent radii, two atoms overlap: no bond of a
#: molecule is as short (H-H 1.19, C≡C 0.79 of it).
OVERLAP: Final = 0.7
#: Å, of an element without one.
_RADIUS: Final = 1.5


def mishap(
    start: NDArray[np.floating], end: NDArray[np.floating], topology: Topology
) -> str | None:
    """What was wrong with a geometry that exploded, in a few words; None if nothing is to be seen.

    Args:
        start: Å [n_atoms, 3], where the relaxation began.
        end: The same atoms where it gave up.
        topology: The molecule's bonds.
    """
    radii = np.array([COVALENT_RADII.get(int(z), _RADIUS) for z in topology.numbers])
    for x, where in ((start, "at the start"), (end, "at the end")):
        closest = _closest(np.asarray(x, np.float64), radii)
        if closest is not None:
            a, b, distance = closest
            return f"{_pair(a, b, topology)} overlap {where} ({distance:.2f} Å)"
    i, j = topology.bonds.T
    lengths = np.linalg.norm(np.asarray(end, np.float64)[i] - end[j], axis=-1)
    stretch = lengths / (radii[i] + radii[j])
    if len(stretch) and stretch.max() > BROKEN:
        k = int(stretch.argmax())
        return f"{_pair(i[k], j[k], topology)} flew apart ({lengths[k]:.2f} Å)"
    return None


def _closest(x: NDArray[np.float64], radii: NDArray[np.float64]) -> tuple[int, int, float] | None:
    """The pair of atoms that overlap most, and their distance in Å."""
    a, b = np.triu_indices(len(x), 1)
    distances = np.linalg.norm(x[a] - x[b], axis=-1)
    share = distances / (radii[a] + radii[b])
    if not len(share) or not share.min() < OVERLAP:
        return None
    k = int(share.argmin())
    return int(a[k]), int(b[k]), float(distances[k])


def _pair(a: int, b: int, topology: Topology) -> str:
    return f"{atom_name(a, topology.numbers)} and {atom_name(b, topology.numbers)}"
