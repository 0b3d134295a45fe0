# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Radial filters as splines of the distance: DEGREE + 1 terms instead of a sum over the basis.

Meaning: edge_geometry(…).basis @ filters.T of `plain`, and its slope. A filter is smooth, so
B-splines on equal knots fit it to the accuracy of float32 (docs/theory.md shows the errors). Their
slope is the derivative of what is interpolated, so forces stay those of the energy.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.plain import edge_geometry


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


#: Degrees for which `spline_weights` has its formulas.
CLOSED_DEGREES = (3, 5)


@triton.jit
def spline_weights(u, DEGREE: tl.constexpr):
    """Weights of the DEGREE + 1 B-splines that are not 0 at 0 ≤ u < 1, and their derivatives.

    Meaning: `spline_weights_plain`. The first spline and the last are mirror images about
    u = 1/2, and so on inwards: an even and an odd polynomial of s = u - 1/2 make two of them.
    DEGREE is one of CLOSED_DEGREES.
    """
    s = u - 0.5
    t = s * s
    if DEGREE == 3:
        even0, odd0 = 1 / 48 + t * (1 / 4), s * (1 / 8 + t * (1 / 6))
        even1, odd1 = 23 / 48 - t * (1 / 4), s * (5 / 8 - t * (1 / 2))
        weights = (even0 - odd0, even1 - odd1, even1 + odd1, even0 + odd0)
        even0, odd0 = s * (1 / 2), 1 / 8 + t * (1 / 2)
        even1, odd1 = s * (-1 / 2), 5 / 8 - t * (3 / 2)
        slopes = (even0 - odd0, even1 - odd1, even1 + odd1, even0 + odd0)
    else:
        even0 = 1 / 3840 + t * (1 / 96 + t * (1 / 48))
        even1 = 79 / 1280 + t * (7 / 32 - t * (1 / 16))
        even2 = 841 / 1920 - t * (11 / 48 - t * (1 / 24))
        odd0 = s * (1 / 384 + t * (1 / 48 + t * (1 / 120)))
        odd1 = s * (25 / 128 + t * (1 / 16 - t * (1 / 24)))
        odd2 = s * (77 / 192 - t * (7 / 24 - t * (1 / 12)))
        weights = (
            even0 - odd0,
            even1 - odd1,
            even2 - odd2,
            even2 + odd2,
            even1 + odd1,
            even0 + odd0,
        )
        even0 = s * (1 / 48 + t * (1 / 12))
        even1 = s * (7 / 16 - t * (1 / 4))
        even2 = s * (t * (1 / 6) - 11 / 24)
        odd0 = 1 / 384 + t * (1 / 16 + t * (1 / 24))
        odd1 = 25 / 128 + t * (3 / 16 - t * (5 / 24))
        odd2 = 77 / 192 - t * (7 / 8 - t * (5 / 12))
        slopes = (
            even0 - odd0,
            even1 - odd1,
            even2 - odd2,
            even2 + odd2,
            even1 + odd1,
            even0 + odd0,
        )
    return weights, slopes


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
    """The meaning of `spline_weights`: weights and derivatives [n, degree + 1] at u [n].

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
