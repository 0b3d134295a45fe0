# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""How a move of one molecule ends, as a kernel: accept the trial point, judge, set the next one.

Meaning: `rules.Rules` and `step.step`. A molecule is a tile [W, 4] of atoms and axes, of which the
fourth is empty.
"""

import triton
import triton.language as tl


@triton.jit
def longest_vector(x):
    """Length of the longest of the vectors [W, 4]."""
    return tl.sqrt(tl.max(tl.sum(x * x, 1), 0))


@triton.jit
def extent(x, inside, size):
    """Distance of the farthest atom from the mean of all; x is 0 where it is not inside [W, 4]."""
    centre = tl.sum(x, 0) / size
    return longest_vector(tl.where(inside, x - centre[None, :], 0.0))


@triton.jit
def dot(a, b):
    """Σ a b, summed in float64."""
    return tl.sum(tl.sum((a * b).to(tl.float64), 1), 0)


@triton.jit
def conclude(
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
    max_force = tl.where(accept, longest_vector(moving_forces), max_force_before)
    initial_energy = tl.where(accept & first, energy, initial_energy)
    initial_max_force = tl.where(accept & first, max_force, initial_max_force)

    change = energy - initial_energy
    growth = extent(accepted, inside, size) - extent(origin, inside, size)
    exploded = (
        (change > LIMITS.max_rise * size)
        | ((initial_max_force <= LIMITS.max_force) & (change < -LIMITS.max_fall * size))
        | (max_force > tl.maximum(10.0 * initial_max_force, LIMITS.max_force))
        | (growth > LIMITS.max_growth)
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
