"""Is a geometry the molecule that was asked for? The checks of RDKit's embedding, many at once.

Those of Code/GraphMol/DistGeomHelpers/Embedder.cpp: distances within bounds, stereocentres of the
right sign and enough volume, tetrahedral atoms inside their neighbours, double bonds bent and on
their side, flat groups flat; and no bond through a small ring.
"""

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

from mlff_core.embedding.packing import Packed
from mlff_core.embedding.plain import distance_errors, signed_volume, torsion_cosine

#: Mean squared relative error of the distances, per atom, as in RDKit.
MAX_ERROR_PER_ATOM: Final = 0.05
#: Squared relative error of the distance of two atoms that are bonded or share a neighbour. Cages
#: are up to 15 % off what the bounds want.
MAX_NEAR_ERROR: Final = 0.12
#: Squared relative error of any other distance.
MAX_FAR_ERROR: Final = 0.25
#: Share of the smallest volume that a stereocentre must have. RDKit asks for 0.8, with longer bonds
#: to hydrogen.
MIN_VOLUME_SHARE: Final = 0.6
#: Share of the smallest volume that a tetrahedral atom must have in the end: RDKit asks for all of
#: it, but before the torsions have had their say.
MIN_TETRAHEDRAL_SHARE: Final = 0.3
#: How far on the wrong side of a face of its neighbours a stereocentre may lie, as in RDKit, in
#: units of the volume of unit vectors.
INSIDE_TOLERANCE: Final = 0.1
#: The cosine of a double bond's torsion must be at least this on its side.
MIN_SIDE: Final = 0.5
#: 1 + cosine of the angle at a double bond must be at least this, as in RDKit.
MIN_BENT: Final = 1e-3
#: Largest volume of the unit vectors from a flat centre to its neighbours; tetrahedral is 0.77.
MAX_PLANAR_VOLUME: Final = 0.5


class Cause(IntEnum):
    """Why a conformer was not accepted; the first of them that applies."""

    NONE = 0
    NOT_FINITE = 1
    CHIRALITY = 2
    TETRAHEDRAL = 3
    DOUBLE_BOND = 4
    LINEAR_DOUBLE_BOND = 5
    NEAR_DISTANCES = 6
    FAR_DISTANCES = 7
    PLANARITY = 8
    THROUGH_RING = 9
    CONTRADICTION = 10
    TOO_LARGE = 11
    OUT_OF_MEMORY = 12

    @property
    def words(self) -> str:
        """The cause in words, as in "the stereocentres came out wrong"."""
        return _WORDS[self]


_WORDS: Final = {
    Cause.NONE: "nothing is wrong",
    Cause.NOT_FINITE: "coordinates are not numbers",
    Cause.CHIRALITY: "stereocentres came out wrong",
    Cause.TETRAHEDRAL: "atoms came out flat instead of tetrahedral",
    Cause.DOUBLE_BOND: "a double bond came out with the wrong E/Z",
    Cause.LINEAR_DOUBLE_BOND: "a double bond came out linear",
    Cause.NEAR_DISTANCES: "bonds or angles are out of bounds",
    Cause.FAR_DISTANCES: "distances are out of bounds",
    Cause.PLANARITY: "flat groups came out bent",
    Cause.THROUGH_RING: "a bond goes through a ring",
    Cause.CONTRADICTION: "the constraints contradict each other",
    Cause.TOO_LARGE: "it has more atoms than the embedder takes",
    Cause.OUT_OF_MEMORY: "it does not fit into the device's memory",
}


def causes(x: Tensor, packed: Packed, molecule: Tensor) -> Tensor:
    """What is wrong with each conformer, int8 [n_conformers], a `Cause`.

    Args:
        x: Å [n_conformers, 3, size].
        packed: The molecules.
        molecule: Molecule of each conformer, int64 [n_conformers].
    """
    found = torch.zeros(len(x), dtype=torch.int8, device=x.device)

    def note(bad: Tensor, cause: Cause) -> None:
        found.masked_fill_(bad & (found == 0), int(cause))

    def any_of(bad: Tensor, owner: Tensor) -> Tensor:
        counts = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return counts.index_add_(0, owner, bad.long()) > 0

    note(~torch.isfinite(x).all(2).all(1), Cause.NOT_FINITE)
    x = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    owner, row = packed.centres.of(molecule)
    points = x[owner[:, None], :, packed.centres.atoms[row]]
    least, low, high = packed.centre_bounds[row].T
    specified = high != low
    volume = signed_volume(points[:, 1:])
    wrong = torch.where(low > 0, volume < MIN_VOLUME_SHARE * low, volume > MIN_VOLUME_SHARE * high)
    note(any_of(specified & wrong, owner), Cause.CHIRALITY)
    four = packed.centres.atoms[row, 4] != packed.centres.atoms[row, 0]
    inside, narrowest = _faces(points)
    outside = (specified & (inside < -INSIDE_TOLERANCE)) | (
        ~specified & ((inside < 0) | (narrowest < MIN_TETRAHEDRAL_SHARE * least))
    )
    note(any_of(four & outside, owner), Cause.TETRAHEDRAL)
    owner, row = packed.double_bonds.of(molecule)
    points = x[owner[:, None], :, packed.double_bonds.atoms[row, :4]]
    note(any_of(torsion_cosine(points) * packed.sides[row] < MIN_SIDE, owner), Cause.DOUBLE_BOND)
    owner, row = packed.bent.of(molecule)
    points = x[owner[:, None], :, packed.bent.atoms[row]]
    first, last = (_unit(points[:, k] - points[:, 1]) for k in (0, 2))
    note(any_of(1.0 + (first * last).sum(-1) < MIN_BENT, owner), Cause.LINEAR_DOUBLE_BOND)
    errors = distance_errors(x, packed, molecule)
    near = packed.inverse_upper[molecule] < 0
    worst = torch.where(near, errors, 0.0).amax((1, 2))
    note(worst > MAX_NEAR_ERROR, Cause.NEAR_DISTANCES)
    worst = torch.where(near, 0.0, errors).amax((1, 2))
    mean = 0.5 * errors.sum((1, 2)) / packed.n_atoms[molecule]
    note((worst > MAX_FAR_ERROR) | (mean > MAX_ERROR_PER_ATOM), Cause.FAR_DISTANCES)
    owner, row = packed.planar.of(molecule)
    points = x[owner[:, None], :, packed.planar.atoms[row]]
    note(any_of(_unit_volume(points).abs() > MAX_PLANAR_VOLUME, owner), Cause.PLANARITY)
    owner, row = packed.piercings.of(molecule)
    through = _goes_through(x, owner, packed.piercings.atoms[row])
    note(any_of(through, owner), Cause.THROUGH_RING)
    return found


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def _unit_volume(points: Tensor) -> Tensor:
    """Signed volume of the unit vectors from the first of four points to the others."""
    a, b, c = (_unit(points[:, k] - points[:, 0]) for k in (1, 2, 3))
    return (a * torch.linalg.cross(b, c)).sum(-1)


def _faces(points: Tensor) -> tuple[Tensor, Tensor]:
    """How far inside its four neighbours a centre lies, and how wide it sits there.

    Args:
        points: The centre and its neighbours [n, 5, 3].

    Returns:
        For the worst of the four faces, the volume that the unit vectors to its corners span on
        the side away from the fourth neighbour, negative where the centre is outside; and the
        smallest of their absolute volumes.
    """
    to = _unit(points[:, 1:] - points[:, :1])
    inside, narrowest = [], []
    for apex in range(4):
        a, b, c = (to[:, k] for k in range(4) if k != apex)
        # The face's normal, turned to the side of the fourth neighbour.
        normal = torch.linalg.cross(b - a, c - a)
        height = ((to[:, apex] - a) * normal).sum(-1)
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        inside.append(-torch.sign(height) * volume)
        narrowest.append(volume.abs())
    return torch.stack(inside).amin(0), torch.stack(narrowest).amin(0)


def _goes_through(x: Tensor, owner: Tensor, atoms: Tensor) -> Tensor:
    """Whether the bond of each row goes through its ring, bool [n].

    The ring is a fan of triangles around its middle (T. Möller and B. Trumbore, J. Graph. Tools
    1997, 2, 21).

    Args:
        x: Å [n_conformers, 3, size].
        owner: Conformer of each row, int64 [n].
        atoms: See `Packed.piercings`, int64 [n, 10].
    """
    ring, bond = atoms[:, :8], atoms[:, 8:]
    real = ring >= 0
    corners = x[owner[:, None], :, ring.clamp(min=0)]  # [n, 8, 3]
    middle = (corners * real[..., None]).sum(1) / real.sum(1)[:, None].clamp(min=1)
    start, end = (x[owner, :, bond[:, k]] for k in range(2))
    along, origin = end - start, start - middle
    through = torch.zeros(len(atoms), dtype=torch.bool, device=x.device)
    last = real.clone()  # the atom of each ring that the first one follows
    last[:, :-1] &= ~real[:, 1:]
    following = torch.where(last[..., None], corners[:, :1], corners.roll(-1, 1))
    for k in range(8):
        left, right = corners[:, k] - middle, following[:, k] - middle
        p = torch.linalg.cross(along, right)
        determinant = (left * p).sum(-1)
        inverse = 1.0 / torch.where(determinant.abs() < 1e-9, 1e-9, determinant)
        u = (origin * p).sum(-1) * inverse
        q = torch.linalg.cross(origin, left)
        v = (along * q).sum(-1) * inverse
        t = (right * q).sum(-1) * inverse
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)
        through |= hit & real[:, k]
    return through
