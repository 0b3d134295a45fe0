"""Which ends of a pre-relaxation are of the molecules that were asked for.

Conformers walk with a cheaper model first (`relax.relax_conformers`). Where bonds or stereo are
others at the end, that walk may be to blame: the model itself begins again at the embedded
geometry, and what it comes to is what counts. So nothing ends as another molecule that would not
do so without the cheaper model.

Who drives a device asks this of every conformer meanwhile, so most are told by a few array
operations over all of them, in an eighth of the time of `chem.topology.rearrangements`; only those
that look odd are judged one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.held import stretched
from mlff_core.chem.topology import BROKEN, FORMED, RADII, Topology, cos_dihedrals, rearranged
from mlff_core.moves.ended import Keeps


class _Limits(NamedTuple):
    """Between which squared distances the bonds of a molecule stay what they are, Å².

    Attributes:
        nearest: Of pairs that are not bonded, -1 for others [n_atoms, n_atoms].
        longest: Of the bonds [n_bonds].
    """

    nearest: NDArray[np.float32]
    longest: NDArray[np.float64]

    @classmethod
    def of(cls, topology: Topology) -> "_Limits":
        """Those of a molecule."""
        radii = RADII[topology.numbers]
        both = radii[:, None] + radii
        i, j = topology.bonds.T
        nearest = np.square(FORMED * both, dtype=np.float32)
        nearest[i, j] = nearest[j, i] = -1.0
        np.fill_diagonal(nearest, -1.0)
        return cls(nearest, np.square(BROKEN * both[i, j]))


def keeps_bonds(topologies: Sequence[Topology], held: Sequence[np.ndarray]) -> Keeps:
    """Says of ends whether bonds and stereo are as they should be.

    Args:
        topologies: What each conformer is judged against; those of one molecule may share theirs.
        held: Heavy atom and hydrogen of each held bond, [n_held, 2]; one in which such a bond broke
            is left to `held.relax_where_protons_moved`, which begins where it was given, too.
    """
    of = {id(topology): topology for topology in topologies}
    limits = {key: _Limits.of(topology) for key, topology in of.items()}

    def keeps(places: Sequence[int], positions: Sequence[np.ndarray]) -> list[bool]:
        judged_by = [topologies[k] for k in places]
        answers = [True] * len(places)
        odd = _odd(positions, judged_by, [limits[id(topology)] for topology in judged_by])
        for n in np.flatnonzero(odd).tolist():
            k, x, topology = places[n], positions[n], judged_by[n]
            answers[n] = rearranged(x, *topology) is None or bool(
                stretched(x, topology.numbers, held[k], BROKEN)
            )
        return answers

    return keeps


def _odd(
    positions: Sequence[np.ndarray], topologies: Sequence[Topology], limits: Sequence[_Limits]
) -> NDArray[np.bool_]:
    """Which geometries `rearranged` has to look at; it may clear them."""
    n, width = len(positions), max(map(len, positions), default=0)
    odd = np.zeros(n, bool)
    if not n:
        return odd
    x = np.zeros((n, width, 3), np.float32)
    nearest = np.full((n, width, width), -1.0, np.float32)
    for k, (own, limit) in enumerate(zip(positions, limits, strict=True)):
        x[k, : len(own)] = own - own[0]
        nearest[k, : len(own), : len(own)] = limit.nearest
    squared = np.einsum("nai,nai->na", x, x)
    # |a-b|² from one matrix product; its rounding (1e-5 Å²) does not matter at this accuracy.
    apart = x @ x.transpose(0, 2, 1)
    apart *= -2.0
    apart += squared[:, :, None]
    apart += squared[:, None]
    odd |= (apart < nearest).any((1, 2))

    def gathered(rows: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
        """Rows of all molecules, and whose they are."""
        return np.concatenate(rows), np.repeat(np.arange(n), [len(r) for r in rows])

    bonds, owner = gathered([t.bonds for t in topologies])
    longest = np.concatenate([limit.longest for limit in limits])
    # "not below" rather than "above": NaN is neither.
    odd[owner[~(apart[owner, bonds[:, 0], bonds[:, 1]] <= longest)]] = True
    centres, owner = gathered([t.chirality for t in topologies])
    p, q, r, s = (x[owner, atoms] for atoms in centres.T)
    odd[owner[~(np.einsum("ni,ni->n", p - s, np.cross(q - s, r - s)) > 0)]] = True
    doubles, owner = gathered([t.double_bonds for t in topologies])
    flat = doubles.astype(np.int64)
    flat[:, :4] += width * owner[:, None]
    odd[owner[~(cos_dihedrals(x.reshape(-1, 3).astype(np.float64), flat) * flat[:, 4] > 0)]] = True
    return odd
