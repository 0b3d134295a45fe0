# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Molecules that enter slots, leave them, or get another model of their Hessian: one launch each.

Meaning: `exchange.py`, whose plain operators are some fifty small launches, which take the host
longer than the device, whenever a few molecules end. One program a molecule.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.moves.lbfgs import HISTORY, LONGEST_STEP, RENEW_AGAIN_BELOW, RENEWALS
from mlff_core.moves.rules import REACH_CUTOFFS, Codes, SlotStatus
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import RelaxState
from mlff_core.moves.tile import tile_width, warps

#: Elements of a matrix that a program copies at once.
_COPIED = 1024


@triton.jit(do_not_specialize=["width"])
def enter_kernel(
    entering,  # slots.Rows, free as uint8
    inverse,  # of their model Hessians [n, 3 width, 3 width]
    n_before,  # moves made before, int64 [n]
    renewed,  # how often their models count as made anew, int64 [n]
    index,  # their slots, int64 [n]
    rows,  # slots.Rows, free as uint8, in place
    state,  # RelaxState with LbfgsMemory, in place
    width,
    longest_step,
    HISTORY: tl.constexpr,
    W: tl.constexpr,
    COPIED: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64)
    slot = tl.load(index + k)
    a = tl.arange(0, W)
    here = a < width
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = here[:, None] & (axis[None, :] < 3)
    n = 3 * width
    tile = slot * n + coordinate
    nothing = tl.zeros([W, 4], tl.float32)

    own = slot * width + a
    numbers = tl.load(entering.numbers + k * width + a, mask=here, other=0)
    tl.store(rows.numbers + own, numbers, mask=here)
    tl.store(rows.free + own, tl.load(entering.free + k * width + a, mask=here), mask=here)
    tl.store(rows.sizes + slot, tl.load(entering.sizes + k))
    tl.store(rows.charge + slot, tl.load(entering.charge + k))
    x = tl.load(entering.positions + k * n + coordinate, mask=inside, other=0.0)
    tl.store(rows.positions + tile, x, mask=inside)
    tl.store(state.positions + tile, x, mask=inside)
    tl.store(state.trial + tile, x, mask=inside)
    tl.store(state.forces + tile, nothing, mask=inside)
    tl.store(state.status + slot, tl.zeros([], tl.int64))
    tl.store(state.n_steps + slot, tl.load(n_before + k))
    tl.store(state.energy + slot, tl.full([], float("inf"), tl.float64))
    tl.store(state.max_force + slot, 0.0)
    tl.store(state.initial_energy + slot, tl.zeros([], tl.float64))
    tl.store(state.initial_max_force + slot, 0.0)

    memory = state.memory
    for h in range(HISTORY):
        place = (slot * HISTORY + h) * n + coordinate
        tl.store(memory.s + place, nothing, mask=inside)
        tl.store(memory.y + place, nothing, mask=inside)
        tl.store(memory.inverse_y + place, nothing, mask=inside)
        tl.store(memory.rho + slot * HISTORY + h, tl.zeros([], tl.float64))
    tl.store(memory.scale + slot, tl.full([], 1.0, tl.float64))
    tl.store(memory.radius + slot, longest_step)
    tl.store(memory.longest + slot, 0.0)
    tl.store(memory.inverse_forces + tile, nothing, mask=inside)
    tl.store(memory.renewed + slot, tl.load(renewed + k))
    _copy(inverse + k * n * n, memory.inverse + slot * n * n, n * n, COPIED)


@triton.jit
def _copy(source, target, n, COPIED: tl.constexpr):
    for start in range(0, n, COPIED):
        i = start + tl.arange(0, COPIED)
        tl.store(target + i, tl.load(source + i, mask=i < n), mask=i < n)


@triton.jit
def _connected(x, size, reach, W: tl.constexpr):
    """Whether atoms [size, 3] hang together by gaps of at most `reach`, as a whole number."""
    a = tl.arange(0, W)
    here = a < size
    xa = tl.load(x + 3 * a, mask=here, other=0.0)
    ya = tl.load(x + 3 * a + 1, mask=here, other=0.0)
    za = tl.load(x + 3 * a + 2, mask=here, other=0.0)
    reached = tl.where(a == 0, 1, 0)
    n_before = 0
    n_reached = 1
    while (n_reached > n_before) & (n_reached < size):
        n_before = n_reached
        # Who is reached on this round passes it on in the same round.
        for i in range(0, size):
            dx = xa - tl.load(x + 3 * i)
            dy = ya - tl.load(x + 3 * i + 1)
            dz = za - tl.load(x + 3 * i + 2)
            near = here & (dx * dx + dy * dy + dz * dz < reach * reach)
            passes = tl.max(tl.where(a == i, reached, 0), 0)
            reached = tl.where(near & (passes == 1), 1, reached)
        n_reached = tl.sum(reached, 0)
    return tl.where(n_reached >= size, 1, 0)


@triton.jit
def _own(index, sizes, width, W: tl.constexpr):
    """A program's place in `index`, its slot, the atoms there, and a slot's coordinates [W, 4].

    Rows of four, so that their number is a power of two; the last of each is not inside.
    """
    k = tl.program_id(0).to(tl.int64)
    slot = tl.load(index + k)
    size = tl.load(sizes + slot).to(tl.int32)
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < width) & (axis[None, :] < 3)
    return k, slot, size, coordinate, inside


@triton.jit(do_not_specialize=["width"])
def leave_kernel(
    rows,  # slots.Rows
    state,  # RelaxState, in place
    index,  # slots that are read out and left, int64 [n]
    out,  # float64 [n, 6 width + 5]
    width,
    reach,  # Å
    CODES: tl.constexpr,  # rules.Codes
    VACANT: tl.constexpr,
    W: tl.constexpr,
):
    k, slot, size, coordinate, inside = _own(index, rows.sizes, width, W)
    n = 3 * width
    row = out + k * (2 * n + 5)
    tile = slot * n + coordinate
    x = tl.load(state.positions + tile, mask=inside, other=0.0)
    tl.store(row + coordinate, x.to(tl.float64), mask=inside)
    forces = tl.load(state.forces + tile, mask=inside, other=0.0)
    tl.store(row + n + coordinate, forces.to(tl.float64), mask=inside)
    status = tl.load(state.status + slot)
    apart = 1 - _connected(state.positions + slot * n, size, reach, W)
    if apart == 1:
        apart = _connected(rows.positions + slot * n, size, reach, W)
    exploded = (apart == 1) & (status != CODES.non_finite)
    status = tl.where(exploded, CODES.exploded, status)
    tl.store(row + 2 * n, status.to(tl.float64))
    tl.store(row + 2 * n + 1, tl.load(state.energy + slot))
    tl.store(row + 2 * n + 2, tl.load(state.initial_energy + slot))
    tl.store(row + 2 * n + 3, tl.load(state.max_force + slot).to(tl.float64))
    tl.store(row + 2 * n + 4, tl.load(state.n_steps + slot).to(tl.float64))
    tl.store(state.status + slot, tl.full([], VACANT, tl.int64))


@triton.jit
def _times(matrix, vector, free, width, size, coordinate, inside, ROWS: tl.constexpr):
    """A symmetric matrix times a vector, of which what may not move counts as zero [W, 4]."""
    total = tl.zeros(coordinate.shape, tl.float32)
    for start in range(0, 3 * size, ROWS):
        r = start + tl.arange(0, ROWS)
        real = r < 3 * size
        moves = tl.load(free + r // 3, mask=real, other=0) != 0
        v = tl.where(moves, tl.load(vector + r, mask=real, other=0.0), 0.0)
        block = tl.load(
            matrix + r[:, None, None] * (3 * width) + coordinate[None, :, :],
            mask=real[:, None, None] & inside[None, :, :],
            other=0.0,
        )
        total += tl.sum(v[:, None, None] * block, 0)
    return total


@triton.jit(do_not_specialize=["width"])
def renew_kernel(
    inverse,  # of the model Hessians where the molecules are [n, 3 width, 3 width]
    index,  # their slots, int64 [n]
    rows,  # slots.Rows, free as uint8
    state,  # RelaxState with LbfgsMemory, in place
    width,
    again_below,  # eV/Å
    RENEWALS: tl.constexpr,
    HISTORY: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,
    COPIED: tl.constexpr,
):
    k, slot, size, coordinate, inside = _own(index, rows.sizes, width, W)
    n = 3 * width
    memory = state.memory
    matrix = inverse + k * n * n
    free = rows.free + slot * width
    forces = state.forces + slot * n
    product = _times(matrix, forces, free, width, size, coordinate, inside, ROWS)
    tl.store(memory.inverse_forces + slot * n + coordinate, product, mask=inside)
    for h in range(HISTORY):
        place = (slot * HISTORY + h) * n
        product = _times(matrix, memory.y + place, free, width, size, coordinate, inside, ROWS)
        tl.store(memory.inverse_y + place + coordinate, product, mask=inside)
    tl.store(memory.scale + slot, tl.full([], 1.0, tl.float64))
    near = tl.load(state.max_force + slot) < again_below
    tl.store(memory.renewed + slot, tl.where(near, RENEWALS, 1).to(tl.int64))
    _copy(matrix, memory.inverse + slot * n * n, n * n, COPIED)
    tl.store(state.status + slot, tl.zeros([], tl.int64))


def _bytes(rows: Rows) -> Rows:
    return rows._replace(free=rows.free.view(torch.uint8))


def enter_slots(
    rows: Rows,
    state: RelaxState,
    index: Tensor,
    entering: Rows,
    inverse: Tensor,
    n_before: Tensor,
    renewed: Tensor,
) -> None:
    """What `exchange.enter_slots` means, once the models of Hessians are there.

    Args:
        rows: The molecules in the slots, in place.
        state: Their state, of L-BFGS with a model of the Hessian, in place.
        index: Slots that they enter, int64 [n].
        entering: Who enters, in as wide rows.
        inverse: Of their model Hessians, Å²/eV [n, 3 w, 3 w].
        n_before: Moves that they made before, int64 [n].
        renewed: How often the models count as made anew, int64 [n].
    """
    width = rows.free.shape[1]
    W = tile_width(width)
    enter_kernel[(len(index),)](
        _bytes(entering),
        inverse,
        n_before,
        renewed,
        index,
        _bytes(rows),
        state,
        width,
        LONGEST_STEP,
        HISTORY=HISTORY,
        W=W,
        COPIED=_COPIED,
        num_warps=4,
    )


def leave_slots(rows: Rows, state: RelaxState, index: Tensor, cutoff: float) -> Tensor:
    """What `exchange.leave_slots` means, for a state in float32."""
    width = rows.free.shape[1]
    W = tile_width(width)
    out = torch.empty(len(index), 6 * width + 5, dtype=torch.float64, device=index.device)
    leave_kernel[(len(index),)](
        _bytes(rows),
        state,
        index,
        out,
        width,
        REACH_CUTOFFS * cutoff,
        CODES=Codes(),
        VACANT=SlotStatus.VACANT.value,
        W=W,
        num_warps=1,
    )
    return out


def renew_slots(rows: Rows, state: RelaxState, index: Tensor, inverse: Tensor) -> None:
    """What `step.renew` means, once the models of Hessians are there.

    Args:
        rows: The molecules.
        state: Their state, of L-BFGS with a model of the Hessian, in place.
        index: Slots of those that wait, int64 [n].
        inverse: Of their model Hessians where they are, Å²/eV [n, 3 w, 3 w].
    """
    width = rows.free.shape[1]
    W = tile_width(width)
    renew_kernel[(len(index),)](
        inverse,
        index,
        _bytes(rows),
        state,
        width,
        RENEW_AGAIN_BELOW,
        RENEWALS=RENEWALS,
        HISTORY=HISTORY,
        W=W,
        ROWS=8,
        COPIED=_COPIED,
        num_warps=max(warps(W), 4),
    )
