"""What happens to molecules between two force calls of L-BFGS, compiled for a CPU.

Meaning: `slots.evaluate_rows` before the force call and `step.step` with `lbfgs.lbfgs_step` after
it, whose two hundred small operators take a core as long as a fifth of the force call itself.
Molecules are few and small, so both functions run in the caller's thread.

What decides a path comes as an argument: Numba's cache on disk would not notice that a constant of
another module has changed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import ForceField
from mlff_core.moves.lbfgs import LbfgsConstants
from mlff_core.moves.rules import Rules
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import RelaxState, each
from mlff_core.ops.numba.compile import FASTMATH, Unaliased, compiled, compiled_for

_serial: Callable[[Callable[..., None]], Callable[..., None]] = compiled(
    nogil=True, fastmath=FASTMATH, pipeline_class=Unaliased
)


class FlatArrays(NamedTuple):
    """The running molecules side by side.

    Attributes:
        numbers: int64 [n_slots width], up to ptr[-1].
        positions: [n_slots width, 3], likewise.
        mol_idx: int64 [n_slots width], likewise.
        ptr: int64 [n_slots + 1].
    """

    numbers: np.ndarray
    positions: np.ndarray
    mol_idx: np.ndarray
    ptr: np.ndarray


class ForceCall(NamedTuple):
    """What the force field says of them.

    Attributes:
        energy: float64 [n_slots].
        forces: [3 n_atoms].
    """

    energy: np.ndarray
    forces: np.ndarray


@_serial
def gather(rows: Any, state: Any, flat: FlatArrays) -> None:
    """Write the running molecules side by side; arguments as in `minimise`."""
    n = 0
    flat.ptr[0] = 0
    for slot in range(len(state.status)):
        if state.status[slot] == 0:
            for a in range(rows.sizes[slot]):
                flat.numbers[n], flat.mol_idx[n] = rows.numbers[slot, a], slot
                for axis in range(3):
                    flat.positions[n, axis] = state.trial[slot, 3 * a + axis]
                n += 1
        flat.ptr[slot + 1] = n


@njit(inline="always")
def _dot(a: np.ndarray, b: np.ndarray, n: int) -> float:
    """Σ a b of the first n, summed in float64."""
    total = 0.0
    for k in range(n):
        total += np.float64(a[k] * b[k])
    return total


@njit(inline="always")
def _longest(x: np.ndarray, n: int) -> float:
    """Length of the longest of the vectors x [n], one after the other."""
    square = x.dtype.type(0)
    for k in range(0, n, 3):
        square = max(square, x[k] * x[k] + x[k + 1] * x[k + 1] + x[k + 2] * x[k + 2])
    return np.sqrt(square)


@njit(inline="always")
def _extent(x: np.ndarray, n: int) -> float:
    """Distance of the farthest atom from the mean of all, in x [n] one after the other."""
    zero, size = x.dtype.type(0), x.dtype.type(n // 3)
    cx, cy, cz = zero, zero, zero
    for k in range(0, n, 3):
        cx, cy, cz = cx + x[k], cy + x[k + 1], cz + x[k + 2]
    cx, cy, cz = cx / size, cy / size, cz / size
    square = zero
    for k in range(0, n, 3):
        dx, dy, dz = x[k] - cx, x[k + 1] - cy, x[k + 2] - cz
        square = max(square, dx * dx + dy * dy + dz * dz)
    return np.sqrt(square)


@njit(inline="always")
def _push(history: np.ndarray, newest: np.ndarray, n: int) -> None:
    """Put the newest first, and let the oldest go."""
    for k in range(len(history) - 1, 0, -1):
        history[k, :n] = history[k - 1, :n]
    history[0, :n] = newest[:n]


@_serial
def minimise(
    rows: Any,  # slots.Rows
    ptr: np.ndarray,  # int64 [n_slots + 1]
    answer: Any,  # ForceCall
    state: Any,  # RelaxState
    rules: Rules,
    constants: LbfgsConstants,
) -> None:
    """One move of every running molecule, from a force call at its trial point; in place.

    Rows and state in arrays, the coordinates of all atoms in one axis. Without a model of the
    Hessian its arrays have no slots.
    """
    limits, codes = rules.limits, rules.codes
    sizes, free, origin = rows.sizes, rows.free, rows.positions
    status, n_steps, trial, positions = state.status, state.n_steps, state.trial, state.positions
    forces, energy, max_force = state.forces, state.energy, state.max_force
    initial_energy, initial_max_force = state.initial_energy, state.initial_max_force
    memory = state.memory
    s, y, rho, inverse_y = memory.s, memory.y, memory.rho, memory.inverse_y
    scale, radius, longest = memory.scale, memory.radius, memory.longest
    inverse, inverse_forces, renewed = memory.inverse, memory.inverse_forces, memory.renewed
    flat_energy, flat_forces = answer.energy, answer.forces
    n_slots, n_all = trial.shape
    has_model = len(inverse) > 0
    real = trial.dtype.type
    # Only the first 3 size of each are used.
    moving, before, step, change = (
        np.empty(n_all, trial.dtype),
        np.empty(n_all, trial.dtype),
        np.empty(n_all, trial.dtype),
        np.empty(n_all, trial.dtype),
    )
    inverse_change, q, direction = (
        np.empty(n_all, trial.dtype),
        np.empty(n_all, trial.dtype),
        np.empty(n_all, trial.dtype),
    )
    alphas = np.empty(rho.shape[1])
    for slot in range(n_slots):
        if status[slot] != 0:
            continue
        size, start = sizes[slot], 3 * ptr[slot]
        n = 3 * size
        call = flat_forces[start : start + n]
        finite = np.isfinite(flat_energy[slot])
        for k in range(n):
            finite &= np.isfinite(call[k])
        if not finite:
            status[slot] = codes.non_finite
            continue
        first = energy[slot] == np.inf
        accept = first or flat_energy[slot] <= energy[slot] + limits.noise * size
        for k in range(n):
            is_free = free[slot, k // 3]
            moving[k] = call[k] if is_free else real(0)
            before[k] = forces[slot, k] if is_free else real(0)
            step[k] = trial[slot, k] - positions[slot, k]
            change[k] = before[k] - moving[k]

        # What this step taught about the curvature.
        sy, ss, yy = _dot(step, change, n), _dot(step, step, n), _dot(change, change, n)
        # Below this share of |s| |y| the product is rounding.
        known = not first and sy > 1e-6 * np.sqrt(ss * yy)
        if has_model:
            # The matrix is symmetric: its rows, weighted, add up to the product.
            direction[:n] = real(0)
            for i in range(n):
                weight = moving[i]
                for k in range(n):
                    direction[k] += weight * inverse[slot, i, k]
            for k in range(n):
                inverse_change[k] = inverse_forces[slot, k] - direction[k]
                if not accept:
                    direction[k] = inverse_forces[slot, k]
            inverse_forces[slot, :n] = direction[:n]
        else:
            for k in range(n):
                inverse_change[k] = change[k] / real(constants.curvature)
                direction[k] = (moving[k] if accept else before[k]) / real(constants.curvature)
        if known:
            _push(s[slot], step, n)
            _push(y[slot], change, n)
            rho[slot, 1:] = rho[slot, :-1].copy()
            rho[slot, 0] = 1.0 / sy
            if has_model:
                _push(inverse_y[slot], inverse_change, n)
            scale[slot] = min(max(sy / _dot(change, inverse_change, n), 0.1), 10.0)

        # The two loops; a pair that is not there has rho = 0, and so have all after it.
        for k in range(n):
            q[k] = moving[k] if accept else before[k]
        n_pairs = 0
        while n_pairs < len(alphas) and rho[slot, n_pairs] != 0.0:
            alphas[n_pairs] = rho[slot, n_pairs] * _dot(s[slot, n_pairs], q, n)
            alpha = real(alphas[n_pairs])
            for k in range(n):
                q[k] -= alpha * y[slot, n_pairs, k]
            if has_model:
                for k in range(n):
                    direction[k] -= alpha * inverse_y[slot, n_pairs, k]
            else:
                for k in range(n):
                    direction[k] -= alpha * (y[slot, n_pairs, k] / real(constants.curvature))
            n_pairs += 1
        for k in range(n):
            direction[k] *= real(scale[slot])
        for pair in range(n_pairs - 1, -1, -1):
            beta = rho[slot, pair] * _dot(y[slot, pair], direction, n)
            weight = real(alphas[pair] - beta)
            for k in range(n):
                direction[k] += weight * s[slot, pair, k]

        # The trust radius.
        if accept:
            radius[slot] = min(2.0 * radius[slot], constants.longest_step)
        else:
            radius[slot] = max(0.5 * min(radius[slot], longest[slot]), constants.min_radius)
        length = _longest(direction, n)
        shorter = real(min(radius[slot] / max(length, 1e-12), 1.0))
        longest[slot] = min(length, radius[slot])

        # The point that is accepted now, and whether the molecule has ended there.
        if accept:
            for k in range(n):
                positions[slot, k], forces[slot, k] = trial[slot, k], call[k]
            energy[slot] = flat_energy[slot]
            max_force[slot] = _longest(moving, n)
            if first:
                initial_energy[slot], initial_max_force[slot] = energy[slot], max_force[slot]
        rise = energy[slot] - initial_energy[slot]
        growth = _extent(positions[slot], n) - _extent(origin[slot], n)
        if (
            rise > limits.max_rise * size
            or (initial_max_force[slot] <= limits.max_force and rise < -limits.max_fall * size)
            or max_force[slot] > max(10.0 * initial_max_force[slot], limits.max_force)
            or growth > limits.max_growth
        ):
            status[slot] = codes.exploded
        elif max_force[slot] < rules.fmax and rise <= 0.0:
            status[slot] = codes.converged
        elif n_steps[slot] >= rules.max_steps:
            status[slot] = codes.max_steps
        else:
            n_steps[slot] += 1
            for k in range(n):
                trial[slot, k] = positions[slot, k] + direction[k] * shorter
            if has_model and renewed[slot] < 2:
                again = renewed[slot] == 1
                below = constants.renew_again_below if again else constants.renew_below
                if max_force[slot] < below:
                    status[slot] = codes.renewing


def compiled_step(
    rows: Rows, state: RelaxState, potential: ForceField, rules: Rules
) -> Callable[[RelaxState], RelaxState]:
    """`step.step` of L-BFGS on a CPU by the loops above, in place.

    Args:
        rows: The molecules.
        state: What the step will be given; where its tensors lie is noted here.
        potential: What computes.
        rules: When a molecule has ended.
    """
    n_slots, width = rows.numbers.shape
    numbers, mol_idx = (torch.empty(n_slots * width, dtype=torch.int64) for _ in range(2))
    positions = rows.positions.new_empty(n_slots * width, 3)
    ptr = torch.zeros(n_slots + 1, dtype=torch.int64)
    flat = FlatArrays(numbers.numpy(), positions.numpy(), mol_idx.numpy(), ptr.numpy())
    empty = rows.positions.new_empty
    memory = state.memory
    if memory.inverse is None:
        memory = memory._replace(
            inverse=empty(0, 0, 0),
            inverse_forces=empty(0, 0),
            inverse_y=empty(0, 0, 0),
            renewed=torch.empty(0, dtype=torch.int64),
        )
    flattened = state._replace(
        trial=state.trial.flatten(1),
        positions=state.positions.flatten(1),
        forces=state.forces.flatten(1),
        memory=memory,
    )
    # Without copies.
    row_arrays: Any = each(Tensor.numpy, rows._replace(positions=rows.positions.flatten(1)))
    state_arrays: Any = each(Tensor.numpy, flattened)
    constants = LbfgsConstants()
    example = ForceCall(np.empty(0), np.empty(0, row_arrays.positions.dtype))
    gathered = compiled_for(gather, row_arrays, state_arrays, flat)
    minimised = compiled_for(
        minimise, row_arrays, flat.ptr, example, state_arrays, rules, constants
    )
    # The atoms that run change when a molecule ends or enters, and seldom between two steps.
    batches: dict[int, MolBatch] = {}

    def run(state: RelaxState) -> RelaxState:
        gathered(row_arrays, state_arrays, flat)
        n_atoms = int(flat.ptr[-1])
        if n_atoms:
            if n_atoms not in batches:
                batches.clear()
                batches[n_atoms] = MolBatch(
                    numbers[:n_atoms], positions[:n_atoms], mol_idx[:n_atoms], ptr, rows.charge
                )
            out = potential.evaluate(batches[n_atoms])
            forces = out.forces.to(positions.dtype).flatten()
            answer = ForceCall(
                np.ascontiguousarray(out.energy.numpy(), np.float64),
                np.ascontiguousarray(forces.numpy()),
            )
            minimised(row_arrays, flat.ptr, answer, state_arrays, rules, constants)
        return state

    return run
