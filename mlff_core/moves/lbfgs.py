"""L-BFGS with a trust radius, every molecule on its own path."""

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.moves import hessian
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL, HessianModel
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import LbfgsMemory, Point, dot, where_row

log = logging.getLogger(__name__)

#: Longest move of any atom in one step, in Å (ASE).
LONGEST_STEP = 0.2
#: Pairs of (step, change of gradient) that are kept.
HISTORY = 10
#: Shortest that the trust radius gets after failed steps, in Å.
MIN_RADIUS = 1e-3
#: Initial curvature in eV/Å² where no model of the Hessian is wanted (ASE).
CURVATURE = 70.0
#: Largest force in eV/Å below which the model of the Hessian is made anew, and once more.
RENEW_BELOW, RENEW_AGAIN_BELOW = 0.3, 0.1
#: How often that is.
RENEWALS = 2


class LbfgsConstants(NamedTuple):
    """The constants above, for compiled steps."""

    history: int = HISTORY
    longest_step: float = LONGEST_STEP
    min_radius: float = MIN_RADIUS
    curvature: float = CURVATURE
    renew_below: float = RENEW_BELOW
    renew_again_below: float = RENEW_AGAIN_BELOW


def inverse_model_hessian(rows: Rows, model: HessianModel) -> Tensor:
    """See `hessian.inverse_model_hessian`; on CUDA, in float32, in one launch."""
    kernel = _kernel(rows.positions.device) if rows.positions.dtype == torch.float32 else None
    return (kernel or hessian.inverse_model_hessian)(rows, model)


@cache
def _kernel(device: torch.device) -> Callable[[Rows, HessianModel], Tensor] | None:
    """What does it in one launch, where that can be done."""
    if device.type != "cuda":
        return None
    try:
        # Triton is an extra.
        from mlff_core.moves.hessian_triton import inverse_model_hessian

        inverse_model_hessian(Rows.empty(1, 1, device, torch.float32), MODEL)
    except Exception as error:  # whatever keeps its kernels from running here
        log.warning("models of Hessians are made by plain operators: %s", error)
        return None
    return inverse_model_hessian


def lbfgs_enter(rows: Rows, model_hessian: bool, near: bool = False) -> LbfgsMemory:
    """No history, the full trust radius, and the inverse of the model Hessian if it is wanted.

    Near a minimum the model is at once the one that others get on their way, and stays.
    """
    n_slots, width = rows.numbers.shape
    zeros = rows.positions.new_zeros
    memory = LbfgsMemory(
        s=zeros(n_slots, HISTORY, 3 * width),
        y=zeros(n_slots, HISTORY, 3 * width),
        rho=zeros(n_slots, HISTORY, dtype=torch.float64),
        scale=zeros(n_slots, dtype=torch.float64) + 1.0,
        radius=zeros(n_slots) + LONGEST_STEP,
        longest=zeros(n_slots),
    )
    if not model_hessian:
        return memory
    return memory._replace(
        inverse=inverse_model_hessian(rows, RENEWED_MODEL if near else MODEL),
        inverse_forces=zeros(n_slots, 3 * width),
        inverse_y=zeros(n_slots, HISTORY, 3 * width),
        renewed=torch.full_like(rows.sizes, RENEWALS if near else 0),
    )


def lbfgs_renews(memory: LbfgsMemory, max_force: Tensor) -> Tensor:
    """Which molecules are to get another model of their Hessian, bool [n_slots].

    Where a molecule enters, its bonds and angles are those of an embedding, and turned otherwise
    than at the minimum. Nearer to it they are known, and so is how soft the rest is.
    """
    if memory.renewed is None:
        return torch.zeros_like(max_force, dtype=torch.bool)
    below = torch.where(memory.renewed == 0, RENEW_BELOW, RENEW_AGAIN_BELOW)
    return (memory.renewed < RENEWALS) & (max_force < below)


def lbfgs_renew(rows: Rows, memory: LbfgsMemory, forces: Tensor) -> LbfgsMemory:
    """The same pairs above a model of the Hessian at another point.

    Args:
        rows: The molecules, their positions those of the accepted point.
        memory: What is kept of them.
        forces: At the accepted point, zero on atoms that may not move, eV/Å [n_rows, w, 3].
    """
    inverse = inverse_model_hessian(rows, RENEWED_MODEL)
    assert memory.renewed is not None

    def times(vectors: Tensor) -> Tensor:
        return (inverse * vectors[:, None, :]).sum(-1)

    return memory._replace(
        inverse=inverse,
        inverse_forces=times(forces.flatten(1)),
        inverse_y=torch.stack([times(y) for y in memory.y.unbind(1)], 1),
        scale=torch.ones_like(memory.scale),
        # Whoever is that near already needs no other one soon.
        renewed=torch.where(longest(forces) < RENEW_AGAIN_BELOW, RENEWALS, 1),
    )


def lbfgs_step(memory: LbfgsMemory, point: Point) -> tuple[Tensor, Tensor, LbfgsMemory]:
    """L-BFGS: J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., algorithm 7.4.

    As in ASE, the full step is taken, cut so that no atom goes further than the trust radius, and
    the radius is 0.2 Å. Unlike in ASE:
    - a trial point above the accepted one is refused: the next step starts from the accepted point
      again, with at most half the length and with what the failed step taught about curvature;
    - pairs without positive curvature are not kept, so that every direction leads downhill;
    - the initial Hessian is scaled by the newest curvature (eq. 7.20) and may be a model of the
      molecule's own, `inverse_model_hessian`, instead of a constant; below RENEW_BELOW it is made
      anew at the point that was come to, and once more below RENEW_AGAIN_BELOW.
    """
    n_slots, width = point.free.shape
    accept = point.first | point.not_above
    forces = point.forces.reshape(n_slots, -1)
    before = point.accepted_forces.reshape(n_slots, -1)
    s, y = point.step.reshape(n_slots, -1), before - forces
    sy, ss, yy = dot(s, y), dot(s, s), dot(y, y)
    # Below this share of |s| |y| the product is rounding.
    known = ~point.first & point.finite & (sy > 1e-6 * (ss * yy).sqrt())

    def push(history: Tensor, newest: Tensor) -> Tensor:
        return where_row(known, torch.cat([newest[:, None], history[:, :-1]], 1), history)

    S, Y, rho = push(memory.s, s), push(memory.y, y), push(memory.rho, 1.0 / sy)
    changed = memory._replace(s=S, y=Y, rho=rho)
    # The unscaled initial inverse Hessian times the forces and times each y, here and below.
    if memory.inverse is not None:
        assert memory.inverse_forces is not None
        assert memory.inverse_y is not None
        inverse_forces = (memory.inverse * forces[:, None, :]).sum(-1)
        inverse_y = memory.inverse_forces - inverse_forces
        inverse_Y = push(memory.inverse_y, inverse_y)
        inverse_forces = where_row(accept, inverse_forces, memory.inverse_forces)
        changed = changed._replace(inverse_y=inverse_Y, inverse_forces=inverse_forces)
    else:
        inverse_y, inverse_Y = y / CURVATURE, Y / CURVATURE
        inverse_forces = where_row(accept, forces, before) / CURVATURE
    measured = (sy / dot(y, inverse_y)).clamp(0.1, 10.0)
    scale = torch.where(known, measured, memory.scale)

    # A pair that is not there has rho = 0 and does nothing in either loop. The first loop turns
    # the forces into q; the product of the initial inverse Hessian with q is built up beside it.
    q, direction = where_row(accept, forces, before), inverse_forces
    alphas = []
    for k in range(HISTORY):
        alpha = rho[:, k] * dot(S[:, k], q)
        narrow = alpha.to(q.dtype)[:, None]
        q, direction = q - narrow * Y[:, k], direction - narrow * inverse_Y[:, k]
        alphas.append(alpha)
    direction = direction * scale.to(direction.dtype)[:, None]
    for k in reversed(range(HISTORY)):
        beta = rho[:, k] * dot(Y[:, k], direction)
        direction = direction + (alphas[k] - beta).to(direction.dtype)[:, None] * S[:, k]

    shorter = (0.5 * torch.minimum(memory.radius, memory.longest)).clamp(min=MIN_RADIUS)
    radius = torch.where(accept, (2.0 * memory.radius).clamp(max=LONGEST_STEP), shorter)
    displacement = direction.view(n_slots, width, 3)
    furthest = longest(displacement)
    displacement = displacement * (radius / furthest.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    furthest = torch.minimum(furthest, radius)
    return accept, displacement, changed._replace(scale=scale, radius=radius, longest=furthest)


def longest(vectors: Tensor) -> Tensor:
    """Length of the longest vector of each row [n_rows, w, 3]."""
    return vectors.square().sum(-1).amax(-1).sqrt()
