# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ... because an autograd function's arguments are whatever `apply` was given.
"""PaiNN's operators over pairs with the derivatives that force training needs, as Triton kernels.

Training on forces differentiates the analytic pass of `mlff_core.ops.program` once more, by the
weights. Of that, what runs over pairs is here; the rest is plain PyTorch. With, for one feature,
row r = (c, n) of the pair list (centre c, neighbour n, unit vector u from c to n, distance d),
filters W1 W2 W3 (d) and their slopes S1 S2 S3, the messages p1 p2 p3 = phi and m = mu:

    message_fwd   dq_c = Σ p1_n W1,   dmu_c = Σ p2_n W2 u + p3_n W3 m_n
    message_bwd   from a = g_dq and b = g_dmu, with β = -b_n·u and γ = b_n·m_c:
                  g_phi_c = Σ (a_n W1, β W2, γ W3),   g_mu_c = Σ p3_c W3 b_n
                  g_d = Σ_f a_n p1_c S1 + β p2_c S2 + γ p3_c S3,   g_u = -Σ_f p2_c W2 b_n

Both directions of a pair are listed, so everything is a sum over the rows of a centre: no atomic
additions, and the same result in every run. `message_bwd` lists g_d and g_u under the row of the
sender, the reverse of `plain.message_bwd`: their sums over both directions are the same.
The derivative of `message_bwd` follows from L = Σ P·g_phi + M·g_mu + D g_d + V·g_u, whose terms are
products of what is listed above (`twice_centre_kernel`, `twice_neighbour_kernel`).

The first block has no vectors yet (m = 0), so neither p3, W3 nor M are there, and nothing asks for
g_phi: kernels with PARTS = 2 instead of 3 leave all of that out.

W and S are computed once for a block of the network, by the matrix units, one row for both
directions of a pair, and kept in float16, whose mantissa is that of TF32. So is what a kernel
gathers, phi, mu, a and b: each of these rows is read some twenty times. Cotangents and gradients of
filters are kept in bfloat16, whose range is float32's.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlff_core.ops.plain import Edges
from mlff_core.ops.program import EdgeOps
from mlff_core.ops.triton.message_twice_first import twice_bwd_kernel, twice_fwd_kernel
from mlff_core.ops.triton.message_twice_second import twice_centre_kernel, twice_neighbour_kernel


class Tile(NamedTuple):
    """Pairs and features that a program handles at once, and its warps."""

    block_e: int
    block_f: int
    num_warps: int


#: What was fastest on one H200 with 256 features.
TILES: dict[str, Tile] = {
    "twice_fwd_kernel": Tile(2, 64, 1),
    "twice_bwd_kernel": Tile(2, 256, 1),
    "twice_centre_kernel": Tile(1, 256, 2),
    "twice_neighbour_kernel": Tile(8, 64, 1),
}


def features_at_once(kernel: str, n_features: int) -> int:
    """Features of a program: as its tile has it, or the largest power of two that divides all."""
    return min(TILES[kernel].block_f, n_features & -n_features)


#: Programs of a kernel for each block of features.
N_PROGRAMS = 8448

#: Most elements that a tensor over pairs may have for its places to fit in 32 bits.
_MOST_NARROW = 2**31 - 1


class _Pairs:
    """One pair list: how its rows are laid out, and the basis as the matrix units want it.

    Attributes:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1]; rows beyond the
            end are padding that no atom owns.
        reverse: Row of the opposite direction of each pair, int64 [n_edges].
    """

    def __init__(self, row: Tensor, reverse: Tensor, n_programs: int):
        self.row, self.reverse, self.n_programs = row, reverse, n_programs
        self._basis: tuple[Tensor, Tensor] | None = None
        self._filters: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._places: dict[torch.dtype, tuple[Tensor, ...]] = {}
        self._halves: tuple[Tensor, Tensor] | None = None

    def halves(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """For each row the place of its pair in a list of pairs without direction, int64 [n_edges];
        and a row of each of these pairs, int64 [n_edges // 2]."""
        if self._halves is None:
            rows = torch.arange(len(edges.j), device=edges.j.device)
            first = (edges.i < edges.j) & (rows < self.row[-1])
            place = first.cumsum(0) - 1
            n_pairs = len(rows) // 2
            # One more than there is: rows that are no first ones are written there.
            listed = torch.zeros(n_pairs + 1, dtype=torch.int64, device=rows.device)
            listed.scatter_(0, torch.where(first, place, n_pairs), rows)
            self._halves = torch.where(first, place, place[self.reverse]), listed[:n_pairs]
        return self._halves

    def places(self, edges: Edges, n_features: int) -> tuple[Tensor, ...]:
        """First rows, sources, places of pairs and reverse rows, in as few bits as hold the places
        of filters."""
        narrow = 6 * n_features * len(edges.j) <= _MOST_NARROW
        dtype = torch.int32 if narrow else torch.int64
        if dtype not in self._places:
            every = self.row, edges.j, self.halves(edges)[0], self.reverse
            self._places[dtype] = tuple(x.to(dtype) for x in every)
        return self._places[dtype]

    def launch(self, kernel: Any, n_features: int, *arguments: Any, **flags: Any) -> None:
        """Run a kernel over all atoms."""
        name = kernel.fn.__name__
        tile, block_f = TILES[name], features_at_once(name, n_features)
        kernel[(self.n_programs, n_features // block_f)](
            *arguments,
            F=n_features,
            BLOCK_E=tile.block_e,
            BLOCK_F=block_f,
            num_warps=tile.num_warps,
            **flags,
        )

    def basis(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """Basis above slope, padded to a width that the matrix units take.

        Returns:
            float16 [2 (n_edges // 2), width], of pairs without direction; and bfloat16 [2 n_edges,
            2 width], where the second half holds what the first rounds off.
        """
        if self._basis is None:
            both = torch.cat([edges.basis, edges.slope])
            both = torch.nn.functional.pad(both, (0, -both.shape[1] % 8))
            high = both.bfloat16()
            low = (both - high.float()).bfloat16()
            _, listed = self.halves(edges)
            half = torch.cat([both[listed], both[listed + len(edges.j)]]).half()
            self._basis = half, torch.cat([high, low], 1)
        return self._basis

    def filters(self, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """W and S of every pair, each float16 [n_edges // 2, len(filters)]."""
        # The forward and the backward pass of a block meet the same filters: compute them once.
        if id(filters) not in self._filters:
            half, _ = self.basis(edges)
            weights = torch.nn.functional.pad(filters, (0, half.shape[1] - filters.shape[1]))
            W, S = (half @ weights.half().T).chunk(2)
            # Holding the weights themselves keeps their id theirs.
            self._filters[id(filters)] = (filters, W, S)
        return self._filters[id(filters)][1:]

    def filter_gradient(self, edges: Edges, g: Tensor, n_basis: int) -> Tensor:
        """Gradient of the filter weights [width, n_basis] from that of W, or of W above S."""
        _, parts = self.basis(edges)
        high, low = (g.T @ parts[: len(g)]).float().chunk(2, -1)
        return (high + low)[:, :n_basis]


def _gathered(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What neighbours read, in half as many bytes."""
    return tuple(None if x is None else x.half().contiguous() for x in tensors)


class _MessageFwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, edges, phi, mu, filters, W):
        n_atoms, n_features = len(phi), W.shape[1] // (2 if mu is None else 3)
        phi, mu = _gathered(phi, mu)
        dq = torch.empty(n_atoms, n_features, device=phi.device)
        dmu = torch.empty(n_atoms, 3, n_features, device=phi.device)
        row, source, pair, _ = pairs.places(edges, n_features)
        pairs.launch(
            twice_fwd_kernel,
            n_features,
            row,
            source,
            pair,
            edges.unit,
            W,
            phi,
            phi if mu is None else mu,
            dq,
            dmu,
            n_atoms,
            PARTS=2 if mu is None else 3,
        )
        ctx.pairs, ctx.edges, ctx.n_basis = pairs, edges, filters.shape[1]
        ctx.save_for_backward(phi, mu, W)
        return dq, dmu

    @staticmethod
    @once_differentiable
    def backward(ctx, g_dq, g_dmu):
        phi, mu, W = ctx.saved_tensors
        # A cotangent, whose size is that of the loss.
        g_dq, g_dmu = g_dq.bfloat16().contiguous(), g_dmu.bfloat16().contiguous()
        g_W = W.new_empty(len(ctx.edges.j), W.shape[1], dtype=torch.bfloat16)
        g_phi, g_mu, _ = _first(ctx.pairs, ctx.edges, g_dq, g_dmu, phi, mu, W, None, g_W)
        g_filters = ctx.pairs.filter_gradient(ctx.edges, g_W, ctx.n_basis)
        return None, None, g_phi, g_mu, g_filters, None


def _first(pairs, edges, g_dq, g_dmu, phi, mu, W, S, g_W):
    """Gradients of `message_fwd`: g_phi, g_mu, and, if S is given, [g_d, g_u] of the pairs.

    Where there is no mu there is no g_mu, and no g_phi beside the geometry's.
    """
    n_atoms, _, n_features = g_dmu.shape
    n_edges, device = len(edges.j), phi.device
    geometry, weights = S is not None, g_W is not None
    features = mu is not None or not geometry
    g_phi = torch.empty(phi.shape, device=device) if features else None
    g_mu = torch.empty(mu.shape, device=device) if mu is not None else None
    parts = n_features // features_at_once("twice_bwd_kernel", n_features)
    g_geometry = torch.empty(parts, n_edges, 4, device=device) if geometry else None
    row, source, pair, _ = pairs.places(edges, n_features)
    pairs.launch(
        twice_bwd_kernel,
        n_features,
        row,
        source,
        pair,
        edges.unit,
        W,
        S if geometry else W,
        phi,
        phi if mu is None else mu,
        g_dq,
        g_dmu,
        phi if g_phi is None else g_phi,
        phi if g_mu is None else g_mu,
        phi if g_geometry is None else g_geometry,
        g_W if weights else W,
        n_atoms,
        n_edges,
        PARTS=2 if mu is None else 3,
        FEATURES=features,
        GEOMETRY=geometry,
        FILTERS=weights,
    )
    return g_phi, g_mu, None if g_geometry is None else g_geometry.sum(0)


class _MessageBwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, edges, g_dq, g_dmu, phi, mu, filters, W, S):
        g_dq, g_dmu, phi, mu = _gathered(g_dq, g_dmu, phi, mu)
        g_phi, g_mu, g_geometry = _first(pairs, edges, g_dq, g_dmu, phi, mu, W, S, None)
        ctx.pairs, ctx.edges, ctx.n_basis = pairs, edges, filters.shape[1]
        ctx.save_for_backward(g_dq, g_dmu, phi, mu, W, S)
        g_d, g_u = g_geometry[:, 0].contiguous(), g_geometry[:, 1:].contiguous()
        return (g_d, g_u) if mu is None else (g_phi, g_mu, g_d, g_u)

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):
        g_dq, g_dmu, phi, mu, W, S = ctx.saved_tensors
        pairs, edges = ctx.pairs, ctx.edges
        n_atoms, _, n_features = g_dmu.shape
        n_edges, device = len(edges.j), W.device
        c_d, c_u = (c.contiguous() for c in cotangents[-2:])
        c_phi = c_mu = phi
        if mu is not None:
            c_phi, c_mu = (c.bfloat16().contiguous() for c in cotangents[:2])
        flags = {"PARTS": 2 if mu is None else 3}
        out_phi = torch.empty(phi.shape, device=device)
        out_mu = None if mu is None else torch.empty(mu.shape, device=device)
        out_a = torch.empty(g_dq.shape, device=device)
        out_b = torch.empty(g_dmu.shape, device=device)
        g_WS = torch.empty(2 * n_edges, W.shape[1], dtype=torch.bfloat16, device=device)
        row, source, pair, reverse = pairs.places(edges, n_features)
        pairs.launch(
            twice_centre_kernel,
            n_features,
            row,
            source,
            pair,
            edges.unit,
            W,
            S,
            phi,
            phi if mu is None else mu,
            g_dq,
            g_dmu,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_phi,
            out_phi if out_mu is None else out_mu,
            g_WS[:n_edges],
            g_WS[n_edges:],
            n_atoms,
            n_edges,
            **flags,
        )
        pairs.launch(
            twice_neighbour_kernel,
            n_features,
            row,
            source,
            pair,
            reverse,
            edges.unit,
            W,
            S,
            phi,
            phi if mu is None else mu,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_a,
            out_b,
            n_atoms,
            **flags,
        )
        g_filters = pairs.filter_gradient(edges, g_WS, ctx.n_basis)
        return None, None, out_a, out_b, out_phi, out_mu, g_filters, None, None


def reverse_rows(j: Tensor) -> Tensor:
    """Row of (j, i) for the row of every pair (i, j), int64 [n_edges].

    Args:
        j: Sources of a symmetric list, sorted by destination and then by source, int64 [n_edges].
    """
    # Rows are sorted by (i, j), so those of the swapped pairs are found by sorting by (j, i).
    order = torch.sort(j, stable=True).indices
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(j), device=j.device))


def triton_edge_ops(row: Tensor, reverse: Tensor) -> EdgeOps:
    """The operators for one pair list, differentiable by the weights, for `energy_and_forces`.

    Args:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1].
        reverse: As from `reverse_rows`.
    """
    pairs = _Pairs(row, reverse, N_PROGRAMS)

    def message_fwd(phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, _ = pairs.filters(edges, filters)
        return _MessageFwd.apply(pairs, edges, phi, mu, filters, W)

    def message_bwd(
        g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ):
        with torch.no_grad():
            W, S = pairs.filters(edges, filters)
        return _MessageBwd.apply(pairs, edges, g_dq, g_dmu, phi, mu, filters, W, S)

    def scalar_fwd(phi: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, _ = pairs.filters(edges, filters)
        return _MessageFwd.apply(pairs, edges, phi, None, filters, W)

    def scalar_bwd(g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, S = pairs.filters(edges, filters)
        return _MessageBwd.apply(pairs, edges, g_dq, g_dmu, phi, None, filters, W, S)

    return EdgeOps(message_fwd, message_bwd, scalar_fwd, scalar_bwd)
