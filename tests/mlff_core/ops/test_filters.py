"""Tables of the radial filters against the basis that they stand for."""

import pytest
import torch

from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.ops.filters import (
    hermite_table,
    hermite_weights,
    spline_table,
    spline_weights,
)
from mlff_core.ops.plain import edge_geometry
from mlff_core.ops.program import filter_matrix
from mlff_core.ops.triton.spline import CLOSED_DEGREES
from mlff_core.ops.triton.spline import spline_weights as closed_spline_weights
from mlff_core.ops.triton.steps import FILTER_SPLINES
from mlff_core.testing import random_model

CUTOFF, N_RBF = 5.0, 20


def by_basis(filters, distance):
    """The filters and their slopes at distances in Å, in the type of the distances."""
    line = torch.zeros(len(distance) + 1, 3, dtype=distance.dtype)
    line[1:, 0] = distance
    to = torch.arange(1, len(line))
    edges = edge_geometry(line, torch.zeros_like(to), to, N_RBF, CUTOFF)
    weights = filters.to(distance.dtype).T
    return edges.basis @ weights, edges.slope @ weights


@pytest.fixture(scope="module", params=["random", "shipped"])
def filters(request):
    model = random_model(1)
    if request.param == "shipped":
        model = read_checkpoint(find_model("default"))[0]
    return filter_matrix(model.message[1]).detach()


@pytest.fixture(scope="module")
def distance():
    generator = torch.Generator().manual_seed(0)
    return CUTOFF * torch.rand(5000, generator=generator, dtype=torch.float64).clamp(min=0.08)


@pytest.mark.parametrize("degree", [1, 3, 4, 5])
def test_weights_add_up_to_one_and_their_slopes_are_those_of_autograd(degree):
    u = torch.linspace(0, 0.99, 13, dtype=torch.float64, requires_grad=True)
    weights, slopes = spline_weights(u, degree)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(u))
    for m in range(degree + 1):
        (expected,) = torch.autograd.grad(weights[:, m].sum(), u, retain_graph=True)
        torch.testing.assert_close(slopes[:, m], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", CLOSED_DEGREES)
def test_the_kernels_closed_formulas_are_the_recursion(degree):
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    # Nothing but arithmetic, so that tensors will do where a kernel has tiles.
    closed = closed_spline_weights.fn(u, degree)
    for found, expected in zip(closed, spline_weights(u, degree), strict=True):
        torch.testing.assert_close(torch.stack(found, -1), expected, rtol=0, atol=1e-15)


def test_the_degrees_in_use_have_closed_formulas():
    assert {degree for degree, _ in FILTER_SPLINES.values()} <= set(CLOSED_DEGREES)


def test_splines_for_float32_are_as_near_to_float64_as_the_basis_in_float32(filters, distance):
    table = spline_table(filters, CUTOFF, *FILTER_SPLINES["float32"])
    truth = by_basis(filters, distance)
    plain = by_basis(filters, distance.float())
    found = table.at(distance.float())
    for spline, basis, exact in zip(found, plain, truth, strict=True):
        assert (spline - exact).abs().max() <= 2 * (basis - exact).abs().max()


def test_splines_for_fast_are_off_by_less_than_their_stated_error(filters, distance):
    table = spline_table(filters, CUTOFF, *FILTER_SPLINES["fast"])
    for spline, exact, bound in zip(
        table.at(distance.float()),
        by_basis(filters, distance),
        (6e-6, 3e-4),
        strict=True,
    ):
        assert (spline - exact).abs().max() <= bound * exact.abs().max()


def test_a_spline_is_smooth_at_its_ends(filters):
    table = spline_table(filters.double(), CUTOFF, *FILTER_SPLINES["float32"])
    ends = torch.tensor([1e-6, CUTOFF - 1e-6, CUTOFF], dtype=torch.float64)
    value, slope = table.at(ends)
    exact, exact_slope = by_basis(filters.double(), ends)
    torch.testing.assert_close(value, exact, rtol=0, atol=1e-7)
    torch.testing.assert_close(slope, exact_slope, rtol=0, atol=1e-5)


def test_hermite_weights_give_values_and_slopes_at_the_knots_and_their_slopes_are_autograds():
    ends, slopes = hermite_weights(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert slopes.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    u = torch.linspace(0, 0.99, 13, dtype=torch.float64, requires_grad=True)
    weights, slopes = hermite_weights(u)
    for m in range(4):
        (expected,) = torch.autograd.grad(weights[:, m].sum(), u, retain_graph=True)
        torch.testing.assert_close(slopes[:, m], expected, rtol=0, atol=1e-14)


def test_hermite_polynomials_are_as_near_to_float64_as_the_basis_in_float32(filters, distance):
    there = distance[distance > 0.5]
    table = hermite_table(filters, CUTOFF, 0.5, 900)
    truth, plain = by_basis(filters, there), by_basis(filters, there.float())
    for found, basis, exact in zip(table.at(there.float()), plain, truth, strict=True):
        assert (found - exact).abs().max() <= 3 * (basis - exact).abs().max()
