"""The L-BFGS of ASE, step for step, every molecule on its own path."""

import torch
from torch import Tensor

from mlff_core.moves.lbfgs import CURVATURE, LONGEST_STEP
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import AseLbfgsMemory, Point, dot, each, where_rows

#: Pairs that are kept.
ASE_HISTORY = 100


def ase_lbfgs_enter(rows: Rows, model_hessian: bool, near: bool = False) -> AseLbfgsMemory:
    """No history. The initial Hessian is ASE's constant, and there is no other."""
    n_slots, width = rows.numbers.shape
    zeros = rows.positions.new_zeros
    return AseLbfgsMemory(
        s=zeros(n_slots, ASE_HISTORY, 3 * width),
        y=zeros(n_slots, ASE_HISTORY, 3 * width),
        rho=zeros(n_slots, ASE_HISTORY, dtype=torch.float64),
    )


def ase_lbfgs_step(memory: AseLbfgsMemory, point: Point) -> tuple[Tensor, Tensor, AseLbfgsMemory]:
    """ASE's LBFGS with its defaults, step for step: for energies that are to be ASE's own.

    Every trial point is accepted, every pair is kept, the initial Hessian stays what it is.
    """
    n_slots, width = point.free.shape
    forces = point.forces.reshape(n_slots, -1)
    s, y = point.step.reshape(n_slots, -1), point.accepted_forces.reshape(n_slots, -1) - forces
    sy = dot(s, y)
    newest = AseLbfgsMemory(s, y, torch.where(sy == 0, 0.0, 1.0 / sy))
    pushed = each(lambda new, kept: torch.cat([new[:, None], kept[:, :-1]], 1), newest, memory)
    changed = where_rows(~point.first, pushed, memory)
    S, Y, rho = changed
    # The host waits here, as it does for the plain force call.
    n_pairs = int((rho != 0).any(0).sum())
    direction, alphas = forces, []
    for k in range(n_pairs):
        alpha = rho[:, k] * dot(S[:, k], direction)
        direction = direction - alpha.to(s.dtype)[:, None] * Y[:, k]
        alphas.append(alpha)
    direction = direction / CURVATURE
    for k in reversed(range(n_pairs)):
        beta = rho[:, k] * dot(Y[:, k], direction)
        direction = direction + (alphas[k] - beta).to(s.dtype)[:, None] * S[:, k]

    displacement = direction.view(n_slots, width, 3)
    longest = displacement.square().sum(-1).amax(-1).sqrt()
    shorter = (LONGEST_STEP / longest.clamp(min=1e-12)).clamp(max=1.0)
    return torch.ones_like(point.first), displacement * shorter[:, None, None], changed
