# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""One move of L-BFGS, one program a molecule. Meaning: lbfgs.py, between two force calls."""

import triton
import triton.language as tl

from mlff_core.moves.rules_triton import conclude, dot, longest_vector
from mlff_core.ops.triton.launch import wait_for_inputs


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
    before_energy = tl.load(state.energy + slot)
    # Infinite: no point has been accepted. A whole number, as the interpreter takes a comparison of
    # two numbers that are not for one that is not.
    begun = tl.where(before_energy < float("inf"), 1, 0)
    first = begun == 0
    energy = tl.load(call.energy + slot)
    all_forces = tl.load(call.forces + first_atom * 3 + coordinate, mask=inside, other=0.0)
    free = tl.load(rows.free + slot * width + a, mask=a < size, other=0) != 0
    moving = inside & free[:, None]
    forces = tl.where(moving, all_forces, 0.0)
    before = tl.load(state.forces + tile, mask=moving, other=0.0)
    # 0 x finds what is not finite.
    zero = tl.sum(tl.sum(all_forces * 0.0, 1), 0) + energy * 0.0
    finite = zero == 0.0
    accept = first | (energy <= before_energy + LIMITS.noise * size)

    s = tl.load(state.trial + tile, mask=inside, other=0.0)
    s -= tl.load(state.positions + tile, mask=inside, other=0.0)
    y = before - forces
    sy = dot(s, y)
    # Below this share of |s| |y| the product is rounding.
    known = (begun == 1) & finite & (sy > 1e-6 * tl.sqrt(dot(s, s) * dot(y, y)))

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
    measured = sy / dot(y, inverse_y)
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
        alpha = rho[k] * dot(S[k], q)
        alphas = alphas + (alpha,)  # noqa: RUF005
        q -= alpha.to(tl.float32) * Y[k]
        if HAS_MODEL:
            direction -= alpha.to(tl.float32) * inverse_Y[k]
        else:
            direction -= alpha.to(tl.float32) * (Y[k] / CONSTANTS.curvature)
    direction *= scale.to(tl.float32)
    for i in tl.static_range(HISTORY):
        beta = rho[HISTORY - 1 - i] * dot(Y[HISTORY - 1 - i], direction)
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
    longest = longest_vector(direction)
    direction *= tl.minimum(radius / tl.maximum(longest, 1e-12), 1.0)
    tl.store(memory.radius + slot, radius)
    tl.store(memory.longest + slot, tl.minimum(longest, radius))
    if HAS_MODEL:
        renewed = tl.load(memory.renewed + slot)
        renew_below = tl.where(renewed == 1, CONSTANTS.renew_again_below, 0.0)
        renew_below = tl.where(renewed == 0, CONSTANTS.renew_below, renew_below)
    else:
        renew_below = 0.0

    conclude(
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
