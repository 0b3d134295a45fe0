# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""One move of FIRE, one program a molecule. Meaning: fire.py, between two force calls."""

import triton
import triton.language as tl

from mlff_core.moves.rules_triton import conclude
from mlff_core.ops.triton.launch import wait_for_inputs


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
    before_energy = tl.load(state.energy + slot)
    # Infinite: no point has been accepted. A whole number, as the interpreter takes a comparison of
    # two numbers that are not for one that is not.
    begun = tl.where(before_energy < float("inf"), 1, 0)
    first = begun == 0
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
    stopped = (power <= 0.0) & (begun == 1)
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

    conclude(
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
