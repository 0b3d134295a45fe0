# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Radial filters as splines of the distance: DEGREE + 1 terms instead of a sum over the basis.

Meaning: edge_geometry(…).basis @ filters.T of `reference`, and its slope. A filter is smooth, so
B-splines on equal knots fit it to the accuracy of float32 (docs/theory.md shows the errors). Their
slope is the derivative of what is interpolated, so forces stay those of the energy.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.reference import edge_geometry


class FilterTable(NamedTuple):
    """Splines of one block's filters.

    Attributes:
        rows: Coefficients [n_intervals + degree, 3 n_features]; distances from k to k + 1 knots
            take the rows from k to k + degree.
        n_intervals: Between the distance 0 and the cutoff.
        degree: Of the splines.
        inverse_knot: 1 / distance of two knots, in 1/Å.
    """

    rows: Tensor
    n_intervals: int
    degree: int
    inverse_knot: float


@triton.jit
def spline_weights(u, total, DEGREE: tl.constexpr):
    """Weights of the DEGREE + 1 B-splines that are not 0 at 0 ≤ u < 1, and their derivatives.

    The recursion of de Boor and Cox on equal knots, degree by degree. The weights add up to total.
    """
    lower = (total,)
    slopes = (0.0 * total,)
    for p in tl.static_range(1, DEGREE + 1):
        weights = ((1.0 - u) * (1.0 / p) * lower[0],)
        slopes = (-lower[0],)
        for m in tl.static_range(1, p):
            rising = (u + (p - m)) * (1.0 / p)
            weights = weights + (rising * lower[m - 1] + (m + 1.0 - u) * (1.0 / p) * lower[m],)  # noqa: RUF005
            slopes = slopes + (lower[m - 1] - lower[m],)  # noqa: RUF005
        weights = weights + (u * (1.0 / p) * lower[p - 1],)  # noqa: RUF005
        slopes = slopes + (lower[p - 1],)  # noqa: RUF005
        lower = weights
    return lower, slopes


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
    line = torch.zeros(len(x) + 1, 3, dtype=torch.float64)
    line[1:, 0] = distance
    to = torch.arange(1, len(line))
    values = edge_geometry(line, torch.zeros_like(to), to, n_rbf, cutoff).basis
    interval = x.floor().clamp(max=last - 1)
    design = torch.zeros(len(x), last + degree, dtype=torch.float64)
    columns = interval.long()[:, None] + torch.arange(degree + 1)
    design.scatter_(1, columns, spline_weights_plain(x - interval, degree)[0])
    # B-splines are far enough from dependent for the normal equations, which are quickly solved.
    coefficients = torch.linalg.solve(design.T @ design, design.T @ values)
    return coefficients[margin : margin + n_intervals + degree]


def spline_weights_plain(u: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """The meaning of `spline_weights`: weights and derivatives [n, degree + 1] at u [n]."""
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


def filter_plain(table: FilterTable, distance: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernels make of a table: the filter and its slope [n_edges, 3 n_features]."""
    x = distance * table.inverse_knot
    interval = x.floor().clamp(max=table.n_intervals - 1)
    weights, slopes = spline_weights_plain(x - interval, table.degree)
    rows = table.rows[interval.long()[:, None] + torch.arange(table.degree + 1)]
    filters = torch.einsum("em,emf->ef", weights, rows)
    return filters, torch.einsum("em,emf->ef", slopes, rows) * table.inverse_knot


def tabulate(filters: Tensor, cutoff: float, degree: int, n_intervals: int) -> FilterTable:
    """Splines of filters.

    Args:
        filters: Weights, the bias as the last column [3 n_features, n_rbf + 1].
        cutoff: Å.
        degree: Of the splines.
        n_intervals: Between the distance 0 and the cutoff.
    """
    basis = basis_splines(filters.shape[1] - 1, cutoff, degree, n_intervals)
    rows = basis @ filters.double().cpu().T
    rows = rows.to(filters.dtype).to(filters.device)
    return FilterTable(rows.contiguous(), n_intervals, degree, n_intervals / cutoff)
