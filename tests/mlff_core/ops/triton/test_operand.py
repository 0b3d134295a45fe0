"""Weights cut into the pieces that the matrix units take."""

import pytest
import torch

from mlff_core.ops.triton.operand import LOW_SCALE, RANGE, product_plain, split_plain, split_weights


def test_the_addends_are_the_weights_in_twenty_two_bits():
    w = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    w *= 10.0 ** torch.linspace(-4, 3, 32)  # From where float16 has few bits to where it ends.
    high, low = split_weights(w / RANGE, "fp16x3").double()
    assert ((high + low / LOW_SCALE - w).abs() <= w.abs() * 2**-22 + 2**-36).all()


def test_what_float16_cannot_hold_becomes_the_largest_that_it_can_and_nan_stays_nan():
    high, low = split_plain(torch.tensor([1e9, -1e9, torch.inf, torch.nan]))
    assert high[:3].tolist() == [65504.0, -65504.0, 65504.0]
    assert low[:3].tolist() == [0.0, 0.0, 0.0]
    assert high[3].isnan()


def test_what_is_multiplied_may_be_far_larger_than_float16_can_hold():
    x, w = torch.full((1, 2), 1e7), torch.tensor([[0.5, 0.25]])
    assert product_plain(x, w, "fp16x3").item() == pytest.approx(7.5e6, rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("fp16x3", 0.0, 1e-6), ("fp16x3on", 0.0, 1e-6), ("fp16", 1e-4, 1e-3)],
)
def test_a_product_is_as_far_from_float64_as_its_pieces_are_long(precision, least, most):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 256, generator=generator) for n in (40, 50))
    exact = x.double() @ w.double().T
    error = (product_plain(x, w, precision) - exact).norm() / exact.norm()
    assert least <= error <= most
