"""The operators over pairs for a CPU, compiled by Numba: what a screen without a GPU runs on.

In plain PyTorch nearly all of a step goes into tensors of [n_edges, 3 n_features] that are written
to memory and read back a dozen times. Here each atom's row of pairs is worked through, the filter
is interpolated where it is used, and nothing of that size is ever stored. Rows are independent: the
list of pairs is symmetric, so an atom's own row names also those whose messages it sent, and the
backward needs neither a transposed list nor atomic additions. Results repeat bit by bit.

The filter is a function of the distance alone, so it is tabulated when it is first seen and
interpolated by cubic Hermite polynomials; its slope is the derivative of what is interpolated.
With knots every 0.005 Å that is as near to float64 as float32 arithmetic on the basis itself, for a
fifth of the operations. Below the first knot, where atoms overlap, the basis is used as it stands.

The operators mean what those of `plain` with their names mean.
"""

import math
import threading

import numpy as np
import torch
from numba import prange
from torch import Tensor

from mlff_core.ops.filters import FilterTable, hermite_table
from mlff_core.ops.numba import pairs
from mlff_core.ops.numba.compile import FASTMATH, kernel, lies_compiled, run
from mlff_core.ops.plain import Edges, edge_geometry
from mlff_core.ops.program import EdgeOps

#: Where the tables begin and how dense they are at least, in Å.
FIRST_KNOT, KNOT_DISTANCE = 0.5, 0.005
#: Tables that are kept, one an interaction block.
MAX_TABLES = 8


@kernel(fastmath=FASTMATH)
def _message_fwd(
    phi: np.ndarray,  # [n_atoms, 3 n_features], or 2 n_features where there are no vectors
    mu: np.ndarray,  # [n_atoms, 3, n_features], not read where there are none
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    place: np.ndarray,  # [n_edges], as `MessageOps._prepare` says
    near: np.ndarray,  # [n_near, 2, as wide as phi]
    table: np.ndarray,  # [n_knots, 2, as wide as phi]
    dq: np.ndarray,  # [n_atoms, n_features], out
    dmu: np.ndarray,  # [n_atoms, 3, n_features], out
) -> None:
    n_atoms, n_features = dq.shape
    # Unsigned, or each index would be asked whether it counts from the end.
    n = np.uint64(n_features)
    has_mu = phi.shape[1] == 3 * n_features
    zero, one = phi.dtype.type(0), phi.dtype.type(1)
    two, three = phi.dtype.type(2), phi.dtype.type(3)
    for a in prange(n_atoms):
        # Added up where they belong: of arrays made here LLVM would not know where they lie.
        dq_a, dmu_a = dq[a], dmu[a]
        dq_a[:] = zero
        dmu_a[:] = zero
        for e in range(row[a], row[a + 1]):
            b = j[e]
            ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
            k = int(place[e])
            if place[e] < 0:
                t0, t1, t2, t3 = near[-k - 1, 0], near[-k - 1, 1], near[-k - 1, 0], near[-k - 1, 1]
                u = zero
            else:
                t0, t1, t2, t3 = table[k, 0], table[k, 1], table[k + 1, 0], table[k + 1, 1]
                u = phi.dtype.type(place[e] - k)
            v = one - u
            h0, h1 = (one + two * u) * v * v, u * v * v
            h2, h3 = u * u * (three - two * u), -u * u * v
            phi_b = phi[b]
            for f in range(n):
                f2 = n + f
                W1 = (h0 * t0[f] + h1 * t1[f]) + (h2 * t2[f] + h3 * t3[f])
                W2 = (h0 * t0[f2] + h1 * t1[f2]) + (h2 * t2[f2] + h3 * t3[f2])
                x2 = phi_b[f2] * W2
                dq_a[f] += phi_b[f] * W1
                dmu_a[0, f] += x2 * ux
                dmu_a[1, f] += x2 * uy
                dmu_a[2, f] += x2 * uz
            if has_mu:
                mu_b = mu[b]
                for f in range(n):
                    f3 = n + n + f
                    W3 = (h0 * t0[f3] + h1 * t1[f3]) + (h2 * t2[f3] + h3 * t3[f3])
                    x3 = phi_b[f3] * W3
                    dmu_a[0, f] += x3 * mu_b[0, f]
                    dmu_a[1, f] += x3 * mu_b[1, f]
                    dmu_a[2, f] += x3 * mu_b[2, f]


@kernel(fastmath=FASTMATH)
def _message_bwd(
    g_dq: np.ndarray,  # [n_atoms, n_features]
    g_dmu: np.ndarray,  # [n_atoms, 3, n_features]
    phi: np.ndarray,  # [n_atoms, 3 n_features], or 2 n_features where there are no vectors
    mu: np.ndarray,  # [n_atoms, 3, n_features], not read where there are none
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    place: np.ndarray,  # [n_edges], as `MessageOps._prepare` says
    near: np.ndarray,  # [n_near, 2, as wide as phi]
    table: np.ndarray,  # [n_knots, 2, as wide as phi]
    inverse_knot: float,  # 1 / distance of two knots
    g_phi: np.ndarray,  # as phi, out
    g_mu: np.ndarray,  # [n_atoms, 3, n_features], out; not written where there are no vectors
    g_distance: np.ndarray,  # [n_edges], out
    g_unit: np.ndarray,  # [n_edges, 3], out
) -> None:
    n_atoms, n_features = g_dq.shape
    n = np.uint64(n_features)
    has_mu = phi.shape[1] == 3 * n_features
    zero, one = phi.dtype.type(0), phi.dtype.type(1)
    two, three = phi.dtype.type(2), phi.dtype.type(3)
    inverse = phi.dtype.type(inverse_knot)
    for a in prange(n_atoms):
        phi_a, g_phi_a = phi[a], g_phi[a]
        g_phi_a[:] = zero
        if has_mu:
            g_mu[a] = zero
        for e in range(row[a], row[a + 1]):
            # Pair e goes from a to b. Worked on here is its reverse, in which a is the sender.
            b = j[e]
            ux, uy, uz = -unit[e, 0], -unit[e, 1], -unit[e, 2]
            k = int(place[e])
            if place[e] < 0:
                t0, t1, t2, t3 = near[-k - 1, 0], near[-k - 1, 1], near[-k - 1, 0], near[-k - 1, 1]
                h0, h1, h2, h3 = one, zero, zero, zero
                s0, s1, s3 = zero, one, zero
            else:
                t0, t1, t2, t3 = table[k, 0], table[k, 1], table[k + 1, 0], table[k + 1, 1]
                u = phi.dtype.type(place[e] - k)
                v = one - u
                h0, h1 = (one + two * u) * v * v, u * v * v
                h2, h3 = u * u * (three - two * u), -u * u * v
                s0 = -two * three * u * v * inverse
                s1, s3 = (one - three * u) * v * inverse, u * (three * u - two) * inverse
            g_dq_b, g_dmu_b = g_dq[b], g_dmu[b]
            g_d = g_x = g_y = g_z = zero
            for f in range(n):
                f2 = n + f
                gx, gy, gz = g_dmu_b[0, f], g_dmu_b[1, f], g_dmu_b[2, f]
                g1, g2 = g_dq_b[f], gx * ux + gy * uy + gz * uz
                p1, p2 = phi_a[f], phi_a[f2]
                W1 = (h0 * t0[f] + h1 * t1[f]) + (h2 * t2[f] + h3 * t3[f])
                W2 = (h0 * t0[f2] + h1 * t1[f2]) + (h2 * t2[f2] + h3 * t3[f2])
                slope1 = s0 * (t0[f] - t2[f]) + (s1 * t1[f] + s3 * t3[f])
                slope2 = s0 * (t0[f2] - t2[f2]) + (s1 * t1[f2] + s3 * t3[f2])
                x2 = p2 * W2
                g_d += g1 * p1 * slope1 + g2 * p2 * slope2
                g_x += x2 * gx
                g_y += x2 * gy
                g_z += x2 * gz
                g_phi_a[f] += g1 * W1
                g_phi_a[f2] += g2 * W2
            if has_mu:
                mu_a, g_mu_a = mu[a], g_mu[a]
                for f in range(n):
                    f3 = n + n + f
                    gx, gy, gz = g_dmu_b[0, f], g_dmu_b[1, f], g_dmu_b[2, f]
                    g3 = gx * mu_a[0, f] + gy * mu_a[1, f] + gz * mu_a[2, f]
                    p3 = phi_a[f3]
                    W3 = (h0 * t0[f3] + h1 * t1[f3]) + (h2 * t2[f3] + h3 * t3[f3])
                    slope3 = s0 * (t0[f3] - t2[f3]) + (s1 * t1[f3] + s3 * t3[f3])
                    x3 = p3 * W3
                    g_d += g3 * p3 * slope3
                    g_phi_a[f3] += g3 * W3
                    g_mu_a[0, f] += x3 * gx
                    g_mu_a[1, f] += x3 * gy
                    g_mu_a[2, f] += x3 * gz
            reverse = row[b] + np.searchsorted(j[row[b] : row[b + 1]], a)
            g_distance[reverse] = g_d
            g_unit[reverse, 0] = g_x
            g_unit[reverse, 1] = g_y
            g_unit[reverse, 2] = g_z


def lie_compiled() -> bool:
    """Whether an earlier process has compiled these operators on this host."""
    return lies_compiled(_message_fwd)


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
        self._tables: list[tuple[Tensor, FilterTable]] = []
        self._prepared = threading.local()

    @property
    def edge_ops(self) -> EdgeOps:
        """For `AnalyticEngine`."""
        return EdgeOps(
            self.message_fwd,
            self.message_bwd,
            self.scalar_fwd,
            self.scalar_bwd,
            self.find_edges,
            self.repulsion,
            pairs.position_gradient,
        )

    def find_edges(self, positions: Tensor, mol_idx: Tensor, ptr: Tensor, n_rbf: int) -> Edges:
        """Pairs within the cutoff and their geometry, as `neighbors.neighbor_pairs` lists them.

        The basis is computed below the first knot only; what else is in it is not read here.
        """
        row, i, j, distance, unit = pairs.find_pairs(positions, mol_idx, ptr, self.cutoff)
        basis, slope = (positions.new_empty(len(i), n_rbf + 1) for _ in range(2))
        place, near = self._places(distance)
        if len(near):
            close = edge_geometry(positions, i[near], j[near], n_rbf, self.cutoff)
            basis[near], slope[near] = close.basis, close.slope
        edges = Edges(i, j, distance, unit, basis, slope)
        self._remember(edges, row, place, near)
        return edges

    def repulsion(self, edges: Edges, Z: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Half of `plain.repulsion_fwd_bwd` a pair, its energies added up by destination."""
        row = self._prepared_row(edges, len(Z))
        return pairs.repulsion(row, edges.j, edges.distance, Z, radius)

    def message_fwd(
        self, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`plain.message_fwd` on a CPU, without derivatives."""
        n_atoms, n_features = len(phi), mu.shape[-1]
        dq, dmu = phi.new_empty(n_atoms, n_features), phi.new_empty(n_atoms, 3, n_features)
        row, place, near, table = self._prepare(n_atoms, edges, filters)
        run(_message_fwd, phi, mu, row, edges.j, edges.unit, place, near, table, dq, dmu)
        return dq, dmu

    def message_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`plain.message_bwd` on a CPU; the pairs must be symmetric and sorted by i, j."""
        out = (
            torch.empty_like(phi),
            torch.empty_like(mu),
            torch.empty_like(edges.distance),
            torch.empty_like(edges.unit),
        )
        row, place, near, table = self._prepare(len(phi), edges, filters)
        given = (g_dq, g_dmu, phi, mu, row, edges.j, edges.unit, place, near, table)
        run(_message_bwd, *given, 1.0 / self.knot_distance, *out)
        return out

    def scalar_fwd(self, phi: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """`message_fwd` where all vectors are zero; see `EdgeOps`."""
        return self.message_fwd(phi, phi.new_empty(0, 3, phi.shape[1] // 2), edges, filters)

    def scalar_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`message_bwd` where all vectors are zero; see `EdgeOps`."""
        no_vectors = phi.new_empty(0, 3, phi.shape[1] // 2)
        _, _, g_distance, g_unit = self.message_bwd(g_dq, g_dmu, phi, no_vectors, edges, filters)
        return g_distance, g_unit

    def _prepare(
        self, n_atoms: int, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the kernels read of the pairs and of the filters.

        Returns:
            Row starts; each pair's place among the knots, in units of their distance, or -1 - n
            for the n-th pair below the first; values and slopes of the filters for those, of the
            form of the table; the table.
        """
        row = self._prepared_row(edges, n_atoms)
        prepared, filters = self._prepared, filters.detach()
        return row, prepared.place, prepared.basis @ filters.T, self._table(filters).rows

    def _prepared_row(self, edges: Edges, n_atoms: int) -> Tensor:
        """Row starts of a list of pairs, which is prepared if it is not the one that was last."""
        # The blocks of a model, forward and backward, ask for one list of pairs in turn.
        if getattr(self._prepared, "edges", None) is not edges:
            row = torch.searchsorted(edges.i, torch.arange(n_atoms + 1))
            self._remember(edges, row, *self._places(edges.distance))
        return self._prepared.row

    def _places(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Each pair's place, as `_prepare` says, and which pairs are below the first knot."""
        place = (distance - self.first_knot) / self.knot_distance
        near = (place < 0).nonzero()[:, 0]
        place[near] = -1.0 - torch.arange(len(near)).to(place)
        return place, near

    def _remember(self, edges: Edges, row: Tensor, place: Tensor, near: Tensor) -> None:
        """Keep what has been prepared of a list of pairs."""
        # Each thread has pairs of its own.
        prepared = self._prepared
        prepared.edges, prepared.row, prepared.place = edges, row, place
        prepared.basis = torch.stack([edges.basis[near], edges.slope[near]], 1)

    def _table(self, filters: Tensor) -> FilterTable:
        """Of filters; made when they are first seen."""
        for known, table in self._tables:
            if known.dtype == filters.dtype and torch.equal(known, filters):
                return table
        table = hermite_table(filters, self.cutoff, self.first_knot, self.n_intervals)
        self._tables = [*self._tables[-MAX_TABLES + 1 :], (filters.clone(), table)]
        return table
