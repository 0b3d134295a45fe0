"""The minimisation of distance-geometry coordinates in plain PyTorch: what the kernel means.

The error of the distances is RDKit's (Code/DistGeom/DistViolationContribs.cpp), torsions are a
series in the cosine of the angle as in ETKDG (Riniker and Landrum, J. Chem. Inf. Model. 2015, 55,
2562), flat groups have no volume. Adam moves all atoms of all conformers at once; its gradient is
PyTorch's own.
"""

import torch
from torch import Tensor

from mlff_core.embedding.packing import Packed
from mlff_core.embedding.schedule import COLUMNS, FIRST_DECAY, MAX_GRADIENT, SECOND_DECAY

#: Keeps the cosine of an angle finite where three atoms are in a line, Å⁴.
SOFT_NORMAL = 1e-2
#: Keeps the error of a distance finite where there is no pair, Å².
TINY = 1e-9
#: Weight of a distance below its lower bound against one above its upper one, for near pairs.
NEAR_BELOW = 4.0


def starting_coordinates(
    packed: Packed, molecule: Tensor, seed: Tensor, number: Tensor, attempt: Tensor | int
) -> Tensor:
    """Random coordinates in a box of four dimensions, Å, float32 [n_conformers, 4, size].

    A coordinate depends on the molecule's seed, the conformer's number, the attempt and the atom
    alone: it is a hash of them, not a draw from a stream.

    Args:
        packed: The molecules.
        molecule: Molecule of each conformer, int64 [n_conformers].
        seed: 0 to 2^63 - 1 for each conformer, int64 [n_conformers].
        number: Of the conformer among those of its molecule, int64 [n_conformers].
        attempt: 0 for the first, int64 [n_conformers] or one for all.
    """
    key = _mix(number * 0x9E3779B1 + attempt)
    key = _mix(key ^ (seed & 0xFFFFFFFF))
    key = _mix(key ^ (seed >> 32))
    coordinate = torch.arange(4 * packed.size, device=seed.device)
    uniform = _mix(key[:, None] + coordinate * 0x85EBCA77).double() / 2.0**32
    n_atoms = packed.n_atoms[molecule]
    width = 2.0 * torch.clamp(1.4 * n_atoms.double().sqrt(), min=4.0)
    # Atom by atom, so that a coordinate does not depend on the padding.
    x = ((uniform - 0.5) * width[:, None]).float().reshape(-1, packed.size, 4).transpose(1, 2)
    real = torch.arange(packed.size, device=seed.device) < n_atoms[:, None]
    return torch.where(real[:, None], x, 0.0).contiguous()


def _mix(x: Tensor) -> Tensor:
    """A hash of 32 bits in int64 (C. Wellons' lowbias32); products wrap, which low bits bear."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def minimise(x: Tensor, packed: Packed, molecule: Tensor, schedule: Tensor) -> Tensor:
    """Coordinates at the end of a schedule, [n_conformers, 4, size], in the type they came in.

    Args:
        x: Where they start, Å [n_conformers, 4, size].
        packed: The molecules.
        molecule: Molecule of each conformer, int64 [n_conformers].
        schedule: See `schedule.schedule`.
    """
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for row in schedule.tolist():
        weights = dict(zip(COLUMNS, row, strict=True))
        x = x.detach().requires_grad_(True)
        energy = error(x, packed, molecule, weights).sum()
        (gradient,) = torch.autograd.grad(energy, x)
        length = gradient.square().sum(1, keepdim=True).sqrt()
        gradient = gradient * torch.clamp(MAX_GRADIENT / (length + TINY), max=1.0)
        mean = FIRST_DECAY * mean + (1 - FIRST_DECAY) * gradient
        square = SECOND_DECAY * square + (1 - SECOND_DECAY) * gradient * gradient
        root = (square * weights["second"]).sqrt() + 1e-6
        x = x.detach() - weights["rate"] * (mean * weights["first"]) / root
        x = torch.cat([x[:, :3], x[:, 3:] * weights["keep"]], 1)
    return x


def error(x: Tensor, packed: Packed, molecule: Tensor, weights: dict[str, float]) -> Tensor:
    """The weighted sum of all terms of each conformer [n_conformers].

    Args:
        x: Å [n_conformers, 4, size].
        packed: The molecules.
        molecule: Molecule of each conformer, int64 [n_conformers].
        weights: By the names of `schedule.COLUMNS`.
    """
    near = packed.inverse_upper[molecule] < 0
    strength = torch.where(near, weights["near"], weights["far"])
    errors = distance_errors(x, packed, molecule, weights["stretch"])
    total = 0.5 * (strength * errors).sum((1, 2))
    total = total + weights["fourth"] * x[:, 3].square().sum(1)
    owner, row = packed.volumes.of(molecule)
    volume = signed_volume(_points(x, owner, packed.volumes.atoms[row]))
    low, high, factor = packed.volume_bounds[row].to(x).T
    factor = factor * torch.where(packed.volume_flat[row], weights["flat"], weights["chiral"])
    outside = torch.relu(low - volume).square() + torch.relu(volume - high).square()
    total = total.index_add(0, owner, factor * outside)
    owner, row = packed.torsions.of(molecule)
    cosine = torsion_cosine(_points(x, owner, packed.torsions.atoms[row]))
    series = torch.zeros_like(cosine)
    for coefficient in packed.torsion_series[row].to(x).T.flip(0):
        series = (series + coefficient) * cosine
    return total.index_add(0, owner, weights["torsion"] * series)


def distance_errors(x: Tensor, packed: Packed, molecule: Tensor, stretch: float = 0.0) -> Tensor:
    """Squared relative excess of each distance over its bounds [n_conformers, size, size].

    RDKit's error is four times as soft below the lower bound as above the upper one. That of bonds
    and angles counts four times below, so that they are equally stiff.

    Args:
        x: Å [n_conformers, 3 or 4, size].
        packed: The molecules.
        molecule: Molecule of each conformer, int64 [n_conformers].
        stretch: Share of `Packed.stretch` by which lower bounds are raised.
    """
    squared = (x[:, :, :, None] - x[:, :, None, :]).square().sum(1)
    inverse_upper = packed.inverse_upper[molecule].to(x)
    softness = torch.where(inverse_upper < 0, NEAR_BELOW, 1.0)
    lower = packed.lower[molecule].to(x)
    if stretch:
        share = stretch * packed.stretch[molecule].to(x)[:, None, None]
        root = lower.sqrt()
        raised = root + share * (inverse_upper.abs().rsqrt() - root)
        lower = torch.where((inverse_upper > 0) & (lower > 0) & (share > 0), raised**2, lower)
    inverse_upper = inverse_upper.abs()
    over = torch.relu(squared * inverse_upper - 1.0)
    under = torch.relu(2.0 * lower / (lower + squared + TINY) - 1.0)
    return over.square() + softness * under.square()


def signed_volume(points: Tensor) -> Tensor:
    """(a-d) . ((b-d) x (c-d)) in Å³ of four points [n, 4, 3]."""
    a, b, c = (points[:, k] - points[:, 3] for k in range(3))
    return (a * torch.linalg.cross(b, c)).sum(-1)


def torsion_cosine(points: Tensor) -> Tensor:
    """Cosine of the torsion angle of four points [n, 4, 3], 0 where three are in a line."""
    first, axis, last = (points[:, k + 1] - points[:, k] for k in range(3))
    left, right = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
    norms = (left.square().sum(-1) + SOFT_NORMAL) * (right.square().sum(-1) + SOFT_NORMAL)
    return (left * right).sum(-1) * norms.rsqrt()


def _points(x: Tensor, owner: Tensor, atoms: Tensor) -> Tensor:
    """Positions [n, width, 3] of the atoms of terms [n, width] of conformers."""
    return x[owner[:, None], :3, atoms]
