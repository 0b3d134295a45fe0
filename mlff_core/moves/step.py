"""The plain step of a relaxation: what the compiled ones mean."""

import torch
from torch import Tensor

from mlff_core.models.force_field import ForceField
from mlff_core.moves.optimizers import OPTIMIZERS
from mlff_core.moves.rules import Rules, SlotStatus, verdict
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Rows, evaluate_rows
from mlff_core.moves.state import Point, RelaxState, overwrite, take, where_row, where_rows


def enter(rows: Rows, settings: RelaxSettings, *, near: bool = False) -> RelaxState:
    """The state in which molecules begin: running, at their initial positions, nothing known.

    Args:
        rows: The molecules.
        settings: What is asked for.
        near: They are near a minimum already.
    """

    def zeros(dtype: torch.dtype = rows.positions.dtype) -> Tensor:
        return torch.zeros(len(rows.sizes), dtype=dtype, device=rows.sizes.device)

    return RelaxState(
        status=torch.where(rows.sizes > 0, SlotStatus.RUNNING.value, SlotStatus.VACANT.value),
        n_steps=torch.zeros_like(rows.sizes),
        trial=rows.positions.clone(),
        positions=rows.positions.clone(),
        forces=torch.zeros_like(rows.positions),
        energy=zeros(torch.float64) + torch.inf,
        max_force=zeros(),
        initial_energy=zeros(torch.float64),
        initial_max_force=zeros(),
        memory=OPTIMIZERS[settings.optimizer].enter(rows, settings.model_hessian, near),
    )


def renew(rows: Rows, state: RelaxState, index: Tensor, settings: RelaxSettings) -> None:
    """Make anew what the minimiser keeps of molecules that wait for it, and let them go on.

    Args:
        rows: The molecules.
        state: Changed in place.
        index: Those that wait, `SlotStatus.RENEWING`, int64 [n].
        settings: What is asked for.
    """
    make = OPTIMIZERS[settings.optimizer].renew
    assert make is not None
    here = take(rows, index)._replace(positions=state.positions[index])
    forces = torch.where(here.free[..., None], state.forces[index], 0.0)
    overwrite(state.memory, index, make(here, take(state.memory, index), forces))
    state.status.index_fill_(0, index, SlotStatus.RUNNING.value)


def step(
    rows: Rows, state: RelaxState, potential: ForceField, settings: RelaxSettings, rules: Rules
) -> RelaxState:
    """One force call and one move of every running molecule; the others stay as they are."""
    optimizer = OPTIMIZERS[settings.optimizer]
    running, first = state.status == SlotStatus.RUNNING, state.energy.isposinf()
    energy, forces = evaluate_rows(rows, state.trial, running, potential)
    free = rows.free[..., None]
    finite = energy.isfinite() & forces.isfinite().all(-1).all(-1)
    point = Point(
        free=rows.free,
        step=state.trial - state.positions,
        forces=torch.where(free, forces, 0.0),
        accepted_forces=torch.where(free, state.forces, 0.0),
        first=first,
        finite=finite,
        not_above=energy <= state.energy + rules.limits.noise * rows.sizes,
    )
    accept, displacement, memory = optimizer.step(state.memory, point)
    accept = running & finite & accept
    begins = accept & first
    max_force = point.forces.square().sum(-1).amax(-1).sqrt()
    state = state._replace(
        positions=where_row(accept, state.trial, state.positions),
        forces=where_row(accept, forces, state.forces),
        energy=torch.where(accept, energy, state.energy),
        max_force=torch.where(accept, max_force, state.max_force),
        initial_energy=torch.where(begins, energy, state.initial_energy),
        initial_max_force=torch.where(begins, max_force, state.initial_max_force),
        memory=where_rows(running, memory, state.memory),
    )
    ending = verdict(rows.positions, rows.sizes, state, rules)
    status = torch.where(finite, ending, SlotStatus.NON_FINITE.value)
    moves = running & (status == SlotStatus.RUNNING)
    if optimizer.renews is not None:
        renews = moves & optimizer.renews(state.memory, state.max_force)
        status = torch.where(renews, SlotStatus.RENEWING.value, status)
    return state._replace(
        status=torch.where(running, status, state.status),
        trial=where_row(moves, state.positions + displacement, state.trial),
        n_steps=state.n_steps + moves,
    )
