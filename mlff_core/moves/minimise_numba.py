"""What happens to molecules between two force calls of L-BFGS, compiled for a CPU.

Meaning: `slots.evaluate_rows` before the force call and `relaxation.step` with
`optimizers.lbfgs_step` after it, whose two hundred small operators take a core as long as a fifth
of the force call itself. Molecules are few and small, so both functions run in the caller's thread.

What decides a path comes as an argument: Numba's cache on disk would not notice that a constant of
another module has changed.
"""

from collections.abc import Callable

import numpy as np
from numba import njit

from mlff_core.ops.numba.compile import FASTMATH, Unaliased

_serial: Callable[[Callable[..., None]], Callable[..., None]] = njit(
    nogil=True, cache=True, fastmath=FASTMATH, pipeline_class=Unaliased
)


@_serial
def gather(
    code: np.ndarray,  # int64 [n_slots], 0 for a molecule that is running
    sizes: np.ndarray,  # int64 [n_slots]
    row_numbers: np.ndarray,  # int64 [n_slots, width]
    trial: np.ndarray,  # [n_slots, width, 3]
    numbers: np.ndarray,  # int64 [n_slots width], out, up to ptr[-1]
    positions: np.ndarray,  # [n_slots width, 3], out, likewise
    mol_idx: np.ndarray,  # int64 [n_slots width], out, likewise
    ptr: np.ndarray,  # int64 [n_slots + 1], out
) -> None:
    """The running molecules, side by side."""
    n = 0
    ptr[0] = 0
    for slot in range(len(code)):
        if code[slot] == 0:
            for a in range(sizes[slot]):
                numbers[n], mol_idx[n] = row_numbers[slot, a], slot
                for axis in range(3):
                    positions[n, axis] = trial[slot, a, axis]
                n += 1
        ptr[slot + 1] = n


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
def _push(history: np.ndarray, newest: np.ndarray, n: int) -> None:
    """Put the newest first, and let the oldest go."""
    for k in range(len(history) - 1, 0, -1):
        history[k, :n] = history[k - 1, :n]
    history[0, :n] = newest[:n]


@_serial
def minimise(
    # The molecules.
    sizes: np.ndarray,  # int64 [n_slots]
    free: np.ndarray,  # bool [n_slots, width]
    origin: np.ndarray,  # [n_slots, 3 width]
    # The force call.
    ptr: np.ndarray,  # int64 [n_slots + 1]
    flat_energy: np.ndarray,  # float64 [n_slots]
    flat_forces: np.ndarray,  # [3 n_atoms]
    # The state, in place.
    code: np.ndarray,  # int64 [n_slots]
    n_steps: np.ndarray,  # int64 [n_slots]
    trial: np.ndarray,  # [n_slots, 3 width]
    positions: np.ndarray,  # [n_slots, 3 width]
    forces: np.ndarray,  # [n_slots, 3 width]
    energy: np.ndarray,  # float64 [n_slots]
    max_force: np.ndarray,  # [n_slots]
    initial_energy: np.ndarray,  # float64 [n_slots]
    initial_max_force: np.ndarray,  # [n_slots]
    s: np.ndarray,  # [n_slots, history, 3 width]
    y: np.ndarray,  # [n_slots, history, 3 width]
    rho: np.ndarray,  # float64 [n_slots, history]
    scale: np.ndarray,  # float64 [n_slots]
    radius: np.ndarray,  # [n_slots]
    longest: np.ndarray,  # [n_slots]
    inverse: np.ndarray,  # [n_slots, 3 width, 3 width]; without slots: a constant Hessian
    inverse_forces: np.ndarray,  # [n_slots, 3 width], likewise
    inverse_y: np.ndarray,  # [n_slots, history, 3 width], likewise
    # What is asked for, and the rules of `relaxation` and of `optimizers`.
    fmax: float,
    max_steps: int,
    noise: float,  # a rise of the energy that is rounding, eV an atom
    max_rise: float,  # eV an atom
    max_fall: float,  # eV an atom
    large_force: float,  # eV/Å
    max_travel: float,  # Å
    curvature: float,  # eV/Å²
    max_step: float,  # Å
    min_radius: float,  # Å
    converged: int,
    out_of_steps: int,
    exploded: int,
    non_finite: int,
) -> None:
    """One move of every running molecule, from a force call at its trial point."""
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
        if code[slot] != 0:
            continue
        size, start = sizes[slot], 3 * ptr[slot]
        n = 3 * size
        call = flat_forces[start : start + n]
        finite = np.isfinite(flat_energy[slot])
        for k in range(n):
            finite &= np.isfinite(call[k])
        if not finite:
            code[slot] = non_finite
            continue
        first = n_steps[slot] == 0
        accept = first or flat_energy[slot] <= energy[slot] + noise * size
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
                inverse_change[k] = change[k] / real(curvature)
                direction[k] = (moving[k] if accept else before[k]) / real(curvature)
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
                    direction[k] -= alpha * (y[slot, n_pairs, k] / real(curvature))
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
            radius[slot] = min(2.0 * radius[slot], max_step)
        else:
            radius[slot] = max(0.5 * min(radius[slot], longest[slot]), min_radius)
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
        for k in range(n):
            q[k] = positions[slot, k] - origin[slot, k]
        rise = energy[slot] - initial_energy[slot]
        if (
            rise > max_rise * size
            or (initial_max_force[slot] <= large_force and rise < -max_fall * size)
            or max_force[slot] > max(10.0 * initial_max_force[slot], large_force)
            or _longest(q, n) > max_travel
        ):
            code[slot] = exploded
        elif max_force[slot] < fmax and rise <= 0.0:
            code[slot] = converged
        elif n_steps[slot] >= max_steps:
            code[slot] = out_of_steps
        else:
            n_steps[slot] += 1
            for k in range(n):
                trial[slot, k] = positions[slot, k] + direction[k] * shorter
