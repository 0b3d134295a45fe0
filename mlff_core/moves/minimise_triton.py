# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""All that a relaxation does between two force calls: two launches, one program a molecule.

Meaning: `step.step`, whose plain operators are small and many: some two hundred launches a step,
each over a few numbers a molecule. Here one launch gathers the rows of molecules into the flat
batch that a force field wants, and one works on its answer, in place, by L-BFGS or by FIRE.

A molecule is a tile [W, 4] of atoms and axes, of which the fourth is empty.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs
from mlff_core.moves.fire import FireConstants
from mlff_core.moves.fire_triton import fire_kernel
from mlff_core.moves.lbfgs import LbfgsConstants
from mlff_core.moves.lbfgs_triton import lbfgs_kernel
from mlff_core.moves.rules import Rules
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import FireMemory, LbfgsMemory, RelaxState
from mlff_core.moves.tile import tile_width, warps
from mlff_core.ops.triton.launch import overlap, wait_for_inputs


@triton.jit(do_not_specialize=["n_slots", "width", "capacity"])
def gather_kernel(
    rows,  # slots.Rows
    status,  # int64 [n_slots], 0 for running
    trial,  # [n_slots, width, 3]
    flat,  # FlatBatch, out
    n_slots,
    width,
    capacity,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    slot = tl.program_id(0).to(tl.int64)
    # Where this molecule's atoms begin: each program adds up the sizes before its own.
    before = tl.zeros([BLOCK], tl.int64)
    for start in range(0, tl.minimum(slot, n_slots), BLOCK):
        s = start + tl.arange(0, BLOCK)
        real = s < tl.minimum(slot, n_slots)
        running = tl.load(status + s, mask=real, other=1) == 0
        before += tl.load(rows.sizes + s, mask=real & running, other=0)
    first = tl.sum(before, 0)
    if slot < n_slots:
        running = tl.load(status + slot) == 0
        size = tl.where(running, tl.load(rows.sizes + slot), 0)
        if slot == 0:
            tl.store(flat.ptr, first)
        tl.store(flat.ptr + slot + 1, first + size)
        a = tl.arange(0, W)
        here = a < size
        atom = first + a
        numbers = tl.load(rows.numbers + slot * width + a, mask=here, other=0)
        tl.store(flat.numbers + atom, numbers, mask=here)
        tl.store(flat.mol_idx + atom, slot + tl.zeros([W], tl.int64), mask=here)
        for c in tl.static_range(3):
            x = tl.load(trial + (slot * width + a) * 3 + c, mask=here, other=0.0)
            tl.store(flat.positions + atom * 3 + c, x, mask=here)
    else:
        # The programs beyond the molecules fill what is left with padding.
        atom = first + (slot - n_slots) * W + tl.arange(0, W)
        left = atom < capacity
        tl.store(flat.numbers + atom, tl.zeros([W], tl.int64), mask=left)
        tl.store(flat.mol_idx + atom, tl.zeros([W], tl.int64), mask=left)
        for c in tl.static_range(3):
            tl.store(flat.positions + atom * 3 + c, tl.zeros([W], tl.float32), mask=left)


class FlatBatch(NamedTuple):
    """Where the molecules of some rows are gathered for a force field, padding behind them.

    Attributes:
        numbers: Atomic numbers, 0 for padding, int64 [capacity].
        positions: Å [capacity, 3].
        mol_idx: Row of each atom, int64 [capacity].
        ptr: First atom of each row, and the end of the last, int64 [n_rows + 1].
    """

    numbers: Tensor
    positions: Tensor
    mol_idx: Tensor
    ptr: Tensor

    @classmethod
    def empty(cls, n_rows: int, capacity: int, device: torch.device) -> "FlatBatch":
        """Nothing but padding."""
        return cls(
            numbers=torch.zeros(capacity, dtype=torch.int64, device=device),
            positions=torch.zeros(capacity, 3, device=device),
            mol_idx=torch.zeros(capacity, dtype=torch.int64, device=device),
            ptr=torch.zeros(n_rows + 1, dtype=torch.int64, device=device),
        )


class ForceCall(NamedTuple):
    """What a force field says of a flat batch.

    Attributes:
        energy: eV, float64 [n_slots].
        forces: eV/Å, float32 [capacity, 3].
    """

    energy: Tensor
    forces: Tensor


def gather(rows: Rows, state: RelaxState, flat: FlatBatch) -> None:
    """Write the running molecules into the flat batch, side by side, and padding behind them.

    Args:
        rows: The molecules.
        state: Where they are.
        flat: Written. It must have room for all of them.
    """
    n_slots, width = rows.numbers.shape
    capacity, W = len(flat.numbers), tile_width(width)
    gather_kernel[(n_slots + triton.cdiv(capacity, W),)](
        rows._replace(free=rows.free.view(torch.uint8)),
        state.status,
        state.trial,
        flat,
        n_slots,
        width,
        capacity,
        W=W,
        BLOCK=1024 if n_slots > 64 else 64,  # of two kinds, not one for each number of slots
        num_warps=warps(W),
        **overlap(capacity),
    )


#: The kernel of each minimiser, by what it keeps: its constants, and its options.
KERNELS: dict[type, tuple[Any, NamedTuple, dict[str, int]]] = {
    LbfgsMemory: (lbfgs_kernel, LbfgsConstants(), {"ROWS": 8}),
    FireMemory: (fire_kernel, FireConstants(), {}),
}


def minimise(rows: Rows, ptr: Tensor, call: ForceCall, state: RelaxState, rules: Rules) -> None:
    """One move of every running molecule, from a force call at its trial point.

    What `step.step` means, after its force call. All tensors are contiguous, and the state is
    changed in place.

    Args:
        rows: The molecules.
        ptr: First atom of each slot in the flat batch, int64 [n_slots + 1].
        call: What the force field says of the flat batch.
        state: As `step.enter` makes it, for L-BFGS or FIRE.
        rules: When a molecule has ended.
    """
    n_slots, width = rows.free.shape
    W = tile_width(width)
    kernel, constants, options = KERNELS[type(state.memory)]
    kernel[(n_slots,)](
        rows._replace(free=rows.free.view(torch.uint8)),
        ptr,
        call,
        state,
        width,
        rules.fmax,
        rules.max_steps,
        LIMITS=rules.limits,
        CODES=rules.codes,
        CONSTANTS=constants,
        W=W,
        num_warps=warps(W),
        **options,
        **overlap(len(call.forces)),
    )


def kernel_step(
    rows: Rows, rules: Rules, capacity: int, compute: Callable[[MolBatch], Outputs]
) -> Callable[[RelaxState], RelaxState]:
    """`step.step` by these kernels: two launches beside the force call, in place.

    Args:
        rows: The molecules.
        rules: When one of them has ended.
        capacity: Number of atoms of the flat batch that `compute` is given, the surplus padded.
        compute: Energies and forces of a flat batch, as `ForceField.bare_step`.
    """
    flat = FlatBatch.empty(len(rows.sizes), capacity, rows.sizes.device)
    batch = MolBatch(*flat, rows.charge)

    def run(state: RelaxState) -> RelaxState:
        gather(rows, state, flat)
        out = compute(batch)
        minimise(rows, flat.ptr, ForceCall(out.energy, out.forces), state, rules)
        return state

    return run
