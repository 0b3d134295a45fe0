"""Molecules enter the slots of a batch, leave them, or begin anew with what they have learnt.

All of it happens between two steps, and to few molecules at once. Plain operators say what it
means; for L-BFGS on CUDA kernels do each in one launch (`exchange_triton.py`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlff_core.models.force_field import ForceField
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL
from mlff_core.moves.lbfgs import RENEWALS, inverse_model_hessian
from mlff_core.moves.rules import SlotStatus, fell_apart
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows, arrays_of, to_device, to_device_together
from mlff_core.moves.state import LbfgsMemory, RelaxState, overwrite, take
from mlff_core.moves.step import enter, renew


def has_kernels(state: RelaxState, potential: ForceField) -> bool:
    """Whether the kernels know such a state, and can run where the force field is."""
    if potential.device.type != "cuda" or potential.bare_step is None:
        return False
    memory = state.memory
    return isinstance(memory, LbfgsMemory) and memory.inverse is not None


def enter_slots(
    rows: Rows,
    state: RelaxState,
    slots: Sequence[int],
    molecules: Sequence[Molecule],
    settings: RelaxSettings,
    *,
    near: bool,
    kernels: bool,
) -> None:
    """Put molecules into slots, in place.

    Args:
        rows: The molecules in the slots.
        state: Where they are.
        slots: That are vacant.
        molecules: One for each of them.
        settings: What is asked for.
        near: They are near a minimum already.
        kernels: In one launch.
    """
    device, width = rows.sizes.device, rows.free.shape[1]
    before = np.array([molecule.n_before for molecule in molecules], np.int64)
    renewed = np.full(len(slots), RENEWALS if near else 0, np.int64)
    packed = arrays_of(molecules, width, rows.positions.dtype)
    together = to_device_together([np.array(slots), before, renewed, *packed], device)
    index, n_before, was_renewed, *sent = together
    entering = Rows(*sent)
    if kernels:
        from mlff_core.moves import exchange_triton

        inverse = inverse_model_hessian(entering, RENEWED_MODEL if near else MODEL)
        exchange_triton.enter_slots(rows, state, index, entering, inverse, n_before, was_renewed)
        return
    begun = enter(entering, settings, near=near)
    overwrite(rows, index, entering)
    overwrite(state, index, begun._replace(n_steps=n_before))


def leave_slots(
    rows: Rows, state: RelaxState, slots: Sequence[int], cutoff: float, *, kernels: bool
) -> Tensor:
    """Vacate slots, in place, and say how their molecules ended.

    Args:
        rows: The molecules in the slots.
        state: Where they are.
        slots: Whose molecules have ended.
        cutoff: Å; who hung together at the start and no longer does has exploded.
        kernels: In one launch.

    Returns:
        Positions, forces, status, energy, initial energy, largest force and moves made of each,
        float64 [n, 6 w + 5], on the device.
    """
    index = to_device(np.array(slots), rows.sizes.device)
    if kernels:
        from mlff_core.moves import exchange_triton

        return exchange_triton.leave_slots(rows, state, index, cutoff)
    positions = state.positions[index]
    here = rows.numbers[index] != 0
    apart = fell_apart(rows.positions[index], positions, here, cutoff)
    status = state.status[index]
    apart &= status != SlotStatus.NON_FINITE
    status = torch.where(apart, SlotStatus.EXPLODED.value, status)
    state.status.index_fill_(0, index, SlotStatus.VACANT.value)
    single = (state.energy, state.initial_energy, state.max_force, state.n_steps)
    columns = [status, *(tensor[index] for tensor in single)]
    rest = torch.stack([column.double() for column in columns], 1)
    return torch.cat(
        [positions.flatten(1).double(), state.forces[index].flatten(1).double(), rest], 1
    )


def renew_slots(
    rows: Rows, state: RelaxState, slots: Sequence[int], settings: RelaxSettings, *, kernels: bool
) -> None:
    """Give another model of their Hessian to molecules that wait for it, in place.

    Args:
        rows: The molecules in the slots.
        state: Where they are.
        slots: Of those that wait.
        settings: What is asked for.
        kernels: In one launch beside the model.
    """
    index = to_device(np.array(slots), rows.sizes.device)
    if not kernels:
        renew(rows, state, index, settings)
        return
    from mlff_core.moves import exchange_triton

    here = take(rows, index)._replace(positions=state.positions[index])
    inverse = inverse_model_hessian(here, RENEWED_MODEL)
    exchange_triton.renew_slots(rows, state, index, inverse)
