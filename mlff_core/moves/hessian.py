"""A model of a molecule's Hessian, which L-BFGS begins with."""

from functools import cache

import torch
from torch import Tensor

from mlff_core.elements import COVALENT_RADII
from mlff_core.moves.slots import Rows

#: The model of the Hessian: springs of SPRING · exp(-SPRING_DECAY (d / contact - 1)) eV/Å² between
#: all atoms, at most SPRING_MAX, of which the share SPRING_SIDEWAYS also resists motion across the
#: pair (bending), on a ground of SPRING_GROUND. Chosen on MMFF94 minima of 24 drugs, but for the
#: ground, which decides how far soft torsions are let slide at first: a low one saves steps, a high
#: one ends in the basin of ASE's LBFGS more often. On 100 drug-like molecules and an earlier
#: student, grounds of 5, 10, 20 and 40 took 43, 45, 44 and 51 steps on average and ended there in
#: 86, 88, 90 and 92 %; a constant Hessian took 79 steps and ended there in 93 %.
SPRING, SPRING_DECAY, SPRING_MAX = 40.0, 4.0, 80.0
SPRING_SIDEWAYS, SPRING_GROUND = 0.25, 20.0
#: Elements of the models that are built at once; bounds the memory when many enter together.
HESSIAN_CHUNK = 5_000_000


def inverse_model_hessian(rows: Rows) -> Tensor:
    """Inverse of a model of each molecule's Hessian at its initial positions, Å²/eV.

    Bonds are a hundred times stiffer than torsions. A constant initial Hessian leaves all of that
    for the history to learn; springs between all pairs, the pairwise part of the idea of R. Lindh
    et al., Chem. Phys. Lett. 241, 423 (1995), know most of it from the start.

    Returns:
        [n_rows, 3 w, 3 w]; rows of atoms that may not move, and of padding, are the identity's.
    """
    radius = _covalent_radius(rows.positions.device, rows.positions.dtype)
    width = rows.free.shape[1]
    chunk = max(HESSIAN_CHUNK // (3 * width) ** 2, 1)
    chunks = zip(
        rows.numbers.split(chunk), rows.positions.split(chunk), rows.free.split(chunk), strict=True
    )
    return torch.cat([_inverse_model_hessian(z != 0, radius[z], x, free) for z, x, free in chunks])


@cache
def _covalent_radius(device: torch.device, dtype: torch.dtype) -> Tensor:
    """By atomic number, Å [128]; 1 Å where none is known."""
    radius = torch.ones(128, dtype=dtype)
    radius[list(COVALENT_RADII)] = torch.tensor(list(COVALENT_RADII.values()), dtype=dtype)
    return radius.to(device)


def _inverse_model_hessian(here: Tensor, radius: Tensor, positions: Tensor, free: Tensor) -> Tensor:
    n_rows, width = free.shape
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device)
    r_ij = positions[:, None, :] - positions[:, :, None]  # [n_rows, w, w, 3]
    distance = r_ij.square().sum(-1).sqrt()
    contact = radius[:, None, :] + radius[:, :, None]
    # Two atoms in one place have no direction, hence no spring; a coordinate that is not finite
    # has none either. Such molecules end at their first force call.
    pair = here[:, None, :] & here[:, :, None] & distance.isfinite() & (distance > 0)
    k = SPRING * torch.exp(-SPRING_DECAY * (distance / contact - 1.0))
    k = torch.where(pair, k.clamp(max=SPRING_MAX), 0.0)
    unit = torch.where(pair[..., None], r_ij / distance[..., None], 0.0)
    along = unit[..., :, None] * unit[..., None, :]
    block = k[..., None, None] * ((1.0 - SPRING_SIDEWAYS) * along + SPRING_SIDEWAYS * identity)
    own = block.sum(2) + SPRING_GROUND * identity  # [n_rows, w, 3, 3]
    both = free[:, None, :] & free[:, :, None]
    hessian = torch.where(both[..., None, None], -block, 0.0)
    hessian.diagonal(dim1=1, dim2=2).copy_(
        torch.where(free[..., None, None], own, identity).permute(0, 2, 3, 1)
    )
    hessian = hessian.transpose(2, 3).reshape(n_rows, 3 * width, 3 * width)
    factor, _ = torch.linalg.cholesky_ex(hessian)
    whole = torch.eye(3 * width, dtype=positions.dtype, device=positions.device)
    half = torch.linalg.solve_triangular(factor, whole.expand_as(factor), upper=False)
    return half.mT @ half
