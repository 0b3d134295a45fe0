"""The message operators for a CPU, compiled by Numba: what a screen without a GPU runs on.

In plain PyTorch nearly all of a step goes into tensors of [n_edges, 3 n_features] that are written
to memory and read back a dozen times. Here each atom's row of pairs is worked through with the
filter in cache and nothing of that size is ever stored. Rows are independent: the list of pairs is
symmetric, so an atom's own row names also those whose messages it sent, and the backward needs
neither a transposed list nor atomic additions. Results repeat bit by bit.

Both operators mean what `reference.message_fwd` and `reference.message_bwd` mean.
"""

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from mlff_core.ops.analytic import EdgeOps
from mlff_core.ops.reference import Edges

#: Threads that Numba has started, an upper bound on what a call may use.
_MOST_THREADS = numba.get_num_threads()

#: Numba's fallback threading layer must not be entered by two threads at once.
_LOCK = threading.Lock()

# Reassociation lets the sums over features use vector registers; NaN and infinity keep their
# meaning, because a molecule that has them must show them.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(inline="always")
def _combine(coefficients: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """out[f] = Σ_k coefficients[k] rows[k, f], seven rows at a time to spare loads of `out`."""
    n_rows, width = rows.shape
    out[:] = 0
    whole = n_rows - n_rows % 7
    for k in range(0, whole, 7):
        c0, c1, c2, c3 = (
            coefficients[k],
            coefficients[k + 1],
            coefficients[k + 2],
            coefficients[k + 3],
        )
        c4, c5, c6 = coefficients[k + 4], coefficients[k + 5], coefficients[k + 6]
        for f in range(width):
            out[f] += (
                (c0 * rows[k, f] + c1 * rows[k + 1, f])
                + (c2 * rows[k + 2, f] + c3 * rows[k + 3, f])
                + (c4 * rows[k + 4, f] + c5 * rows[k + 5, f])
                + c6 * rows[k + 6, f]
            )
    for k in range(whole, n_rows):
        c0 = coefficients[k]
        for f in range(width):
            out[f] += c0 * rows[k, f]


@njit(parallel=True, fastmath=_FASTMATH, cache=True)
def _message_fwd(
    phi: np.ndarray,  # [n_atoms, 3 n_features]
    mu: np.ndarray,  # [n_atoms, 3, n_features]
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    basis: np.ndarray,  # [n_edges, n_rbf + 1]
    filters: np.ndarray,  # [n_rbf + 1, 3 n_features]
    dq: np.ndarray,  # [n_atoms, n_features], out
    dmu: np.ndarray,  # [n_atoms, 3, n_features], out
) -> None:
    n_atoms, _, n = mu.shape
    for a in prange(n_atoms):
        W = np.empty(3 * n, phi.dtype)
        dq_a, dmu_a = np.zeros(n, phi.dtype), np.zeros((3, n), phi.dtype)
        for e in range(row[a], row[a + 1]):
            b = j[e]
            ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
            _combine(basis[e], filters, W)
            for f in range(n):
                dq_a[f] += phi[b, f] * W[f]
                x2 = phi[b, n + f] * W[n + f]
                x3 = phi[b, 2 * n + f] * W[2 * n + f]
                dmu_a[0, f] += x2 * ux + x3 * mu[b, 0, f]
                dmu_a[1, f] += x2 * uy + x3 * mu[b, 1, f]
                dmu_a[2, f] += x2 * uz + x3 * mu[b, 2, f]
        dq[a] = dq_a
        dmu[a] = dmu_a


@njit(parallel=True, fastmath=_FASTMATH, cache=True)
def _message_bwd(
    g_dq: np.ndarray,  # [n_atoms, n_features]
    g_dmu: np.ndarray,  # [n_atoms, 3, n_features]
    phi: np.ndarray,  # [n_atoms, 3 n_features]
    mu: np.ndarray,  # [n_atoms, 3, n_features]
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    basis: np.ndarray,  # [n_edges, n_rbf + 1]
    slope: np.ndarray,  # [n_edges, n_rbf + 1]
    filters: np.ndarray,  # [n_rbf + 1, 3 n_features]
    g_phi: np.ndarray,  # [n_atoms, 3 n_features], out
    g_mu: np.ndarray,  # [n_atoms, 3, n_features], out
    g_distance: np.ndarray,  # [n_edges], out
    g_unit: np.ndarray,  # [n_edges, 3], out
) -> None:
    n_atoms, _, n = mu.shape
    for a in prange(n_atoms):
        W, W_slope = np.empty(3 * n, phi.dtype), np.empty(3 * n, phi.dtype)
        g_phi_a, g_mu_a = np.zeros(3 * n, phi.dtype), np.zeros((3, n), phi.dtype)
        for e in range(row[a], row[a + 1]):
            # Pair e goes from a to b. Worked on here is its reverse, in which a is the sender.
            b = j[e]
            ux, uy, uz = -unit[e, 0], -unit[e, 1], -unit[e, 2]
            _combine(basis[e], filters, W)
            _combine(slope[e], filters, W_slope)
            g_d = g_x = g_y = g_z = phi.dtype.type(0)
            for f in range(n):
                gx, gy, gz = g_dmu[b, 0, f], g_dmu[b, 1, f], g_dmu[b, 2, f]
                g1 = g_dq[b, f]
                g2 = gx * ux + gy * uy + gz * uz
                g3 = gx * mu[a, 0, f] + gy * mu[a, 1, f] + gz * mu[a, 2, f]
                p1, p2, p3 = phi[a, f], phi[a, n + f], phi[a, 2 * n + f]
                g_phi_a[f] += g1 * W[f]
                g_phi_a[n + f] += g2 * W[n + f]
                g_phi_a[2 * n + f] += g3 * W[2 * n + f]
                x2, x3 = p2 * W[n + f], p3 * W[2 * n + f]
                g_mu_a[0, f] += x3 * gx
                g_mu_a[1, f] += x3 * gy
                g_mu_a[2, f] += x3 * gz
                g_d += (
                    g1 * p1 * W_slope[f] + g2 * p2 * W_slope[n + f] + g3 * p3 * W_slope[2 * n + f]
                )
                g_x += x2 * gx
                g_y += x2 * gy
                g_z += x2 * gz
            reverse = row[b] + np.searchsorted(j[row[b] : row[b + 1]], a)
            g_distance[reverse] = g_d
            g_unit[reverse, 0] = g_x
            g_unit[reverse, 1] = g_y
            g_unit[reverse, 2] = g_z
        g_phi[a] = g_phi_a
        g_mu[a] = g_mu_a


def _run(kernel: Callable, *arrays: Any) -> None:
    """Call a kernel with as many threads as PyTorch would use."""
    with _LOCK:
        numba.set_num_threads(min(torch.get_num_threads(), _MOST_THREADS))
        kernel(*(a.detach().contiguous().numpy() for a in arrays))


def _row_starts(i: Tensor, n_atoms: int) -> Tensor:
    """Where each destination's pairs begin, and the end of the last, int64 [n_atoms + 1]."""
    return torch.searchsorted(i, torch.arange(n_atoms + 1))


def message_fwd(phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.message_fwd` on a CPU, without derivatives."""
    dq, dmu = phi.new_empty(len(mu), mu.shape[-1]), torch.empty_like(mu)
    row = _row_starts(edges.i, len(mu))
    _run(_message_fwd, phi, mu, row, edges.j, edges.unit, edges.basis, filters.T, dq, dmu)
    return dq, dmu


def message_bwd(
    g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.message_bwd` on a CPU; the list of pairs must be symmetric and sorted by i, j."""
    out = (
        torch.empty_like(phi),
        torch.empty_like(mu),
        torch.empty_like(edges.distance),
        torch.empty_like(edges.unit),
    )
    row = _row_starts(edges.i, len(mu))
    given = (g_dq, g_dmu, phi, mu, row, edges.j, edges.unit, edges.basis, edges.slope, filters.T)
    _run(_message_bwd, *given, *out)
    return out


#: For `AnalyticEngine` on a CPU.
CPU_OPS = EdgeOps(message_fwd, message_bwd)
