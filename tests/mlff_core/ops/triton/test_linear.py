"""Weights cut into the pieces that the matrix units take."""

import pytest
import torch

from mlff_core.ops.triton.linear import nearest_tf32, product_plain, split_weights


def test_the_nearest_tf32_leaves_eleven_bits_and_keeps_what_is_not_finite():
    x = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    rounded = nearest_tf32(x)
    assert ((rounded.view(torch.int32) & 0x1FFF) == 0).all()
    assert ((rounded - x).abs() <= x.abs() * 2**-11).all()
    assert nearest_tf32(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize(("precision", "error"), [("tf32x3", 2**-22), ("bf16x3", 2**-16)])
def test_the_pieces_add_up_to_the_weights(precision, error):
    w = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    pieces = split_weights(w, precision)
    assert pieces.shape == (2, 64, 32)
    assert ((pieces.double().sum(0) - w).abs() <= w.abs() * error).all()


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("tf32x3", 0.0, 1e-6), ("bf16x3", 1e-6, 2e-5), ("fp16", 1e-4, 1e-3)],
)
def test_a_product_is_as_far_from_float64_as_its_pieces_are_long(precision, least, most):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 256, generator=generator) for n in (40, 50))
    exact = x.double() @ w.double().T
    error = (product_plain(x, w, precision) - exact).norm() / exact.norm()
    assert least <= error <= most
