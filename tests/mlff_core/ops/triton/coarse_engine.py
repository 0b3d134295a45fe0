"""The plain reference of kernels whose products are coarse. For `mlff_core.testing.script_at`."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlff_core.models.painn import PaiNN
from mlff_core.ops import plain
from mlff_core.ops.filters import FilterTable, spline_table
from mlff_core.ops.plain import Edges
from mlff_core.ops.program import (
    PLAIN_ATOM_OPS,
    AnalyticEngine,
    AtomOps,
    EdgeOps,
    blocks,
    filter_matrix,
    mlp_weights,
)
from mlff_core.ops.triton.operand import product_plain
from mlff_core.ops.triton.steps import FILTER_SPLINES, products_of


class _CoarseProducts(TorchFunctionMode):
    """Products with weights as the kernels of a precision compute them."""

    def __init__(self, precision: str):
        self.precision = precision
        super().__init__()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.linear:
            x, w, *bias = args
            y = product_plain(x, w, self.precision)
            return y + bias[0] if bias and bias[0] is not None else y
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            return product_plain(args[0], args[1].mT, self.precision)
        return function(*args, **(kwargs or {}))


class _FirstByElements(AnalyticEngine):
    """Plain PyTorch whose first block's messages are products, as `ops.triton.first_message` has
    them; see there for what is multiplied."""

    def __init__(self, model: PaiNN, ops: EdgeOps, atom_ops: AtomOps, products: tuple[str, str]):
        first = replace(ops, scalar_fwd=self.scalar_fwd, scalar_bwd=self.scalar_bwd)
        super().__init__(model, first, atom_ops)
        self.products = products
        message, _ = blocks(model)[0]
        filters = filter_matrix(message).detach()
        n_features, n_basis = len(filters) // 3, filters.shape[1]
        # What makes dq, and what makes dmu [2, n_charges, n_features, n_elements * n_basis].
        q = (model.charge.weight[:, None] + model.element.weight).detach().double()
        layers = [w.detach().double() for w in mlp_weights(message.phi)]
        phi = plain.mlp_fwd(q, *layers)[0][..., : 2 * n_features].unflatten(2, (2, n_features))
        used = filters[: 2 * n_features].double().view(2, n_features, n_basis)
        w = torch.einsum("cegf,gfk->gcfek", phi, used).flatten(3)
        self.to_q, self.to_mu = w.to(filters.dtype)
        unit = torch.eye(n_basis).to(filters)
        self.table = spline_table(unit, model.config.cutoff, *FILTER_SPLINES["float32"])

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """As in `AnalyticEngine`."""
        self.element = self.model.atom_index[numbers]
        self.charge = charge[mol_idx] - self.model.config.min_charge
        return super().evaluate(numbers, positions, mol_idx, ptr, charge)

    def scalar_fwd(self, phi: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """As in `EdgeOps`."""
        b, _ = self.table.at(edges.distance)
        # Sums over the neighbours of each element [n_atoms, 1 or 3, n_elements * n_basis].
        place = edges.i, self.element[edges.j]
        shape = len(phi), len(self.model.config.elements)
        s = b.new_zeros(*shape, 1, b.shape[1]).index_put(place, b[:, None], accumulate=True)
        along = edges.unit[:, :, None] * b[:, None]
        t = b.new_zeros(*shape, 3, b.shape[1]).index_put(place, along, accumulate=True)
        s, t = (x.transpose(1, 2).flatten(2) for x in (s, t))
        how = self.products[0]
        return self.product(s, self.to_q, how)[:, 0], self.product(t, self.to_mu, how)

    def scalar_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in `EdgeOps`."""
        b, slope = self.table.at(edges.distance)
        how = self.products[1]
        g_s = self.product(g_dq[:, None], self.to_q.mT, how).unflatten(2, (-1, b.shape[1]))
        g_t = self.product(g_dmu, self.to_mu.mT, how).unflatten(2, (-1, b.shape[1]))
        place = self.element[edges.j]
        p, r = g_s[edges.i, 0, place], g_t[edges.i, :, place]
        radial = p + (r * edges.unit[:, :, None]).sum(1)
        return (radial * slope).sum(1), (r * b[:, None]).sum(2)

    def product(self, x: Tensor, w: Tensor, how: str) -> Tensor:
        """x [n_atoms, n_rows, n_in] times the transpose of what w has for each atom's charge."""
        y = x.new_zeros(*x.shape[:2], w.shape[1])
        for c in self.charge.unique().tolist():
            mine = self.charge == c
            rows = product_plain(x[mine].flatten(0, 1), w[c], how)
            y[mine] = rows.unflatten(0, (-1, x.shape[1]))
        return y


def coarse_engine(
    model: PaiNN,
    precision: str,
    products: tuple[str, str] | None = None,
    *,
    first_by_elements: bool = False,
) -> AnalyticEngine:
    """Plain PyTorch with the splines and products of `TritonEngine`, whose these are.

    What is left between it and the kernels is the order in which they add up, so that over many
    geometries the kernels may hardly be farther from float64 than it is. In one geometry either may
    be a few times as far off as the other: where roundings fall is chance.

    Args:
        model: The network.
        precision: As for `TritonEngine`.
        products: Likewise.
        first_by_elements: The first block's messages are products too.
    """
    tables: list[tuple[Tensor, FilterTable]] = []

    def splined(edges: Edges, filters: Tensor) -> tuple[Edges, Tensor]:
        """Pairs whose basis is the filter itself, and what leaves it so."""
        table = next((known for w, known in tables if torch.equal(w, filters)), None)
        if table is None:
            table = spline_table(filters, model.config.cutoff, *FILTER_SPLINES[precision])
            tables.append((filters, table))
        values, slopes = table.at(edges.distance)
        return edges._replace(basis=values, slope=slopes), torch.eye(len(filters)).to(filters)

    def message_fwd(
        phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        return plain.message_fwd(phi, mu, *splined(edges, filters))

    def message_bwd(
        g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return plain.message_bwd(g_dq, g_dmu, phi, mu, *splined(edges, filters))

    def coarse(operator: Any, how: str) -> Any:
        def run(*arguments: Any) -> Any:
            with _CoarseProducts(how):
                return operator(*arguments)

        return run

    forward, backward = products or products_of(precision, model.config.n_features)
    coarse_ops = AtomOps(
        **{
            name: coarse(operator, backward if name in ("mlp_bwd", "update_bwd") else forward)
            for name, operator in PLAIN_ATOM_OPS._asdict().items()
        }
    )
    ops = EdgeOps(message_fwd, message_bwd)
    if first_by_elements:
        return _FirstByElements(model, ops, coarse_ops, (forward, backward))
    return AnalyticEngine(model, ops, coarse_ops)
