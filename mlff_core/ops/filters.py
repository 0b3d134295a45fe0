"""Radial filters tabulated over the distance: a few terms instead of a sum over the basis.

Meaning: edge_geometry(…).basis @ filters.T of `plain`, and its slope. A filter is smooth, so
piecewise polynomials on equal knots fit it to the accuracy of float32 (docs/theory.md shows the
errors). Their slope is the derivative of what is interpolated, so forces stay those of the energy.

A CUDA device reads B-splines, whose few rows stay in its cache. A CPU reads cubic Hermite
polynomials on denser knots: two rows a pair instead of six.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.ops.plain import Edges, edge_geometry


class FilterTable(NamedTuple):
    """One block's filters on knots at equal distances.

    Attributes:
        rows: Either coefficients of B-splines [n_intervals + degree, 3 n_features]: distances from
            knot k to k + 1 take the rows from k to k + degree. Or values, and slopes times the
            distance of two knots, for Hermite polynomials [n_intervals + 2, 2, 3 n_features]:
            distances from knot k to k + 1 take the rows k and k + 1.
        first_knot: Å; distances below it have no place in the table.
        knot_distance: Å.
        n_intervals: Between the first knot and the cutoff.
        degree: Of the polynomials.
    """

    rows: Tensor
    first_knot: float
    knot_distance: float
    n_intervals: int
    degree: int

    @property
    def inverse_knot(self) -> float:
        """1 / distance of two knots, in 1/Å."""
        return 1.0 / self.knot_distance

    def at(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The filter and its slope at distances in Å from the first knot on [n, 3 n_features].

        What the kernels compute, in plain PyTorch.
        """
        x = (distance - self.first_knot) / self.knot_distance
        interval = x.floor().clamp(max=self.n_intervals - 1)
        spline = self.rows.dim() == 2
        weigh = spline_weights if spline else hermite_weights
        weights, slopes = weigh(x - interval, self.degree)
        size = self.degree + 1 if spline else 2
        columns = torch.arange(size, device=distance.device)
        rows = self.rows[interval.long()[:, None] + columns].reshape(len(x), weights.shape[1], -1)
        filters = torch.einsum("em,emf->ef", weights, rows)
        return filters, torch.einsum("em,emf->ef", slopes, rows) * self.inverse_knot


def spline_table(filters: Tensor, cutoff: float, degree: int, n_intervals: int) -> FilterTable:
    """B-splines of filters, on knots from 0 Å on.

    Args:
        filters: Weights, the bias as the last column [3 n_features, n_rbf + 1].
        cutoff: Å.
        degree: Of the splines.
        n_intervals: Between the distance 0 and the cutoff.
    """
    basis = basis_splines(filters.shape[1] - 1, cutoff, degree, n_intervals)
    rows = basis @ filters.double().cpu().T
    rows = rows.to(filters.dtype).to(filters.device)
    return FilterTable(rows.contiguous(), 0.0, cutoff / n_intervals, n_intervals, degree)


def hermite_table(
    filters: Tensor, cutoff: float, first_knot: float, n_intervals: int
) -> FilterTable:
    """Cubic Hermite polynomials of filters.

    Args:
        filters: Weights, the bias as the last column [3 n_features, n_rbf + 1].
        cutoff: Å.
        first_knot: Å.
        n_intervals: Between the first knot and the cutoff.
    """
    knot_distance = (cutoff - first_knot) / n_intervals
    # In float64, and one knot more than there are intervals end to end, since rounding may put a
    # pair on the cutoff itself.
    knots = first_knot + knot_distance * torch.arange(n_intervals + 2, dtype=torch.float64)
    edges = _on_a_line(knots, filters.shape[1] - 1, cutoff)
    weights = filters.double().T
    rows = torch.stack([edges.basis @ weights, edges.slope @ weights * knot_distance], 1)
    rows[n_intervals:] = 0.0
    rows = rows.to(filters.dtype).contiguous()
    return FilterTable(rows, first_knot, knot_distance, n_intervals, 3)


def hermite_weights(u: Tensor, degree: int = 3) -> tuple[Tensor, Tensor]:
    """Weights of value and slope at either end, and derivatives [n, 4] at u [n]; degree is 3."""
    v = 1.0 - u
    zero_order = [(1.0 + 2.0 * u) * v * v, u * v * v, u * u * (3.0 - 2.0 * u), -u * u * v]
    first_order = [-6.0 * u * v, (1.0 - 3.0 * u) * v, 6.0 * u * v, u * (3.0 * u - 2.0)]
    return torch.stack(zero_order, -1), torch.stack(first_order, -1)


def spline_weights(u: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Weights of the degree + 1 B-splines that are not 0 at u, and derivatives [n, degree + 1].

    The recursion of de Boor and Cox on equal knots, degree by degree.
    """
    weights = [torch.ones_like(u)]
    slopes = [torch.zeros_like(u)]
    zero = torch.zeros_like(u)
    for p in range(1, degree + 1):
        left, right = [zero, *weights], [*weights, zero]
        slopes = [a - b for a, b in zip(left, right, strict=True)]
        weights = [
            ((u + (p - m)) * a + (m + 1 - u) * b) / p
            for m, (a, b) in enumerate(zip(left, right, strict=True))
        ]
    return torch.stack(weights, -1), torch.stack(slopes, -1)


def basis_splines(n_rbf: int, cutoff: float, degree: int, n_intervals: int) -> Tensor:
    """Coefficients that fit every column of `edge_geometry`'s basis, by least squares in float64.

    The basis is an even function of the distance and goes on beyond the cutoff, so the fit has
    samples on both sides of its ends and is as good there as elsewhere.

    Returns:
        [n_intervals + degree, n_rbf + 1]
    """
    margin, samples = 2, 4
    knot = cutoff / n_intervals
    last = n_intervals + 2 * margin
    x = torch.arange(last * samples + 1, dtype=torch.float64) / samples
    distance = (x - margin) * knot
    # An even function, so that the sign of the distance does not matter; 0/0 does.
    distance = torch.where(distance == 0, 1e-9 * knot, distance.abs())
    values = _on_a_line(distance, n_rbf, cutoff).basis
    interval = x.floor().clamp(max=last - 1)
    design = torch.zeros(len(x), last + degree, dtype=torch.float64)
    columns = interval.long()[:, None] + torch.arange(degree + 1)
    design.scatter_(1, columns, spline_weights(x - interval, degree)[0])
    # B-splines are far enough from dependent for the normal equations, which are quickly solved.
    coefficients = torch.linalg.solve(design.T @ design, design.T @ values)
    return coefficients[margin : margin + n_intervals + degree]


def _on_a_line(distance: Tensor, n_rbf: int, cutoff: float) -> Edges:
    """Pairs at the distances given, in Å [n]."""
    line = torch.zeros(len(distance) + 1, 3, dtype=torch.float64)
    line[1:, 0] = distance
    to = torch.arange(1, len(line))
    return edge_geometry(line, torch.zeros_like(to), to, n_rbf, cutoff)
