"""FIRE, every molecule on its own path."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.moves.slots import Rows
from mlff_core.moves.state import FireMemory, Point, where_row

#: Longest move of all atoms of a molecule together in one step, in Å (ASE).
LONGEST_STEP = 0.2
#: ASE's parameters.
DT, DT_MAX, N_MIN = 0.1, 1.0, 5
INCREASE, DECREASE, MIX, MIX_DECREASE = 1.1, 0.5, 0.1, 0.99


class FireConstants(NamedTuple):
    """The constants above, for compiled steps."""

    dt_max: float = DT_MAX
    n_min: int = N_MIN
    increase: float = INCREASE
    decrease: float = DECREASE
    mix: float = MIX
    mix_decrease: float = MIX_DECREASE
    longest_step: float = LONGEST_STEP


def fire_enter(rows: Rows, model_hessian: bool, near: bool = False) -> FireMemory:
    """At rest. FIRE has no Hessian to model."""
    return FireMemory(
        velocity=torch.zeros_like(rows.positions),
        dt=torch.full_like(rows.positions[:, 0, 0], DT),
        mix=torch.full_like(rows.positions[:, 0, 0], MIX),
        n_downhill=torch.zeros_like(rows.sizes),
    )


def fire_step(memory: FireMemory, point: Point) -> tuple[Tensor, Tensor, FireMemory]:
    """FIRE: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), step for step as ASE has it."""
    f = point.forces
    v, dt, mix, n = memory
    power, ff, vv = ((a * b).sum((1, 2)) for a, b in ((f, v), (f, f), (v, v)))
    downhill = power > 0
    faster = downhill & (n > N_MIN)
    steered = (1.0 - mix)[:, None, None] * v
    steered = steered + (mix * vv.sqrt() / ff.clamp(min=1e-30).sqrt())[:, None, None] * f
    # At the first force call there is no velocity yet, and nothing to learn from that.
    stopped = ~downhill & ~point.first
    v = where_row(downhill, steered, torch.zeros_like(v))
    dt = torch.where(faster, (dt * INCREASE).clamp(max=DT_MAX), dt)
    dt = torch.where(stopped, dt * DECREASE, dt)
    mix = torch.where(faster, mix * MIX_DECREASE, mix)
    mix = torch.where(stopped, MIX, mix)
    n = torch.where(downhill, n + 1, 0)

    v = v + dt[:, None, None] * f
    displacement = dt[:, None, None] * v
    length = displacement.square().sum((1, 2)).sqrt()
    displacement = (
        displacement * (LONGEST_STEP / length.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    )
    return torch.ones_like(point.first), displacement, FireMemory(v, dt, mix, n)
