# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""All that happens to molecules between two force calls, one program a molecule.

Meaning: `relaxation.step` and the step of `dynamics.Dynamics`, whose plain operators are small and
many: some two hundred launches a step, each over a few numbers a molecule. Here it is two launches,
one that gathers the rows of molecules into the flat batch that a potential wants, and one that
works on what the potential answers, in place.

    gather, minimise      for `relaxation`, with L-BFGS or FIRE
    begin_move, end_move  for `dynamics`

A molecule is a tile [W, 4] of atoms and axes, of which the fourth is empty.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.triton.launch import overlap, wait_for_inputs

_TWO_PI = tl.constexpr(6.283185307179586)


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
    code_ptr,  # int64 [n_slots], 0 for running
    sizes_ptr,  # int64 [n_slots]
    row_numbers_ptr,  # int64 [n_slots, width]
    trial_ptr,  # [n_slots, width, 3]
    numbers_ptr,  # int64 [capacity], out
    positions_ptr,  # [capacity, 3], out
    mol_idx_ptr,  # int64 [capacity], out
    ptr_ptr,  # int64 [n_slots + 1], out
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
        running = tl.load(code_ptr + s, mask=real, other=1) == 0
        before += tl.load(sizes_ptr + s, mask=real & running, other=0)
    first = tl.sum(before, 0)
    if slot < n_slots:
        running = tl.load(code_ptr + slot) == 0
        size = tl.where(running, tl.load(sizes_ptr + slot), 0)
        if slot == 0:
            tl.store(ptr_ptr, first)
        tl.store(ptr_ptr + slot + 1, first + size)
        a = tl.arange(0, W)
        here = a < size
        atom = first + a
        numbers = tl.load(row_numbers_ptr + slot * width + a, mask=here, other=0)
        tl.store(numbers_ptr + atom, numbers, mask=here)
        tl.store(mol_idx_ptr + atom, slot + tl.zeros([W], tl.int64), mask=here)
        for c in tl.static_range(3):
            x = tl.load(trial_ptr + (slot * width + a) * 3 + c, mask=here, other=0.0)
            tl.store(positions_ptr + atom * 3 + c, x, mask=here)
    else:
        # The programs beyond the molecules fill what is left with padding.
        atom = first + (slot - n_slots) * W + tl.arange(0, W)
        left = atom < capacity
        tl.store(numbers_ptr + atom, tl.zeros([W], tl.int64), mask=left)
        tl.store(mol_idx_ptr + atom, tl.zeros([W], tl.int64), mask=left)
        for c in tl.static_range(3):
            tl.store(positions_ptr + atom * 3 + c, tl.zeros([W], tl.float32), mask=left)


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
    origin_ptr,
    code_ptr,
    n_steps_ptr,
    trial_ptr,
    positions_ptr,
    forces_ptr,
    energy_ptr,
    max_force_ptr,
    initial_energy_ptr,
    initial_max_force_ptr,
    fmax,
    max_steps,
    MAX_RISE: tl.constexpr,
    MAX_FALL: tl.constexpr,
    MAX_FORCE: tl.constexpr,
    MAX_TRAVEL: tl.constexpr,
    CONVERGED: tl.constexpr,
    OUT_OF_STEPS: tl.constexpr,
    EXPLODED: tl.constexpr,
    NON_FINITE: tl.constexpr,
):
    """Accept the trial point or not, judge the molecule, and set the next trial point."""
    trial = tl.load(trial_ptr + tile, mask=inside, other=0.0)
    accepted = tl.load(positions_ptr + tile, mask=inside, other=0.0)
    origin = tl.load(origin_ptr + tile, mask=inside, other=0.0)
    before = tl.load(energy_ptr + slot)
    max_force_before = tl.load(max_force_ptr + slot)
    initial_energy = tl.load(initial_energy_ptr + slot)
    initial_max_force = tl.load(initial_max_force_ptr + slot)

    accepted = tl.where(accept, trial, accepted)
    energy = tl.where(accept, energy, before)
    max_force = tl.where(accept, _longest(moving_forces), max_force_before)
    initial_energy = tl.where(accept & first, energy, initial_energy)
    initial_max_force = tl.where(accept & first, max_force, initial_max_force)

    change = energy - initial_energy
    exploded = (
        (change > MAX_RISE * size)
        | ((initial_max_force <= MAX_FORCE) & (change < -MAX_FALL * size))
        | (max_force > tl.maximum(10.0 * initial_max_force, MAX_FORCE))
        | (_longest(accepted - origin) > MAX_TRAVEL)
    )
    code = tl.where(n_steps >= max_steps, OUT_OF_STEPS, 0)
    code = tl.where((max_force < fmax) & (change <= 0.0), CONVERGED, code)
    code = tl.where(exploded, EXPLODED, code)
    code = tl.where(finite, code, NON_FINITE)
    moves = code == 0

    tl.store(code_ptr + slot, code.to(tl.int64))
    tl.store(n_steps_ptr + slot, n_steps + moves.to(tl.int64))
    tl.store(trial_ptr + tile, tl.where(moves, accepted + displacement, trial), mask=inside)
    tl.store(positions_ptr + tile, accepted, mask=inside)
    forces = tl.where(accept, forces, tl.load(forces_ptr + tile, mask=inside, other=0.0))
    tl.store(forces_ptr + tile, forces, mask=inside)
    tl.store(energy_ptr + slot, energy)
    tl.store(max_force_ptr + slot, max_force)
    tl.store(initial_energy_ptr + slot, initial_energy)
    tl.store(initial_max_force_ptr + slot, initial_max_force)


@triton.jit(do_not_specialize=["width", "max_steps"])
def lbfgs_kernel(
    # The molecules: rows of slots.Rows.
    sizes_ptr,  # int64 [n_slots]
    free_ptr,  # uint8 [n_slots, width]
    origin_ptr,  # [n_slots, width, 3]
    # The force call.
    ptr_ptr,  # int64 [n_slots + 1]
    flat_energy_ptr,  # float64 [n_slots]
    flat_forces_ptr,  # [capacity, 3]
    # The state, in place.
    code_ptr,  # int64 [n_slots]
    n_steps_ptr,  # int64 [n_slots]
    trial_ptr,  # [n_slots, width, 3]
    positions_ptr,  # [n_slots, width, 3]
    forces_ptr,  # [n_slots, width, 3]
    energy_ptr,  # float64 [n_slots]
    max_force_ptr,  # [n_slots]
    initial_energy_ptr,  # float64 [n_slots]
    initial_max_force_ptr,  # [n_slots]
    s_ptr,  # [n_slots, HISTORY, 3 width]
    y_ptr,  # [n_slots, HISTORY, 3 width]
    rho_ptr,  # float64 [n_slots, HISTORY]
    scale_ptr,  # float64 [n_slots]
    radius_ptr,  # [n_slots]
    longest_ptr,  # [n_slots]
    inverse_ptr,  # [n_slots, 3 width, 3 width], unused without HAS_MODEL
    inverse_forces_ptr,  # [n_slots, 3 width], likewise
    inverse_y_ptr,  # [n_slots, HISTORY, 3 width], likewise
    width,
    fmax,  # eV/Å
    max_steps,
    NOISE: tl.constexpr,  # eV an atom
    MAX_RISE: tl.constexpr,
    MAX_FALL: tl.constexpr,
    MAX_FORCE: tl.constexpr,
    MAX_TRAVEL: tl.constexpr,
    CONVERGED: tl.constexpr,
    OUT_OF_STEPS: tl.constexpr,
    EXPLODED: tl.constexpr,
    NON_FINITE: tl.constexpr,
    HISTORY: tl.constexpr,
    MAX_STEP: tl.constexpr,
    MIN_RADIUS: tl.constexpr,
    CURVATURE: tl.constexpr,
    HAS_MODEL: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,  # of the inverse Hessian that are read at once
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    slot = tl.program_id(0).to(tl.int64)
    if tl.load(code_ptr + slot) != 0:
        return
    size = tl.load(sizes_ptr + slot)
    first_atom = tl.load(ptr_ptr + slot)
    n = 3 * width
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = slot * n + coordinate

    # The force call at the trial point, beside the point accepted before.
    n_steps = tl.load(n_steps_ptr + slot)
    first = n_steps == 0
    energy = tl.load(flat_energy_ptr + slot)
    all_forces = tl.load(flat_forces_ptr + first_atom * 3 + coordinate, mask=inside, other=0.0)
    free = tl.load(free_ptr + slot * width + a, mask=a < size, other=0) != 0
    moving = inside & free[:, None]
    forces = tl.where(moving, all_forces, 0.0)
    before = tl.load(forces_ptr + tile, mask=moving, other=0.0)
    # 0 x finds what is not finite.
    zero = tl.sum(tl.sum(all_forces * 0.0, 1), 0) + energy * 0.0
    finite = zero == 0.0
    accept = first | (energy <= tl.load(energy_ptr + slot) + NOISE * size)

    s = tl.load(trial_ptr + tile, mask=inside, other=0.0)
    s -= tl.load(positions_ptr + tile, mask=inside, other=0.0)
    y = before - forces
    sy = _dot(s, y)
    # Below this share of |s| |y| the product is rounding.
    known = (n_steps > 0) & finite & (sy > 1e-6 * tl.sqrt(_dot(s, s) * _dot(y, y)))

    # The unscaled initial inverse Hessian times the forces, and times each y.
    if HAS_MODEL:
        g = tl.zeros([W, 4], tl.float32)
        matrix = inverse_ptr + slot * n * n
        for start in range(0, 3 * size.to(tl.int32), ROWS):
            r = start + tl.arange(0, ROWS)
            real = r < 3 * size
            f = tl.load(flat_forces_ptr + first_atom * 3 + r, mask=real, other=0.0)
            f_free = tl.load(free_ptr + slot * width + r // 3, mask=real, other=0) != 0
            f = tl.where(f_free, f, 0.0)
            # The matrix is symmetric: its rows, weighted, add up to the product.
            block = tl.load(
                matrix + r[:, None, None] * n + coordinate[None, :, :],
                mask=real[:, None, None] & inside[None, :, :],
                other=0.0,
            )
            g += tl.sum(f[:, None, None] * block, 0)
        g_before = tl.load(inverse_forces_ptr + tile, mask=inside, other=0.0)
        inverse_y = g_before - g
        direction = tl.where(accept, g, g_before)
        tl.store(inverse_forces_ptr + tile, direction, mask=inside)
    else:
        inverse_y = y / CURVATURE
        direction = tl.where(accept, forces, before) / CURVATURE
    measured = sy / _dot(y, inverse_y)
    measured = tl.minimum(tl.maximum(measured, 0.1), 10.0)
    scale = tl.where(known, measured, tl.load(scale_ptr + slot))
    tl.store(scale_ptr + slot, scale)

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
        kept_s = tl.load(s_ptr + place, mask=inside, other=0.0)
        kept_y = tl.load(y_ptr + place, mask=inside, other=0.0)
        kept_rho = tl.load(rho_ptr + slot * HISTORY + k)
        S = S + (tl.where(known, old_s, kept_s),)  # noqa: RUF005, a star would not compile
        Y = Y + (tl.where(known, old_y, kept_y),)  # noqa: RUF005
        rho = rho + (tl.where(known, old_rho, kept_rho),)  # noqa: RUF005
        old_s = kept_s
        old_y = kept_y
        old_rho = kept_rho
        if HAS_MODEL:
            kept_inverse_y = tl.load(inverse_y_ptr + place, mask=inside, other=0.0)
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
            direction -= alpha.to(tl.float32) * (Y[k] / CURVATURE)
    direction *= scale.to(tl.float32)
    for i in tl.static_range(HISTORY):
        beta = rho[HISTORY - 1 - i] * _dot(Y[HISTORY - 1 - i], direction)
        direction += (alphas[HISTORY - 1 - i] - beta).to(tl.float32) * S[HISTORY - 1 - i]

    # Every thread has read what it needs of the history; now it may be written.
    tl.debug_barrier()
    for k in tl.static_range(HISTORY):
        place = (slot * HISTORY + k) * n + coordinate
        tl.store(s_ptr + place, S[k], mask=inside & known)
        tl.store(y_ptr + place, Y[k], mask=inside & known)
        tl.store(rho_ptr + slot * HISTORY + k, rho[k], mask=known)
        if HAS_MODEL:
            tl.store(inverse_y_ptr + place, inverse_Y[k], mask=inside & known)

    radius = tl.load(radius_ptr + slot)
    shorter = tl.maximum(0.5 * tl.minimum(radius, tl.load(longest_ptr + slot)), MIN_RADIUS)
    radius = tl.where(accept, tl.minimum(2.0 * radius, MAX_STEP), shorter)
    longest = _longest(direction)
    direction *= tl.minimum(radius / tl.maximum(longest, 1e-12), 1.0)
    tl.store(radius_ptr + slot, radius)
    tl.store(longest_ptr + slot, tl.minimum(longest, radius))

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
        origin_ptr,
        code_ptr,
        n_steps_ptr,
        trial_ptr,
        positions_ptr,
        forces_ptr,
        energy_ptr,
        max_force_ptr,
        initial_energy_ptr,
        initial_max_force_ptr,
        fmax,
        max_steps,
        MAX_RISE,
        MAX_FALL,
        MAX_FORCE,
        MAX_TRAVEL,
        CONVERGED,
        OUT_OF_STEPS,
        EXPLODED,
        NON_FINITE,
    )


@triton.jit(do_not_specialize=["width", "max_steps"])
def fire_kernel(
    # The molecules: rows of slots.Rows.
    sizes_ptr,  # int64 [n_slots]
    free_ptr,  # uint8 [n_slots, width]
    origin_ptr,  # [n_slots, width, 3]
    # The force call.
    ptr_ptr,  # int64 [n_slots + 1]
    flat_energy_ptr,  # float64 [n_slots]
    flat_forces_ptr,  # [capacity, 3]
    # The state, in place.
    code_ptr,  # int64 [n_slots]
    n_steps_ptr,  # int64 [n_slots]
    trial_ptr,  # [n_slots, width, 3]
    positions_ptr,  # [n_slots, width, 3]
    forces_ptr,  # [n_slots, width, 3]
    energy_ptr,  # float64 [n_slots]
    max_force_ptr,  # [n_slots]
    initial_energy_ptr,  # float64 [n_slots]
    initial_max_force_ptr,  # [n_slots]
    velocity_ptr,  # [n_slots, width, 3]
    dt_ptr,  # [n_slots]
    mix_ptr,  # [n_slots]
    n_downhill_ptr,  # int64 [n_slots]
    width,
    fmax,  # eV/Å
    max_steps,
    NOISE: tl.constexpr,  # unused: FIRE accepts every point
    MAX_RISE: tl.constexpr,
    MAX_FALL: tl.constexpr,
    MAX_FORCE: tl.constexpr,
    MAX_TRAVEL: tl.constexpr,
    CONVERGED: tl.constexpr,
    OUT_OF_STEPS: tl.constexpr,
    EXPLODED: tl.constexpr,
    NON_FINITE: tl.constexpr,
    DT_MAX: tl.constexpr,
    N_MIN: tl.constexpr,
    INCREASE: tl.constexpr,
    DECREASE: tl.constexpr,
    MIX: tl.constexpr,
    MIX_DECREASE: tl.constexpr,
    MAX_STEP: tl.constexpr,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    slot = tl.program_id(0).to(tl.int64)
    if tl.load(code_ptr + slot) != 0:
        return
    size = tl.load(sizes_ptr + slot)
    first_atom = tl.load(ptr_ptr + slot)
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = slot * (3 * width) + coordinate

    n_steps = tl.load(n_steps_ptr + slot)
    first = n_steps == 0
    energy = tl.load(flat_energy_ptr + slot)
    all_forces = tl.load(flat_forces_ptr + first_atom * 3 + coordinate, mask=inside, other=0.0)
    free = tl.load(free_ptr + slot * width + a, mask=a < size, other=0) != 0
    forces = tl.where(inside & free[:, None], all_forces, 0.0)
    zero = tl.sum(tl.sum(all_forces * 0.0, 1), 0) + energy * 0.0
    finite = zero == 0.0

    v = tl.load(velocity_ptr + tile, mask=inside, other=0.0)
    dt = tl.load(dt_ptr + slot)
    mix = tl.load(mix_ptr + slot)
    n = tl.load(n_downhill_ptr + slot)
    power = tl.sum(tl.sum(forces * v, 1), 0)
    ff = tl.sum(tl.sum(forces * forces, 1), 0)
    vv = tl.sum(tl.sum(v * v, 1), 0)
    downhill = power > 0.0
    faster = downhill & (n > N_MIN)
    stopped = (power <= 0.0) & (n_steps > 0)
    steered = (1.0 - mix) * v + (mix * tl.sqrt(vv) / tl.sqrt(tl.maximum(ff, 1e-30))) * forces
    v = tl.where(downhill, steered, 0.0)
    dt = tl.where(faster, tl.minimum(dt * INCREASE, DT_MAX), dt)
    dt = tl.where(stopped, dt * DECREASE, dt)
    mix = tl.where(faster, mix * MIX_DECREASE, mix)
    mix = tl.where(stopped, MIX, mix)
    n = tl.where(downhill, n + 1, 0)

    v += dt * forces
    displacement = dt * v
    length = tl.sqrt(tl.sum(tl.sum(displacement * displacement, 1), 0))
    displacement *= tl.minimum(MAX_STEP / tl.maximum(length, 1e-12), 1.0)
    tl.store(velocity_ptr + tile, v, mask=inside)
    tl.store(dt_ptr + slot, dt)
    tl.store(mix_ptr + slot, mix)
    tl.store(n_downhill_ptr + slot, n)

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
        origin_ptr,
        code_ptr,
        n_steps_ptr,
        trial_ptr,
        positions_ptr,
        forces_ptr,
        energy_ptr,
        max_force_ptr,
        initial_energy_ptr,
        initial_max_force_ptr,
        fmax,
        max_steps,
        MAX_RISE,
        MAX_FALL,
        MAX_FORCE,
        MAX_TRAVEL,
        CONVERGED,
        OUT_OF_STEPS,
        EXPLODED,
        NON_FINITE,
    )


@triton.jit
def _mix(z):
    """The finaliser of splitmix64 on uint64; dynamics._mix."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _normal(key, step, counter):
    """Standard normal numbers, a hash of a molecule's key, the step and a count; dynamics._normal.

    Args:
        key: uint64.
        step: uint64.
        counter: 3 atom + axis [W, 4].
    """
    golden: tl.constexpr = 0x9E3779B97F4A7C15
    stream = _mix(key + step * golden)
    bits = _mix(stream + (counter + 1).to(tl.uint64) * golden)
    radius = ((bits >> 32).to(tl.float64) + 0.5) * 2.0**-32
    angle = (bits & 0xFFFFFFFF).to(tl.float64) * (_TWO_PI * 2.0**-32)
    return tl.sqrt(-2.0 * tl.log(radius)) * tl.cos(angle)


@triton.jit(do_not_specialize=["width"])
def begin_move_kernel(
    positions_ptr,  # float64 [n_mols, width, 3], in place
    velocities_ptr,  # float64 [n_mols, width, 3], in place
    forces_ptr,  # float64 [n_mols, width, 3]
    temperature_ptr,  # float64 [n_mols]
    step_ptr,  # int64 [n_mols]
    inverse_mass_ptr,  # float64 [n_mols, width], 0 for atoms that do not move
    keys_ptr,  # int64 [n_mols]
    ptr_ptr,  # int64 [n_mols + 1]
    constants_ptr,  # float64 [3]: time step, share of the velocity that friction leaves, k_B
    flat_ptr,  # [n_atoms, 3], out: about each molecule's centre
    width,
    LANGEVIN: tl.constexpr,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    mol = tl.program_id(0).to(tl.int64)
    first = tl.load(ptr_ptr + mol)
    size = tl.load(ptr_ptr + mol + 1) - first
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = mol * (3 * width) + coordinate
    inverse_mass = tl.load(inverse_mass_ptr + mol * width + a, mask=a < size, other=0.0)[:, None]
    half = 0.5 * tl.load(constants_ptr)
    x = tl.load(positions_ptr + tile, mask=inside, other=0.0)
    v = tl.load(velocities_ptr + tile, mask=inside, other=0.0)
    v += half * tl.load(forces_ptr + tile, mask=inside, other=0.0) * inverse_mass
    if LANGEVIN:
        x += half * v
        keep = tl.load(constants_ptr + 1)
        kT = tl.load(constants_ptr + 2) * tl.load(temperature_ptr + mol)
        key = tl.load(keys_ptr + mol).to(tl.uint64, bitcast=True)
        noise = _normal(key, tl.load(step_ptr + mol).to(tl.uint64, bitcast=True), coordinate)
        v = keep * v + tl.sqrt((1.0 - keep * keep) * kT * inverse_mass) * noise
        x += half * v
    else:
        x += 2.0 * half * v
    tl.store(positions_ptr + tile, x, mask=inside)
    tl.store(velocities_ptr + tile, v, mask=inside)
    centre = tl.sum(tl.where(inside, x, 0.0), 0) / size.to(tl.float64)
    near = (x - centre[None, :]).to(tl.float32)
    tl.store(flat_ptr + first * 3 + coordinate, near, mask=inside)


@triton.jit(do_not_specialize=["width"])
def end_move_kernel(
    velocities_ptr,  # float64 [n_mols, width, 3], in place
    forces_ptr,  # float64 [n_mols, width, 3], out
    energy_ptr,  # float64 [n_mols], out
    step_ptr,  # int64 [n_mols], in place
    inverse_mass_ptr,  # float64 [n_mols, width], 0 for atoms that do not move
    ptr_ptr,  # int64 [n_mols + 1]
    constants_ptr,  # float64 [3]: time step first
    flat_energy_ptr,  # float64 [n_mols]
    flat_forces_ptr,  # [n_atoms, 3]
    width,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    mol = tl.program_id(0).to(tl.int64)
    first = tl.load(ptr_ptr + mol)
    size = tl.load(ptr_ptr + mol + 1) - first
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = mol * (3 * width) + coordinate
    inverse_mass = tl.load(inverse_mass_ptr + mol * width + a, mask=a < size, other=0.0)[:, None]
    half = 0.5 * tl.load(constants_ptr)
    f = tl.load(flat_forces_ptr + first * 3 + coordinate, mask=inside, other=0.0).to(tl.float64)
    v = tl.load(velocities_ptr + tile, mask=inside, other=0.0) + half * f * inverse_mass
    tl.store(velocities_ptr + tile, v, mask=inside)
    tl.store(forces_ptr + tile, f, mask=inside)
    tl.store(energy_ptr + mol, tl.load(flat_energy_ptr + mol))
    tl.store(step_ptr + mol, tl.load(step_ptr + mol) + 1)


@dataclass(frozen=True)
class FlatBatch:
    """Where the molecules of some rows are gathered for a potential, padding behind them.

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


def gather(code: Tensor, sizes: Tensor, numbers: Tensor, trial: Tensor, flat: FlatBatch) -> None:
    """Write the running molecules into the flat batch, side by side, and padding behind them.

    Args:
        code: 0 for a molecule that is running, int64 [n_slots].
        sizes: Number of atoms, int64 [n_slots].
        numbers: Atomic numbers, int64 [n_slots, width].
        trial: Å [n_slots, width, 3].
        flat: Written. It must have room for all of them.
    """
    n_slots, width = numbers.shape
    capacity, W = len(flat.numbers), _tile_width(width)
    gather_kernel[(n_slots + triton.cdiv(capacity, W),)](
        code,
        sizes,
        numbers,
        trial,
        flat.numbers,
        flat.positions,
        flat.mol_idx,
        flat.ptr,
        n_slots,
        width,
        capacity,
        W=W,
        BLOCK=min(triton.next_power_of_2(n_slots), 1024),
        num_warps=_warps(W),
        **overlap(capacity),
    )


@dataclass(frozen=True)
class Rules:
    """When a molecule has ended, and how that is written down; the constants of `relaxation`.

    Attributes:
        fmax: eV/Å.
        max_steps: Moves a molecule may make.
        noise: A rise of the energy that is rounding, eV an atom.
        max_rise: Above the start, eV an atom.
        max_fall: Below the start, eV an atom.
        max_force: eV/Å.
        max_travel: Å.
        converged: The code of a molecule that has.
        out_of_steps: Of one that made all of its moves.
        exploded: Of one that did.
        non_finite: Of one that met a number that is not finite.
    """

    fmax: float
    max_steps: int
    noise: float
    max_rise: float
    max_fall: float
    max_force: float
    max_travel: float
    converged: int
    out_of_steps: int
    exploded: int
    non_finite: int


_COMMON = (
    "code",
    "n_steps",
    "trial",
    "positions",
    "forces",
    "energy",
    "max_force",
    "initial_energy",
    "initial_max_force",
)
_LBFGS = ("s", "y", "rho", "scale", "radius", "longest")
_LBFGS_MODEL = ("inverse", "inverse_forces", "inverse_y")
_FIRE = ("velocity", "dt", "mix", "n_downhill")


def minimise(
    sizes: Tensor,
    free: Tensor,
    origin: Tensor,
    state: dict[str, Tensor],
    ptr: Tensor,
    energy: Tensor,
    forces: Tensor,
    rules: Rules,
    constants: dict[str, float],
) -> None:
    """One move of every running molecule, from a force call at its trial point.

    What `relaxation.step` means, after its force call. All tensors are contiguous, and the state is
    changed in place.

    Args:
        sizes: Number of atoms, int64 [n_slots].
        free: Atoms that may move, bool [n_slots, width].
        origin: Initial positions, Å [n_slots, width, 3].
        state: As `relaxation.enter` makes it, for L-BFGS or FIRE.
        ptr: First atom of each slot in the flat batch, int64 [n_slots + 1].
        energy: eV, float64 [n_slots].
        forces: eV/Å, float32, of the flat batch [capacity, 3].
        rules: When a molecule has ended.
        constants: The minimiser's, under the names that its kernel has for them.
    """
    n_slots, width = free.shape
    W = _tile_width(width)
    tensors = {name: state[name] for name in _COMMON}
    options: dict[str, float] = {}
    if "velocity" in state:
        kernel = fire_kernel
        tensors |= {name: state[name] for name in _FIRE}
    else:
        kernel = lbfgs_kernel
        tensors |= {name: state[name] for name in _LBFGS}
        # What is not there is not read, but has to be given.
        tensors |= {name: state.get(name, state["s"]) for name in _LBFGS_MODEL}
        options = {"HAS_MODEL": "inverse" in state, "ROWS": 8}
    kernel[(n_slots,)](
        sizes_ptr=sizes,
        free_ptr=free.view(torch.uint8),
        origin_ptr=origin,
        ptr_ptr=ptr,
        flat_energy_ptr=energy,
        flat_forces_ptr=forces,
        width=width,
        fmax=rules.fmax,
        max_steps=rules.max_steps,
        NOISE=rules.noise,
        MAX_RISE=rules.max_rise,
        MAX_FALL=rules.max_fall,
        MAX_FORCE=rules.max_force,
        MAX_TRAVEL=rules.max_travel,
        CONVERGED=rules.converged,
        OUT_OF_STEPS=rules.out_of_steps,
        EXPLODED=rules.exploded,
        NON_FINITE=rules.non_finite,
        W=W,
        num_warps=_warps(W),
        **{f"{name}_ptr": tensor for name, tensor in tensors.items()},
        **constants,
        **options,
        **overlap(len(forces)),
    )


def begin_move(
    state: dict[str, Tensor],
    inverse_mass: Tensor,
    keys: Tensor,
    ptr: Tensor,
    constants: Tensor,
    flat: Tensor,
    *,
    langevin: bool,
) -> None:
    """The first half of a step of BAOAB, up to the force call; in place.

    Args:
        state: Of `dynamics.Dynamics`.
        inverse_mass: 1/amu, 0 for atoms that do not move, float64 [n_mols, width].
        keys: Of the random streams, int64 [n_mols].
        ptr: First atom of each molecule in the flat batch, int64 [n_mols + 1].
        constants: Time step in sqrt(amu Å²/eV), share of its velocity that friction leaves an atom
            in one step, Boltzmann's constant in eV/K, float64 [3].
        flat: Written: positions about each molecule's centre, Å [n_atoms, 3].
        langevin: Whether there is a bath.
    """
    n_mols, width = inverse_mass.shape
    W = _tile_width(width)
    begin_move_kernel[(n_mols,)](
        state["positions"],
        state["velocities"],
        state["forces"],
        state["temperature"],
        state["step"],
        inverse_mass,
        keys,
        ptr,
        constants,
        flat,
        width,
        LANGEVIN=langevin,
        W=W,
        num_warps=_warps(W),
        **overlap(len(flat)),
    )


def end_move(
    state: dict[str, Tensor],
    inverse_mass: Tensor,
    ptr: Tensor,
    constants: Tensor,
    energy: Tensor,
    forces: Tensor,
) -> None:
    """The rest of a step of BAOAB, from the force call at the new positions; in place.

    Args:
        state: Of `dynamics.Dynamics`.
        inverse_mass: As in `begin_move`.
        ptr: As in `begin_move`.
        constants: As in `begin_move`.
        energy: eV, float64 [n_mols].
        forces: eV/Å, of the flat batch [n_atoms, 3].
    """
    n_mols, width = inverse_mass.shape
    W = _tile_width(width)
    end_move_kernel[(n_mols,)](
        state["velocities"],
        state["forces"],
        state["energy"],
        state["step"],
        inverse_mass,
        ptr,
        constants,
        energy,
        forces,
        width,
        W=W,
        num_warps=_warps(W),
        **overlap(len(forces)),
    )


def _tile_width(width: int) -> int:
    """Atoms of a tile."""
    return max(triton.next_power_of_2(width), 8)


def _warps(tile_width: int) -> int:
    """Warps of a program: two coordinates a thread."""
    return min(max(tile_width // 16, 1), 32)
