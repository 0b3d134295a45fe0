"""The compiled operators over atoms mean what the plain ones mean."""

import pytest
import torch

from mlff_core.ops import plain
from mlff_core.ops.numba import atoms


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n_atoms", "n"), [(37, 128), (1, 5), (13, 17)])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_update_block_and_its_gradient_are_the_plain_ones(n_atoms, n, n_threads):
    torch.manual_seed(n)
    q, mu = random(n_atoms, n), random(n_atoms, 3, n)
    mu[0] = 0.0
    uv, w1, b1 = random(2 * n, n), random(n, 2 * n), random(n)
    w2, b2 = random(3 * n, n), random(3 * n)
    g_q, g_mu = random(n_atoms, n), random(n_atoms, 3, n)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        found_q, found_mu, kept = atoms.update_fwd(q, mu, uv, w1, b1, w2, b2)
        found = atoms.update_bwd(g_q, g_mu, kept, uv, w1, w2)
    finally:
        torch.set_num_threads(before)
    expected_q, expected_mu, saved = plain.update_fwd(q, mu, uv, w1, b1, w2, b2)
    close(found_q, expected_q)
    close(found_mu, expected_mu)
    expected_g_q, expected_g_mu = plain.update_bwd(g_q, g_mu, saved, uv, w1, w2)
    close(found[0], expected_g_q)
    close(found[1], expected_g_mu)


def test_a_network_and_its_gradient_are_the_plain_ones():
    torch.manual_seed(0)
    x, w1, b1, w2, b2 = random(9, 6), random(5, 6), random(5), random(7, 5), random(7)
    found, kept = atoms.mlp_fwd(x, w1, b1, w2, b2)
    expected, hidden = plain.mlp_fwd(x, w1, b1, w2, b2)
    close(found, expected)
    g = random(9, 7)
    close(atoms.mlp_bwd(g, kept, w1, w2), plain.mlp_bwd(g, hidden, w1, w2))
