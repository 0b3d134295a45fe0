"""Batched minimisers: one function a step, every molecule on its own path.

An optimiser is a pair in `OPTIMIZERS`: what it keeps of each molecule when it enters, and its step.
Tensors are rows of `slots.Rows`: n_slots molecules, padded to w atoms. All are ASE's (A. H. Larsen
et al., J. Phys.: Condens. Matter 29, 273002, 2017) made per-molecule; where they differ, the
function's docstring says so and why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mlff_core.elements import COVALENT_RADII
from mlff_core.moves.slots import Rows, State, where_row

#: Longest move of any atom in one step of L-BFGS, and of all atoms together in FIRE, in Å (ASE).
MAX_STEP = 0.2

#: Pairs of (step, change of gradient) that L-BFGS keeps.
HISTORY = 10
#: Shortest that its trust radius gets after failed steps, in Å.
MIN_RADIUS = 1e-3
#: Initial curvature in eV/Å² where no model of the Hessian is wanted (ASE).
CURVATURE = 70.0

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

#: Pairs that ASE's LBFGS keeps.
ASE_HISTORY = 100

#: FIRE, ASE's parameters.
FIRE_DT, FIRE_DT_MAX, FIRE_N_MIN = 0.1, 1.0, 5
FIRE_INCREASE, FIRE_DECREASE, FIRE_MIX, FIRE_MIX_DECREASE = 1.1, 0.5, 0.1, 0.99


@dataclass(frozen=True)
class Point:
    """The force call at the trial points, beside the points accepted before.

    Attributes:
        free: Atoms that may move, bool [n_slots, w].
        step: From the accepted to the trial point, Å [n_slots, w, 3].
        forces: At the trial point, eV/Å, zero on atoms that may not move [n_slots, w, 3].
        accepted_forces: At the accepted point, likewise [n_slots, w, 3].
        first: The molecule's first force call; nothing was accepted before, bool [n_slots].
        finite: Energy and forces at the trial point are numbers, bool [n_slots].
        not_above: The trial point's energy is not above the accepted one's, bool [n_slots].
    """

    free: Tensor
    step: Tensor
    forces: Tensor
    accepted_forces: Tensor
    first: Tensor
    finite: Tensor
    not_above: Tensor


@dataclass(frozen=True)
class Optimizer:
    """A minimiser.

    Attributes:
        enter: From molecules, and whether to model their Hessian, to what is kept of each.
        step: From the state and a force call to: is the trial point accepted, bool [n_slots]; the
            displacement from the point that is now accepted to the next trial point
            [n_slots, w, 3]; and what changed of the state.
        constants: Under the names that its kernel in `minimise_triton.py` has for them; None for a
            minimiser that has no kernel and makes its plain steps on CUDA too.
        double: Positions are kept in float64, whatever the model computes in, as ASE keeps them.
    """

    enter: Callable[[Rows, bool], State]
    step: Callable[[State, Point], tuple[Tensor, Tensor, State]]
    constants: dict[str, float] | None
    double: bool = False


# --- L-BFGS --------------------------------------------------------------------------------------


def lbfgs_enter(rows: Rows, model_hessian: bool) -> State:
    """No history, the full trust radius, and the inverse of the model Hessian if it is wanted."""
    n_slots, width = rows.numbers.shape
    zeros = rows.positions.new_zeros
    state = {
        "s": zeros(n_slots, HISTORY, 3 * width),  # steps in Å, the newest first
        "y": zeros(n_slots, HISTORY, 3 * width),  # changes of the gradient over them, eV/Å
        "rho": zeros(n_slots, HISTORY, dtype=torch.float64),  # 1 / s·y, 0 where there is no pair
        "scale": zeros(n_slots, dtype=torch.float64) + 1.0,  # of the initial inverse Hessian
        "radius": zeros(n_slots) + MAX_STEP,
        "longest": zeros(n_slots),  # how far any atom went in the last step, Å
    }
    if model_hessian:
        state["inverse"] = inverse_model_hessian(rows)
        # Products with it cost more than all else here, so those that come again are kept.
        state["inverse_forces"] = zeros(n_slots, 3 * width)
        state["inverse_y"] = zeros(n_slots, HISTORY, 3 * width)
    return state


def lbfgs_step(state: State, point: Point) -> tuple[Tensor, Tensor, State]:
    """L-BFGS: J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., algorithm 7.4.

    As in ASE, the full step is taken, cut so that no atom goes further than the trust radius, and
    the radius is 0.2 Å. Unlike in ASE:
    - a trial point above the accepted one is refused: the next step starts from the accepted point
      again, with at most half the length and with what the failed step taught about curvature;
    - pairs without positive curvature are not kept, so that every direction leads downhill;
    - the initial Hessian is scaled by the newest curvature (eq. 7.20) and may be a model of the
      molecule's own, `inverse_model_hessian`, instead of a constant.
    """
    n_slots, width = point.free.shape
    accept = point.first | point.not_above
    forces = point.forces.reshape(n_slots, -1)
    before = point.accepted_forces.reshape(n_slots, -1)
    s, y = point.step.reshape(n_slots, -1), before - forces
    sy, ss, yy = _dot(s, y), _dot(s, s), _dot(y, y)
    # Below this share of |s| |y| the product is rounding.
    known = ~point.first & point.finite & (sy > 1e-6 * (ss * yy).sqrt())

    def push(name: str, newest: Tensor) -> Tensor:
        history = state[name]
        return where_row(known, torch.cat([newest[:, None], history[:, :-1]], 1), history)

    S, Y, rho = push("s", s), push("y", y), push("rho", 1.0 / sy)
    changed = {"s": S, "y": Y, "rho": rho}
    # The unscaled initial inverse Hessian times the forces and times each y, here and below.
    if "inverse" in state:
        inverse_forces = (state["inverse"] * forces[:, None, :]).sum(-1)
        inverse_y = state["inverse_forces"] - inverse_forces
        inverse_Y = push("inverse_y", inverse_y)
        inverse_forces = where_row(accept, inverse_forces, state["inverse_forces"])
        changed |= {"inverse_y": inverse_Y, "inverse_forces": inverse_forces}
    else:
        inverse_y, inverse_Y = y / CURVATURE, Y / CURVATURE
        inverse_forces = where_row(accept, forces, before) / CURVATURE
    measured = (sy / _dot(y, inverse_y)).clamp(0.1, 10.0)
    scale = torch.where(known, measured, state["scale"])

    # A pair that is not there has rho = 0 and does nothing in either loop. The first loop turns
    # the forces into q; the product of the initial inverse Hessian with q is built up beside it.
    q, direction = where_row(accept, forces, before), inverse_forces
    alphas = []
    for k in range(HISTORY):
        alpha = rho[:, k] * _dot(S[:, k], q)
        narrow = alpha.to(q.dtype)[:, None]
        q, direction = q - narrow * Y[:, k], direction - narrow * inverse_Y[:, k]
        alphas.append(alpha)
    direction = direction * scale.to(direction.dtype)[:, None]
    for k in reversed(range(HISTORY)):
        beta = rho[:, k] * _dot(Y[:, k], direction)
        direction = direction + (alphas[k] - beta).to(direction.dtype)[:, None] * S[:, k]

    shorter = (0.5 * torch.minimum(state["radius"], state["longest"])).clamp(min=MIN_RADIUS)
    radius = torch.where(accept, (2.0 * state["radius"]).clamp(max=MAX_STEP), shorter)
    displacement = direction.view(n_slots, width, 3)
    longest = displacement.square().sum(-1).amax(-1).sqrt()
    displacement = displacement * (radius / longest.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    changed |= {"scale": scale, "radius": radius, "longest": torch.minimum(longest, radius)}
    return accept, displacement, changed


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot product along the last axis, summed in float64."""
    return (a * b).sum(-1, dtype=torch.float64)


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


# --- ASE's L-BFGS ---------------------------------------------------------------------------------


def ase_lbfgs_enter(rows: Rows, model_hessian: bool) -> State:
    """No history. The initial Hessian is ASE's constant, and there is no other."""
    n_slots, width = rows.numbers.shape
    zeros = rows.positions.new_zeros
    return {
        "s": zeros(n_slots, ASE_HISTORY, 3 * width),  # steps in Å, the newest first
        "y": zeros(n_slots, ASE_HISTORY, 3 * width),  # changes of the gradient over them, eV/Å
        "rho": zeros(n_slots, ASE_HISTORY, dtype=torch.float64),  # 1 / s·y, 0 where there is none
    }


def ase_lbfgs_step(state: State, point: Point) -> tuple[Tensor, Tensor, State]:
    """ASE's LBFGS with its defaults, step for step: for energies that are to be ASE's own.

    Every trial point is accepted, every pair is kept, the initial Hessian stays what it is.
    """
    n_slots, width = point.free.shape
    forces = point.forces.reshape(n_slots, -1)
    s, y = point.step.reshape(n_slots, -1), point.accepted_forces.reshape(n_slots, -1) - forces
    sy = _dot(s, y)
    newest = {"s": s, "y": y, "rho": torch.where(sy == 0, 0.0, 1.0 / sy)}
    changed = {}
    for name, value in newest.items():
        history = state[name]
        pushed = torch.cat([value[:, None], history[:, :-1]], 1)
        changed[name] = where_row(~point.first, pushed, history)

    S, Y, rho = (changed[name] for name in ("s", "y", "rho"))
    # The host waits here, as it does for the plain force call.
    n_pairs = int((rho != 0).any(0).sum())
    direction, alphas = forces, []
    for k in range(n_pairs):
        alpha = rho[:, k] * _dot(S[:, k], direction)
        direction = direction - alpha.to(s.dtype)[:, None] * Y[:, k]
        alphas.append(alpha)
    direction = direction / CURVATURE
    for k in reversed(range(n_pairs)):
        beta = rho[:, k] * _dot(Y[:, k], direction)
        direction = direction + (alphas[k] - beta).to(s.dtype)[:, None] * S[:, k]

    displacement = direction.view(n_slots, width, 3)
    longest = displacement.square().sum(-1).amax(-1).sqrt()
    shorter = (MAX_STEP / longest.clamp(min=1e-12)).clamp(max=1.0)
    return torch.ones_like(point.first), displacement * shorter[:, None, None], changed


# --- FIRE ----------------------------------------------------------------------------------------


def fire_enter(rows: Rows, model_hessian: bool) -> State:
    """At rest. FIRE has no Hessian to model."""
    return {
        "velocity": torch.zeros_like(rows.positions),
        "dt": torch.full_like(rows.positions[:, 0, 0], FIRE_DT),
        "mix": torch.full_like(rows.positions[:, 0, 0], FIRE_MIX),
        "n_downhill": torch.zeros_like(rows.sizes),  # steps since the power was last negative
    }


def fire_step(state: State, point: Point) -> tuple[Tensor, Tensor, State]:
    """FIRE: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), step for step as ASE has it."""
    f, v = point.forces, state["velocity"]
    dt, mix, n = state["dt"], state["mix"], state["n_downhill"]
    power, ff, vv = ((a * b).sum((1, 2)) for a, b in ((f, v), (f, f), (v, v)))
    downhill = power > 0
    faster = downhill & (n > FIRE_N_MIN)
    steered = (1.0 - mix)[:, None, None] * v
    steered = steered + (mix * vv.sqrt() / ff.clamp(min=1e-30).sqrt())[:, None, None] * f
    # At the first force call there is no velocity yet, and nothing to learn from that.
    stopped = ~downhill & ~point.first
    v = where_row(downhill, steered, torch.zeros_like(v))
    dt = torch.where(faster, (dt * FIRE_INCREASE).clamp(max=FIRE_DT_MAX), dt)
    dt = torch.where(stopped, dt * FIRE_DECREASE, dt)
    mix = torch.where(faster, mix * FIRE_MIX_DECREASE, mix)
    mix = torch.where(stopped, FIRE_MIX, mix)
    n = torch.where(downhill, n + 1, 0)

    v = v + dt[:, None, None] * f
    displacement = dt[:, None, None] * v
    length = displacement.square().sum((1, 2)).sqrt()
    displacement = displacement * (MAX_STEP / length.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    new = {"velocity": v, "dt": dt, "mix": mix, "n_downhill": n}
    return torch.ones_like(point.first), displacement, new


OPTIMIZERS: dict[str, Optimizer] = {
    "lbfgs": Optimizer(
        lbfgs_enter,
        lbfgs_step,
        {
            "HISTORY": HISTORY,
            "MAX_STEP": MAX_STEP,
            "MIN_RADIUS": MIN_RADIUS,
            "CURVATURE": CURVATURE,
        },
    ),
    "ase-lbfgs": Optimizer(ase_lbfgs_enter, ase_lbfgs_step, None, double=True),
    "fire": Optimizer(
        fire_enter,
        fire_step,
        {
            "DT_MAX": FIRE_DT_MAX,
            "N_MIN": FIRE_N_MIN,
            "INCREASE": FIRE_INCREASE,
            "DECREASE": FIRE_DECREASE,
            "MIX": FIRE_MIX,
            "MIX_DECREASE": FIRE_MIX_DECREASE,
            "MAX_STEP": MAX_STEP,
        },
    ),
}
