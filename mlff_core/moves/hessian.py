"""A model of a molecule's Hessian, which L-BFGS begins with."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.elements import COVALENT_RADII
from mlff_core.moves.slots import Rows


class HessianModel(NamedTuple):
    """Springs between all pairs of atoms and in the angles between bonds, on a ground.

    With q, the distance over the sum of the covalent radii:

    Attributes:
        spring: Along a pair, at q = 1, eV/Å².
        spring_decay: It falls off as exp(-decay (q - 1) - curve (q - 1)²).
        spring_curve: Likewise.
        spring_max: Largest, eV/Å².
        sideways: Of a pair against motion across it, at q = 1, eV/Å². Without it out-of-plane
            motion of a flat group would cost nothing.
        sideways_decay: Likewise.
        bend: Of the angle between two bonds at q = 1, eV/rad².
        bend_decay: Likewise, a factor for each of the two.
        ground: Of every coordinate, eV/Å².
    """

    spring: float
    spring_decay: float
    spring_curve: float
    spring_max: float
    sideways: float
    sideways_decay: float
    bend: float
    bend_decay: float
    ground: float


#: Where a molecule enters: far from a minimum stiffer springs reach lower energies sooner.
MODEL = HessianModel(29.0, 4.1, 0.0, 80.0, 1.4, 4.7, 2.0, 3.7, 1.0)
#: Nearer to it: fitted to the default student's own Hessians at the minima of 128 molecules.
RENEWED_MODEL = HessianModel(16.5, 3.5, 1.37, 80.0, 3.0, 5.1, 2.4, 0.0, 0.2)
#: Two atoms nearer than this, in q, may be bonded, and each atom bends towards so many at most.
BONDED, MOST_BONDS = 1.35, 4
#: In q - 1, from where springs count as nothing.
FARTHEST = 50.0
#: Added to sin² of an angle, which is 0 where three atoms are in line.
IN_LINE = 0.02
#: Å; bonds count as no shorter, for the angle between them.
SHORTEST = 0.5


class HessianConstants(NamedTuple):
    """The constants above, for a kernel."""

    bonded: float = BONDED
    most_bonds: int = MOST_BONDS
    farthest: float = FARTHEST
    in_line: float = IN_LINE
    shortest: float = SHORTEST


#: Elements of the models that plain operators build at once; bounds the memory when many enter
#: together. On CUDA some sixty launches take longer than their work on fewer than two hundred
#: molecules.
HESSIAN_CHUNK = {"cpu": 5_000_000, "cuda": 50_000_000}


def inverse_model_hessian(rows: Rows, model: HessianModel = MODEL) -> Tensor:
    """Inverse of a model of each molecule's Hessian at its initial positions, Å²/eV.

    Bonds are a hundred times stiffer than torsions. A constant initial Hessian leaves all of that
    for the history to learn; springs in pairs and angles, after R. Lindh et al., Chem. Phys. Lett.
    241, 423 (1995), know most of it from the start.

    Returns:
        [n_rows, 3 w, 3 w]; rows of atoms that may not move, and of padding, are the identity's.
    """
    radius = covalent_radius(rows.positions.device, rows.positions.dtype)
    width = rows.free.shape[1]
    # The angles' share of the work is twice as large as the matrix.
    chunk = max(HESSIAN_CHUNK[rows.positions.device.type] // (3 * (3 * width) ** 2), 1)
    chunks = zip(
        rows.numbers.split(chunk), rows.positions.split(chunk), rows.free.split(chunk), strict=True
    )
    return torch.cat(
        [_inverse_model_hessian(z != 0, radius[z], x, free, model) for z, x, free in chunks]
    )


@cache
def covalent_radius(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """By atomic number, Å [128]; 1 Å where none is known."""
    radius = torch.ones(128, dtype=dtype)
    radius[list(COVALENT_RADII)] = torch.tensor(list(COVALENT_RADII.values()), dtype=dtype)
    return radius.to(device)


def _inverse_model_hessian(
    here: Tensor, radius: Tensor, positions: Tensor, free: Tensor, model: HessianModel
) -> Tensor:
    n_rows, width = free.shape
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device)
    r_ij = positions[:, None, :] - positions[:, :, None]  # [n_rows, w, w, 3]
    distance = r_ij.square().sum(-1).sqrt()
    # Two atoms in one place have no direction, hence no spring; a coordinate that is not finite
    # has none either. Such molecules end at their first force call.
    pair = here[:, None, :] & here[:, :, None] & distance.isfinite() & (distance > 0)
    q = torch.where(pair, distance / (radius[:, None, :] + radius[:, :, None]), torch.inf)
    # Where there is no pair q is infinite, and a curve of 0 times that no number.
    beyond = (q - 1.0).clamp(max=FARTHEST)
    fall = model.spring_decay * beyond + model.spring_curve * beyond * beyond
    along_k = (model.spring * torch.exp(-fall)).clamp(max=model.spring_max)
    across_k = (model.sideways * torch.exp(-model.sideways_decay * beyond)).clamp(
        max=model.spring_max
    )
    unit = torch.where(pair[..., None], r_ij / distance[..., None], 0.0)
    along = unit[..., :, None] * unit[..., None, :]
    block = along_k[..., None, None] * along
    block = block + across_k[..., None, None] * (identity - along)
    own = block.sum(2) + model.ground * identity  # [n_rows, w, 3, 3]
    both = free[:, None, :] & free[:, :, None]
    hessian = torch.where(both[..., None, None], -block, 0.0)
    hessian.diagonal(dim1=1, dim2=2).copy_(
        torch.where(free[..., None, None], own, identity).permute(0, 2, 3, 1)
    )
    hessian = hessian.transpose(2, 3).reshape(n_rows, 3 * width, 3 * width)
    if width > 2:
        stiffness, direction = _bends(q, unit, distance, free, model)
        hessian = hessian + direction.mT @ (stiffness[..., None] * direction)
    factor, _ = torch.linalg.cholesky_ex(hessian)
    whole = torch.eye(3 * width, dtype=positions.dtype, device=positions.device)
    half = torch.linalg.solve_triangular(factor, whole.expand_as(factor), upper=False)
    return half.mT @ half


def _bends(
    q: Tensor, unit: Tensor, distance: Tensor, free: Tensor, model: HessianModel
) -> tuple[Tensor, Tensor]:
    """Angles between bonds: their stiffness, and how they change as atoms move.

    E. B. Wilson, J. C. Decius, P. C. Cross, "Molecular Vibrations", 1955, section 4-1.

    Args:
        q: Distances over the sums of covalent radii, infinite where there is no pair
            [n_rows, w, w].
        unit: From the first atom to the second [n_rows, w, w, 3].
        distance: Å [n_rows, w, w].
        free: Atoms that may move, bool [n_rows, w].
        model: The constants.

    Returns:
        eV/rad² [n_rows, n_bends], and rad/Å [n_rows, n_bends, 3 w].
    """
    n_rows, width = free.shape
    n_bonds = min(MOST_BONDS, width - 1)
    near, bonded = q.topk(n_bonds, dim=-1, largest=False)  # [n_rows, w, n_bonds]
    first, second = torch.triu_indices(n_bonds, n_bonds, 1, device=q.device)
    decay = torch.where(near < BONDED, torch.exp(-model.bend_decay * (near - 1.0)), 0.0)
    stiffness = model.bend * decay[..., first] * decay[..., second]
    stiffness = stiffness.clamp(max=model.spring_max).flatten(1)
    u = unit.gather(2, bonded[..., None].expand(-1, -1, -1, 3))
    d = torch.where(near < BONDED, distance.gather(2, bonded), 1.0).clamp(min=SHORTEST)
    (u_i, u_k), (d_i, d_k) = (u[:, :, first], u[:, :, second]), (d[..., first], d[..., second])
    cosine = (u_i * u_k).sum(-1, keepdim=True)
    sine = (1.0 - cosine * cosine + IN_LINE).sqrt()
    of_i = (cosine * u_i - u_k) / (d_i[..., None] * sine)
    of_k = (cosine * u_k - u_i) / (d_k[..., None] * sine)
    centre = torch.arange(width, device=q.device)[:, None].expand(n_rows, -1, len(first))
    direction = q.new_zeros(n_rows, width * len(first), width, 3)
    for atom, of_atom in (
        (bonded[..., first], of_i),
        (bonded[..., second], of_k),
        (centre, -of_i - of_k),
    ):
        moves = torch.where(free.gather(1, atom.flatten(1))[..., None], of_atom.flatten(1, 2), 0.0)
        # The three atoms of an angle are three places: nothing is added up here.
        place = atom.flatten(1)[..., None, None].expand(-1, -1, 1, 3)
        direction.scatter_(2, place, moves[:, :, None])
    return stiffness, direction.flatten(2)
