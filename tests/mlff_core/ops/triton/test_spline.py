"""Splines of the radial filters against the basis that they stand for."""

import pytest
import torch

from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.ops.plain import edge_geometry
from mlff_core.ops.program import filter_matrix
from mlff_core.ops.triton.engine import FILTER_SPLINES
from mlff_core.ops.triton.spline import (
    CLOSED_DEGREES,
    filter_plain,
    spline_weights,
    spline_weights_plain,
    tabulate,
)
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
    weights, slopes = spline_weights_plain(u, degree)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(u))
    for m in range(degree + 1):
        (expected,) = torch.autograd.grad(weights[:, m].sum(), u, retain_graph=True)
        torch.testing.assert_close(slopes[:, m], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", CLOSED_DEGREES)
def test_the_kernels_closed_formulas_are_the_recursion(degree):
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    # Nothing but arithmetic, so that tensors will do where a kernel has tiles.
    closed = spline_weights.fn(u, degree)
    for found, expected in zip(closed, spline_weights_plain(u, degree), strict=True):
        torch.testing.assert_close(torch.stack(found, -1), expected, rtol=0, atol=1e-15)


def test_the_degrees_in_use_have_closed_formulas():
    assert {degree for degree, _ in FILTER_SPLINES.values()} <= set(CLOSED_DEGREES)


def test_splines_for_float32_are_as_near_to_float64_as_the_basis_in_float32(filters, distance):
    table = tabulate(filters, CUTOFF, *FILTER_SPLINES["float32"])
    truth = by_basis(filters, distance)
    plain = by_basis(filters, distance.float())
    found = filter_plain(table, distance.float())
    for spline, basis, exact in zip(found, plain, truth, strict=True):
        assert (spline - exact).abs().max() <= 2 * (basis - exact).abs().max()


def test_splines_for_fast_are_off_by_less_than_their_stated_error(filters, distance):
    table = tabulate(filters, CUTOFF, *FILTER_SPLINES["fast"])
    for spline, exact, bound in zip(
        filter_plain(table, distance.float()),
        by_basis(filters, distance),
        (2e-6, 1e-4),
        strict=True,
    ):
        assert (spline - exact).abs().max() <= bound * exact.abs().max()


def test_a_spline_is_smooth_at_its_ends(filters):
    table = tabulate(filters.double(), CUTOFF, *FILTER_SPLINES["float32"])
    ends = torch.tensor([1e-6, CUTOFF - 1e-6, CUTOFF], dtype=torch.float64)
    value, slope = filter_plain(table, ends)
    exact, exact_slope = by_basis(filters.double(), ends)
    torch.testing.assert_close(value, exact, rtol=0, atol=1e-7)
    torch.testing.assert_close(slope, exact_slope, rtol=0, atol=1e-5)
