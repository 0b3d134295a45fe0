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
from mlff_core.moves.lbfgs import LbfgsConstants
from mlff_core.moves.rules import Rules
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import FireMemory, LbfgsMemory, RelaxState
from mlff_core.moves.tile import tile_width, warps
from mlff_core.ops.triton.launch import overlap, wait_for_inputs


@triton.jit
def _longest(x):
    """Length of the longest of the vectors [W, 4]."""
    return tl.sqrt(tl.max(tl.sum(x * x, 1), 0))


@triton.jit
def _dot(a, b):
    """Σ a b, summed in float64."""
    return tl.sum(tl.sum((a * b).to(tl.float64), 1), 0)


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


@triton.jit
def _conclude(
    slot,
    tile,
    inside,
    accept,  # whether the trial point becomes the accepted one
    finite,
    first,
    n_steps,
    size,
    energy,
    forces,  # at the trial point, all of them [W, 4]
    moving_forces,  # zero on atoms that may not move [W, 4]
    displacement,  # from the point that is now accepted to the next trial point [W, 4]
    renew_below,  # eV/Å, below which a molecule waits for another model of its Hessian
    rows,  # slots.Rows
    state,  # RelaxState, in place
    fmax,
    max_steps,
    LIMITS: tl.constexpr,
    CODES: tl.constexpr,
):
    """Accept the trial point or not, judge the molecule, and set the next trial point."""
    trial = tl.load(state.trial + tile, mask=inside, other=0.0)
    accepted = tl.load(state.positions + tile, mask=inside, other=0.0)
    origin = tl.load(rows.positions + tile, mask=inside, other=0.0)
    before = tl.load(state.energy + slot)
    max_force_before = tl.load(state.max_force + slot)
    initial_energy = tl.load(state.initial_energy + slot)
    initial_max_force = tl.load(state.initial_max_force + slot)

    accepted = tl.where(accept, trial, accepted)
    energy = tl.where(accept, energy, before)
    max_force = tl.where(accept, _longest(moving_forces), max_force_before)
    initial_energy = tl.where(accept & first, energy, initial_energy)
    initial_max_force = tl.where(accept & first, max_force, initial_max_force)

    change = energy - initial_energy
    exploded = (
        (change > LIMITS.max_rise * size)
        | ((initial_max_force <= LIMITS.max_force) & (change < -LIMITS.max_fall * size))
        | (max_force > tl.maximum(10.0 * initial_max_force, LIMITS.max_force))
        | (_longest(accepted - origin) > LIMITS.max_travel)
    )
    code = tl.where(n_steps >= max_steps, CODES.max_steps, 0)
    code = tl.where((max_force < fmax) & (change <= 0.0), CODES.converged, code)
    code = tl.where(exploded, CODES.exploded, code)
    code = tl.where(finite, code, CODES.non_finite)
    moves = code == 0
    code = tl.where(moves & (max_force < renew_below), CODES.renewing, code)

    tl.store(state.status + slot, code.to(tl.int64))
    tl.store(state.n_steps + slot, n_steps + moves.to(tl.int64))
    tl.store(state.trial + tile, tl.where(moves, accepted + displacement, trial), mask=inside)
    tl.store(state.positions + tile, accepted, mask=inside)
    forces = tl.where(accept, forces, tl.load(state.forces + tile, mask=inside, other=0.0))
    tl.store(state.forces + tile, forces, mask=inside)
    tl.store(state.energy + slot, energy)
    tl.store(state.max_force + slot, max_force)
    tl.store(state.initial_energy + slot, initial_energy)
    tl.store(state.initial_max_force + slot, initial_max_force)


@triton.jit(do_not_specialize=["width", "max_steps"])
def lbfgs_kernel(
    rows,  # slots.Rows, free as uint8
    ptr,  # int64 [n_slots + 1], of the flat batch
    call,  # ForceCall
    state,  # RelaxState with LbfgsMemory, in place
    width,
    fmax,  # eV/Å
    max_steps,
    LIMITS: tl.constexpr,  # rules.Limits
    CODES: tl.constexpr,  # rules.Codes
    CONSTANTS: tl.constexpr,  # lbfgs.LbfgsConstants
    W: tl.constexpr,
    ROWS: tl.constexpr,  # of the inverse Hessian that are read at once
    OVERLAP: tl.constexpr,
):
    HISTORY: tl.constexpr = CONSTANTS.history
    HAS_MODEL: tl.constexpr = state.memory.inverse is not None
    memory = state.memory
    wait_for_inputs(OVERLAP)
    slot = tl.program_id(0).to(tl.int64)
    if tl.load(state.status + slot) != 0:
        return
    size = tl.load(rows.sizes + slot)
    first_atom = tl.load(ptr + slot)
    n = 3 * width
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = slot * n + coordinate

    # The force call at the trial point, beside the point accepted before.
    n_steps = tl.load(state.n_steps + slot)
    first = n_steps == 0
    energy = tl.load(call.energy + slot)
    all_forces = tl.load(call.forces + first_atom * 3 + coordinate, mask=inside, other=0.0)
    free = tl.load(rows.free + slot * width + a, mask=a < size, other=0) != 0
    moving = inside & free[:, None]
    forces = tl.where(moving, all_forces, 0.0)
    before = tl.load(state.forces + tile, mask=moving, other=0.0)
    # 0 x finds what is not finite.
    zero = tl.sum(tl.sum(all_forces * 0.0, 1), 0) + energy * 0.0
    finite = zero == 0.0
    accept = first | (energy <= tl.load(state.energy + slot) + LIMITS.noise * size)

    s = tl.load(state.trial + tile, mask=inside, other=0.0)
    s -= tl.load(state.positions + tile, mask=inside, other=0.0)
    y = before - forces
    sy = _dot(s, y)
    # Below this share of |s| |y| the product is rounding.
    known = (n_steps > 0) & finite & (sy > 1e-6 * tl.sqrt(_dot(s, s) * _dot(y, y)))

    # The unscaled initial inverse Hessian times the forces, and times each y.
    if HAS_MODEL:
        g = tl.zeros([W, 4], tl.float32)
        matrix = memory.inverse + slot * n * n
        for start in range(0, 3 * size.to(tl.int32), ROWS):
            r = start + tl.arange(0, ROWS)
            real = r < 3 * size
            f = tl.load(call.forces + first_atom * 3 + r, mask=real, other=0.0)
            f_free = tl.load(rows.free + slot * width + r // 3, mask=real, other=0) != 0
            f = tl.where(f_free, f, 0.0)
            # The matrix is symmetric: its rows, weighted, add up to the product.
            block = tl.load(
                matrix + r[:, None, None] * n + coordinate[None, :, :],
                mask=real[:, None, None] & inside[None, :, :],
                other=0.0,
            )
            g += tl.sum(f[:, None, None] * block, 0)
        g_before = tl.load(memory.inverse_forces + tile, mask=inside, other=0.0)
        inverse_y = g_before - g
        direction = tl.where(accept, g, g_before)
        tl.store(memory.inverse_forces + tile, direction, mask=inside)
    else:
        inverse_y = y / CONSTANTS.curvature
        direction = tl.where(accept, forces, before) / CONSTANTS.curvature
    measured = sy / _dot(y, inverse_y)
    measured = tl.minimum(tl.maximum(measured, 0.1), 10.0)
    scale = tl.where(known, measured, tl.load(memory.scale + slot))
    tl.store(memory.scale + slot, scale)

    # The pairs, the newest first. A pair that is not there has rho = 0 and does nothing.
    old_s = s
    old_y = y
    old_inverse_y = inverse_y
    old_rho = 1.0 / sy
    S = ()
    Y = ()
    inverse_Y = ()
    rho = ()
    for k in tl.static_range(HISTORY):
        place = (slot * HISTORY + k) * n + coordinate
        kept_s = tl.load(memory.s + place, mask=inside, other=0.0)
        kept_y = tl.load(memory.y + place, mask=inside, other=0.0)
        kept_rho = tl.load(memory.rho + slot * HISTORY + k)
        S = S + (tl.where(known, old_s, kept_s),)  # noqa: RUF005, a star would not compile
        Y = Y + (tl.where(known, old_y, kept_y),)  # noqa: RUF005
        rho = rho + (tl.where(known, old_rho, kept_rho),)  # noqa: RUF005
        old_s = kept_s
        old_y = kept_y
        old_rho = kept_rho
        if HAS_MODEL:
            kept_inverse_y = tl.load(memory.inverse_y + place, mask=inside, other=0.0)
            inverse_Y = inverse_Y + (tl.where(known, old_inverse_y, kept_inverse_y),)  # noqa: RUF005
            old_inverse_y = kept_inverse_y

    # Algorithm 7.4 of Nocedal and Wright. The first loop turns the forces into q; the product of
    # the initial inverse Hessian with q is built up beside it.
    q = tl.where(accept, forces, before)
    alphas = ()
    for k in tl.static_range(HISTORY):
        alpha = rho[k] * _dot(S[k], q)
        alphas = alphas + (alpha,)  # noqa: RUF005
        q -= alpha.to(tl.float32) * Y[k]
        if HAS_MODEL:
            direction -= alpha.to(tl.float32) * inverse_Y[k]
        else:
            direction -= alpha.to(tl.float32) * (Y[k] / CONSTANTS.curvature)
    direction *= scale.to(tl.float32)
    for i in tl.static_range(HISTORY):
        beta = rho[HISTORY - 1 - i] * _dot(Y[HISTORY - 1 - i], direction)
        direction += (alphas[HISTORY - 1 - i] - beta).to(tl.float32) * S[HISTORY - 1 - i]

    # Every thread has read what it needs of the history; now it may be written.
    tl.debug_barrier()
    for k in tl.static_range(HISTORY):
        place = (slot * HISTORY + k) * n + coordinate
        tl.store(memory.s + place, S[k], mask=inside & known)
        tl.store(memory.y + place, Y[k], mask=inside & known)
        tl.store(memory.rho + slot * HISTORY + k, rho[k], mask=known)
        if HAS_MODEL:
            tl.store(memory.inverse_y + place, inverse_Y[k], mask=inside & known)

    radius = tl.load(memory.radius + slot)
    shorter = tl.maximum(
        0.5 * tl.minimum(radius, tl.load(memory.longest + slot)), CONSTANTS.min_radius
    )
    radius = tl.where(accept, tl.minimum(2.0 * radius, CONSTANTS.longest_step), shorter)
    longest = _longest(direction)
    direction *= tl.minimum(radius / tl.maximum(longest, 1e-12), 1.0)
    tl.store(memory.radius + slot, radius)
    tl.store(memory.longest + slot, tl.minimum(longest, radius))
    if HAS_MODEL:
        renew_below = tl.where(tl.load(memory.renewed + slot) == 0, CONSTANTS.renew_below, 0.0)
    else:
        renew_below = 0.0

    _conclude(
        slot,
        tile,
        inside,
        accept & finite,
        finite,
        first,
        n_steps,
        size,
        energy,
        all_forces,
        forces,
        direction,
        renew_below,
        rows,
        state,
        fmax,
        max_steps,
        LIMITS,
        CODES,
    )


@triton.jit(do_not_specialize=["width", "max_steps"])
def fire_kernel(
    rows,  # slots.Rows, free as uint8
    ptr,  # int64 [n_slots + 1], of the flat batch
    call,  # ForceCall
    state,  # RelaxState with FireMemory, in place
    width,
    fmax,  # eV/Å
    max_steps,
    LIMITS: tl.constexpr,  # rules.Limits
    CODES: tl.constexpr,  # rules.Codes
    CONSTANTS: tl.constexpr,  # fire.FireConstants
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    memory = state.memory
    wait_for_inputs(OVERLAP)
    slot = tl.program_id(0).to(tl.int64)
    if tl.load(state.status + slot) != 0:
        return
    size = tl.load(rows.sizes + slot)
    first_atom = tl.load(ptr + slot)
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = slot * (3 * width) + coordinate

    n_steps = tl.load(state.n_steps + slot)
    first = n_steps == 0
    energy = tl.load(call.energy + slot)
    all_forces = tl.load(call.forces + first_atom * 3 + coordinate, mask=inside, other=0.0)
    free = tl.load(rows.free + slot * width + a, mask=a < size, other=0) != 0
    forces = tl.where(inside & free[:, None], all_forces, 0.0)
    zero = tl.sum(tl.sum(all_forces * 0.0, 1), 0) + energy * 0.0
    finite = zero == 0.0

    v = tl.load(memory.velocity + tile, mask=inside, other=0.0)
    dt = tl.load(memory.dt + slot)
    mix = tl.load(memory.mix + slot)
    n = tl.load(memory.n_downhill + slot)
    power = tl.sum(tl.sum(forces * v, 1), 0)
    ff = tl.sum(tl.sum(forces * forces, 1), 0)
    vv = tl.sum(tl.sum(v * v, 1), 0)
    downhill = power > 0.0
    faster = downhill & (n > CONSTANTS.n_min)
    stopped = (power <= 0.0) & (n_steps > 0)
    steered = (1.0 - mix) * v + (mix * tl.sqrt(vv) / tl.sqrt(tl.maximum(ff, 1e-30))) * forces
    v = tl.where(downhill, steered, 0.0)
    dt = tl.where(faster, tl.minimum(dt * CONSTANTS.increase, CONSTANTS.dt_max), dt)
    dt = tl.where(stopped, dt * CONSTANTS.decrease, dt)
    mix = tl.where(faster, mix * CONSTANTS.mix_decrease, mix)
    mix = tl.where(stopped, CONSTANTS.mix, mix)
    n = tl.where(downhill, n + 1, 0)

    v += dt * forces
    displacement = dt * v
    length = tl.sqrt(tl.sum(tl.sum(displacement * displacement, 1), 0))
    displacement *= tl.minimum(CONSTANTS.longest_step / tl.maximum(length, 1e-12), 1.0)
    tl.store(memory.velocity + tile, v, mask=inside)
    tl.store(memory.dt + slot, dt)
    tl.store(memory.mix + slot, mix)
    tl.store(memory.n_downhill + slot, n)

    _conclude(
        slot,
        tile,
        inside,
        finite,
        finite,
        first,
        n_steps,
        size,
        energy,
        all_forces,
        forces,
        displacement,
        0.0,
        rows,
        state,
        fmax,
        max_steps,
        LIMITS,
        CODES,
    )


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
