"""The message operators for a CPU, compiled by Numba: what a screen without a GPU runs on.

In plain PyTorch nearly all of a step goes into tensors of [n_edges, 3 n_features] that are written
to memory and read back a dozen times. Here each atom's row of pairs is worked through with the
filter in cache and nothing of that size is ever stored. Rows are independent: the list of pairs is
symmetric, so an atom's own row names also those whose messages it sent, and the backward needs
neither a transposed list nor atomic additions. Results repeat bit by bit.

The filter is a function of the distance alone, so it is tabulated when it is first seen and
interpolated by cubic Hermite polynomials; its slope is the derivative of what is interpolated.
With knots every 0.005 Å that is as near to float64 as float32 arithmetic on the basis itself, for a
fifth of the operations. Below the first knot, where atoms overlap, the basis is used as it stands.

Both operators mean what `reference.message_fwd` and `reference.message_bwd` mean.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from mlff_core.ops.analytic import EdgeOps
from mlff_core.ops.reference import Edges, edge_geometry

#: Threads that Numba has started, an upper bound on what a call may use.
_MOST_THREADS = numba.get_num_threads()

#: Where the tables begin and how dense they are at least, in Å.
FIRST_KNOT, KNOT_DISTANCE = 0.5, 0.005
#: Tables that are kept, one an interaction block.
MAX_TABLES = 8

#: Numba's fallback threading layer must not be entered by two threads at once.
_PARALLEL = threading.Lock()

# Reassociation lets the sums over features use vector registers; NaN and infinity keep their
# meaning, because a molecule that has them must show them.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@dataclass(frozen=True)
class Kernel:
    """A loop over atoms, compiled twice from one source; neither holds the interpreter's lock.

    Attributes:
        parallel: With threads of its own, for one caller at a time.
        serial: In the caller's thread, beside other callers.
    """

    parallel: Callable[..., None]
    serial: Callable[..., None]


def _kernel(**options: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Compile a function whose outermost loop is a `prange`."""

    def compiled(function: Callable[..., None]) -> Kernel:
        assert isinstance(function, FunctionType)
        # Numba's cache on disk tells functions apart by their names, not by these options.
        serial = FunctionType(function.__code__, function.__globals__, function.__name__)
        serial.__qualname__ = f"{function.__qualname__}_serial"
        serial.__module__ = function.__module__
        return Kernel(
            parallel=njit(parallel=True, nogil=True, cache=True, **options)(function),
            serial=njit(nogil=True, cache=True, **options)(serial),
        )

    return compiled


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


@njit(inline="always")
def _interpolate(
    table: np.ndarray,  # [n_knots, 2, 3 n_features]: value, slope times the distance of two knots
    place: float,  # in units of that distance, from the first knot
    W: np.ndarray,  # [3 n_features], out
) -> None:
    k = int(place)
    u = table.dtype.type(place - k)
    one, two, three = table.dtype.type(1), table.dtype.type(2), table.dtype.type(3)
    v = one - u
    a, b, c, d = (one + two * u) * v * v, u * v * v, u * u * (three - two * u), -u * u * v
    p0, m0, p1, m1 = table[k, 0], table[k, 1], table[k + 1, 0], table[k + 1, 1]
    for f in range(W.shape[0]):
        W[f] = (a * p0[f] + b * m0[f]) + (c * p1[f] + d * m1[f])


@njit(inline="always")
def _interpolate_slope(
    table: np.ndarray,  # as in _interpolate
    place: float,  # likewise
    inverse_knot: float,  # 1 / distance of two knots
    W_slope: np.ndarray,  # [3 n_features], out
) -> None:
    k = int(place)
    u = table.dtype.type(place - k)
    h = table.dtype.type(inverse_knot)
    one, two, three = table.dtype.type(1), table.dtype.type(2), table.dtype.type(3)
    v = one - u
    a, b, d = -two * three * u * v * h, (one - three * u) * v * h, u * (three * u - two) * h
    p0, m0, p1, m1 = table[k, 0], table[k, 1], table[k + 1, 0], table[k + 1, 1]
    for f in range(W_slope.shape[0]):
        W_slope[f] = a * (p0[f] - p1[f]) + (b * m0[f] + d * m1[f])


@_kernel(fastmath=_FASTMATH)
def _message_fwd(
    phi: np.ndarray,  # [n_atoms, 3 n_features], or 2 n_features where there are no vectors
    mu: np.ndarray,  # [n_atoms, 3, n_features], unused where there are none
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    place: np.ndarray,  # [n_edges], negative below the first knot
    basis: np.ndarray,  # [n_edges, n_rbf + 1]
    filters: np.ndarray,  # [n_rbf + 1, as wide as phi]
    table: np.ndarray,  # [n_knots, 2, as wide as phi]
    dq: np.ndarray,  # [n_atoms, n_features], out
    dmu: np.ndarray,  # [n_atoms, 3, n_features], out
) -> None:
    n_atoms, _, n = dmu.shape
    has_mu = phi.shape[1] == 3 * n
    for a in prange(n_atoms):
        W = np.empty(phi.shape[1], phi.dtype)
        dq_a, dmu_a = np.zeros(n, phi.dtype), np.zeros((3, n), phi.dtype)
        for e in range(row[a], row[a + 1]):
            b = j[e]
            ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
            if place[e] < 0:
                _combine(basis[e], filters, W)
            else:
                _interpolate(table, place[e], W)
            if not has_mu:
                for f in range(n):
                    dq_a[f] += phi[b, f] * W[f]
                    x2 = phi[b, n + f] * W[n + f]
                    dmu_a[0, f] += x2 * ux
                    dmu_a[1, f] += x2 * uy
                    dmu_a[2, f] += x2 * uz
                continue
            for f in range(n):
                dq_a[f] += phi[b, f] * W[f]
                x2 = phi[b, n + f] * W[n + f]
                x3 = phi[b, 2 * n + f] * W[2 * n + f]
                dmu_a[0, f] += x2 * ux + x3 * mu[b, 0, f]
                dmu_a[1, f] += x2 * uy + x3 * mu[b, 1, f]
                dmu_a[2, f] += x2 * uz + x3 * mu[b, 2, f]
        dq[a] = dq_a
        dmu[a] = dmu_a


@_kernel(fastmath=_FASTMATH)
def _message_bwd(
    g_dq: np.ndarray,  # [n_atoms, n_features]
    g_dmu: np.ndarray,  # [n_atoms, 3, n_features]
    phi: np.ndarray,  # [n_atoms, 3 n_features], or 2 n_features where there are no vectors
    mu: np.ndarray,  # [n_atoms, 3, n_features], unused where there are none
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    place: np.ndarray,  # [n_edges], negative below the first knot
    basis: np.ndarray,  # [n_edges, n_rbf + 1]
    slope: np.ndarray,  # [n_edges, n_rbf + 1]
    filters: np.ndarray,  # [n_rbf + 1, as wide as phi]
    table: np.ndarray,  # [n_knots, 2, as wide as phi]
    inverse_knot: float,
    g_phi: np.ndarray,  # [n_atoms, 3 n_features], out; not written where there are no vectors
    g_mu: np.ndarray,  # [n_atoms, 3, n_features], out; not written where there are none
    g_distance: np.ndarray,  # [n_edges], out
    g_unit: np.ndarray,  # [n_edges, 3], out
) -> None:
    n_atoms, _, n = g_dmu.shape
    wide = phi.shape[1]
    has_mu = wide == 3 * n
    for a in prange(n_atoms):
        W, W_slope = np.empty(wide, phi.dtype), np.empty(wide, phi.dtype)
        g_phi_a, g_mu_a = np.zeros(wide, phi.dtype), np.zeros((3, n), phi.dtype)
        for e in range(row[a], row[a + 1]):
            # Pair e goes from a to b. Worked on here is its reverse, in which a is the sender.
            b = j[e]
            ux, uy, uz = -unit[e, 0], -unit[e, 1], -unit[e, 2]
            if place[e] < 0:
                _combine(basis[e], filters, W)
                _combine(slope[e], filters, W_slope)
            else:
                _interpolate(table, place[e], W)
                _interpolate_slope(table, place[e], inverse_knot, W_slope)
            g_d = g_x = g_y = g_z = phi.dtype.type(0)
            if not has_mu:
                for f in range(n):
                    gx, gy, gz = g_dmu[b, 0, f], g_dmu[b, 1, f], g_dmu[b, 2, f]
                    g2 = gx * ux + gy * uy + gz * uz
                    p1, p2 = phi[a, f], phi[a, n + f]
                    x2 = p2 * W[n + f]
                    g_d += g_dq[b, f] * p1 * W_slope[f] + g2 * p2 * W_slope[n + f]
                    g_x += x2 * gx
                    g_y += x2 * gy
                    g_z += x2 * gz
            for f in range(n if has_mu else 0):
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
        if has_mu:
            g_phi[a] = g_phi_a
            g_mu[a] = g_mu_a


@_kernel()
def _count_pairs(
    positions: np.ndarray,  # [n_atoms, 3]
    mol_idx: np.ndarray,  # [n_atoms]
    ptr: np.ndarray,  # [n_mols + 1]
    cutoff: float,
    count: np.ndarray,  # int64 [n_atoms], out
) -> None:
    limit = positions.dtype.type(cutoff * cutoff)
    for a in prange(len(positions)):
        n = 0
        for b in range(ptr[mol_idx[a]], ptr[mol_idx[a] + 1]):
            dx = positions[b, 0] - positions[a, 0]
            dy = positions[b, 1] - positions[a, 1]
            dz = positions[b, 2] - positions[a, 2]
            if dx * dx + dy * dy + dz * dz < limit and b != a:
                n += 1
        count[a] = n


@_kernel(error_model="numpy")
def _fill_pairs(
    positions: np.ndarray,  # [n_atoms, 3]
    mol_idx: np.ndarray,  # [n_atoms]
    ptr: np.ndarray,  # [n_mols + 1]
    cutoff: float,
    row: np.ndarray,  # int64 [n_atoms + 1]
    i: np.ndarray,  # int64 [n_edges], out
    j: np.ndarray,  # int64 [n_edges], out
    distance: np.ndarray,  # [n_edges], out
    unit: np.ndarray,  # [n_edges, 3], out
) -> None:
    limit = positions.dtype.type(cutoff * cutoff)
    for a in prange(len(positions)):
        e = row[a]
        for b in range(ptr[mol_idx[a]], ptr[mol_idx[a] + 1]):
            dx = positions[b, 0] - positions[a, 0]
            dy = positions[b, 1] - positions[a, 1]
            dz = positions[b, 2] - positions[a, 2]
            square = dx * dx + dy * dy + dz * dz
            if square < limit and b != a:
                d = np.sqrt(square)
                i[e], j[e], distance[e] = a, b, d
                unit[e, 0], unit[e, 1], unit[e, 2] = dx / d, dy / d, dz / d
                e += 1


def _run(kernel: Kernel, *arguments: Any) -> None:
    """Call a kernel with as many threads as PyTorch would use in the calling one."""
    given = [
        a.detach().contiguous().numpy() if isinstance(a, Tensor) else float(a) for a in arguments
    ]
    n_threads = min(torch.get_num_threads(), _MOST_THREADS)
    if n_threads == 1:
        kernel.serial(*given)
        return
    with _PARALLEL:
        numba.set_num_threads(n_threads)
        kernel.parallel(*given)


def _row_starts(i: Tensor, n_atoms: int) -> Tensor:
    """Where each destination's pairs begin, and the end of the last, int64 [n_atoms + 1]."""
    return torch.searchsorted(i, torch.arange(n_atoms + 1))


class MessageOps:
    """The message operators of a model: its filters are tabulated when they are first seen."""

    def __init__(self, cutoff: float):
        """Lay out the knots.

        Args:
            cutoff: Å; where the filters end.
        """
        self.first_knot = min(FIRST_KNOT, 0.5 * cutoff)
        n_intervals = math.ceil((cutoff - self.first_knot) / KNOT_DISTANCE)
        self.knot_distance = (cutoff - self.first_knot) / n_intervals
        self.cutoff, self.n_intervals = cutoff, n_intervals
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._prepared = threading.local()

    @property
    def edge_ops(self) -> EdgeOps:
        """For `AnalyticEngine`."""
        return EdgeOps(
            self.message_fwd, self.message_bwd, self.scalar_fwd, self.scalar_bwd, self.find_edges
        )

    def find_edges(self, positions: Tensor, mol_idx: Tensor, ptr: Tensor, n_rbf: int) -> Edges:
        """Pairs within the cutoff and their geometry, as `neighbors.neighbor_pairs` lists them.

        The basis is computed below the first knot only; what else is in it is not read here.
        """
        count = torch.empty(len(positions), dtype=torch.int64)
        _run(_count_pairs, positions, mol_idx, ptr, self.cutoff, count)
        row = torch.zeros(len(positions) + 1, dtype=torch.int64)
        torch.cumsum(count, 0, out=row[1:])
        n_edges = int(row[-1])
        i, j = (torch.empty(n_edges, dtype=torch.int64) for _ in range(2))
        distance, unit = positions.new_empty(n_edges), positions.new_empty(n_edges, 3)
        _run(_fill_pairs, positions, mol_idx, ptr, self.cutoff, row, i, j, distance, unit)
        basis, slope = (positions.new_empty(n_edges, n_rbf + 1) for _ in range(2))
        near = (distance < self.first_knot).nonzero()[:, 0]
        if len(near):
            close = edge_geometry(positions, i[near], j[near], n_rbf, self.cutoff)
            basis[near], slope[near] = close.basis, close.slope
        return Edges(i, j, distance, unit, basis, slope)

    def message_fwd(
        self, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`reference.message_fwd` on a CPU, without derivatives."""
        dq, dmu = phi.new_empty(len(mu), mu.shape[-1]), torch.empty_like(mu)
        row, place, table = self._prepare(mu, edges, filters)
        given = (phi, mu, row, edges.j, edges.unit, place, edges.basis, filters.T, table)
        _run(_message_fwd, *given, dq, dmu)
        return dq, dmu

    def message_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`reference.message_bwd` on a CPU; the pairs must be symmetric and sorted by i, j."""
        out = (
            torch.empty_like(phi),
            torch.empty_like(mu),
            torch.empty_like(edges.distance),
            torch.empty_like(edges.unit),
        )
        row, place, table = self._prepare(mu, edges, filters)
        given = (g_dq, g_dmu, phi, mu, row, edges.j, edges.unit, place, edges.basis, edges.slope)
        _run(_message_bwd, *given, filters.T, table, 1.0 / self.knot_distance, *out)
        return out

    def scalar_fwd(self, phi: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """`message_fwd` where all vectors are zero; see `EdgeOps`."""
        n_atoms, n_features = len(phi), phi.shape[1] // 2
        dq, dmu = phi.new_empty(n_atoms, n_features), phi.new_empty(n_atoms, 3, n_features)
        row, place, table = self._prepare(phi, edges, filters)
        given = (phi, dmu, row, edges.j, edges.unit, place, edges.basis, filters.T, table)
        _run(_message_fwd, *given, dq, dmu)
        return dq, dmu

    def scalar_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`message_bwd` where all vectors are zero; see `EdgeOps`."""
        g_distance, g_unit = torch.empty_like(edges.distance), torch.empty_like(edges.unit)
        row, place, table = self._prepare(phi, edges, filters)
        given = (g_dq, g_dmu, phi, g_dmu, row, edges.j, edges.unit, place, edges.basis, edges.slope)
        unwritten = torch.empty_like(phi), torch.empty_like(g_dmu)
        constants = (filters.T, table, 1.0 / self.knot_distance)
        _run(_message_bwd, *given, *constants, *unwritten, g_distance, g_unit)
        return g_distance, g_unit

    def _prepare(
        self, atoms: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Row starts, each pair's place among the knots, and the table of the filters."""
        # The blocks of a model, forward and backward, ask for one list of pairs in turn.
        # Each thread has pairs of its own.
        if getattr(self._prepared, "edges", None) is not edges:
            self._prepared.place = (edges.distance - self.first_knot) / self.knot_distance
            self._prepared.row = _row_starts(edges.i, len(atoms))
            self._prepared.edges = edges
        row, place = self._prepared.row, self._prepared.place
        return row, place, self._table(filters.detach())

    def _table(self, filters: Tensor) -> Tensor:
        """Values, and slopes times the knots' distance [n_knots, 2, 3 n_features]."""
        for known, table in self._tables:
            if known.dtype == filters.dtype and torch.equal(known, filters):
                return table
        # In float64, and one knot more than there are intervals end to end, since rounding may put
        # a pair on the cutoff itself.
        knots = self.first_knot + self.knot_distance * torch.arange(
            self.n_intervals + 2, dtype=torch.float64
        )
        line = torch.zeros(len(knots) + 1, 3, dtype=torch.float64)
        line[1:, 0] = knots
        to = torch.arange(1, len(line))
        edges = edge_geometry(line, torch.zeros_like(to), to, filters.shape[1] - 1, self.cutoff)
        weights = filters.double().T
        table = torch.stack([edges.basis @ weights, edges.slope @ weights * self.knot_distance], 1)
        table[self.n_intervals :] = 0.0
        table = table.to(filters.dtype).contiguous()
        self._tables = [*self._tables[-MAX_TABLES + 1 :], (filters.clone(), table)]
        return table
