"""Every hand-derived backward against autograd, in float64."""

import pytest
import torch
from torch.autograd import gradcheck

from mlff_core.batch import MolBatch
from mlff_core.models.painn import cosine_cutoff, radial_basis, zbl_repulsion
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.testing import random_molecule

N_FEATURES, N_RBF, CUTOFF = 3, 4, 5.0


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def geometry():
    batch = MolBatch.from_arrays(
        [random_molecule(4, 1), random_molecule(1), random_molecule(3, 2)], dtype=torch.float64
    )
    i, j = neighbor_pairs(batch.positions, batch.ptr, CUTOFF)
    return batch.positions, i, j


def vector_jacobian(function, inputs, cotangents):
    """What autograd says: gradients of Σ cotangent · output with respect to the inputs."""
    leaves = [x.clone().requires_grad_(True) for x in inputs]
    outputs = function(*leaves)
    total = sum((c * y).sum() for c, y in zip(cotangents, outputs, strict=True))
    return torch.autograd.grad(total, leaves)


def test_radial_basis_is_that_of_the_model_and_its_slope_that_of_autograd(geometry):
    positions, i, j = geometry
    edges = plain.edge_geometry(positions, i, j, N_RBF, CUTOFF)
    d = edges.distance.clone().requires_grad_(True)
    envelope = cosine_cutoff(d, CUTOFF)[:, None]
    basis = torch.cat([radial_basis(d, N_RBF, CUTOFF) * envelope, envelope], -1)
    torch.testing.assert_close(edges.basis, basis, rtol=0, atol=1e-14)
    for k in range(N_RBF + 1):
        (slope,) = torch.autograd.grad(basis[:, k].sum(), d, retain_graph=True)
        torch.testing.assert_close(edges.slope[:, k], slope, rtol=0, atol=1e-13)


def test_silu_slope_is_that_of_autograd():
    h = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(h).sum(), h)
    torch.testing.assert_close(plain.silu_slope(h), expected, rtol=0, atol=1e-15)


def test_mlp_backward_is_that_of_autograd():
    x, w1, b1, w2, b2 = randn(5, 3), randn(4, 3), randn(4), randn(6, 4), randn(6)
    y, hidden = plain.mlp_fwd(x, w1, b1, w2, b2)
    g_y = randn(*y.shape)
    (expected,) = vector_jacobian(lambda x: [plain.mlp_fwd(x, w1, b1, w2, b2)[0]], [x], [g_y])
    torch.testing.assert_close(plain.mlp_bwd(g_y, hidden, w1, w2), expected, rtol=0, atol=1e-12)


def message_inputs(geometry):
    positions, i, j = geometry
    n_atoms = len(positions)
    edges = plain.edge_geometry(positions, i, j, N_RBF, CUTOFF)
    phi, mu = randn(n_atoms, 3 * N_FEATURES), randn(n_atoms, 3, N_FEATURES)
    filters = randn(3 * N_FEATURES, N_RBF + 1, seed=7)
    return (
        edges,
        phi,
        mu,
        filters,
        randn(n_atoms, N_FEATURES),
        randn(n_atoms, 3, N_FEATURES, seed=5),
    )


def test_message_backward_is_that_of_autograd(geometry):
    edges, phi, mu, filters, g_dq, g_dmu = message_inputs(geometry)

    def forward(phi, mu, distance, unit):
        # The basis as a function of the distance, to first order about its value.
        shift = (distance - edges.distance)[:, None]
        moved = edges._replace(unit=unit, basis=edges.basis + edges.slope * shift)
        return plain.message_fwd(phi, mu, moved, filters)

    expected = vector_jacobian(forward, [phi, mu, edges.distance, edges.unit], [g_dq, g_dmu])
    found = plain.message_bwd(g_dq, g_dmu, phi, mu, edges, filters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def update_weights():
    f = N_FEATURES
    return (
        randn(2 * f, f),
        randn(f, 2 * f, seed=1),
        randn(f),
        randn(3 * f, f, seed=2),
        randn(3 * f),
    )


@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["vectors", "no vectors"])
def test_update_backward_is_that_of_autograd(scale):
    weights = update_weights()
    q, mu = randn(5, N_FEATURES), scale * randn(5, 3, N_FEATURES)
    g_q, g_mu = randn(5, N_FEATURES, seed=3), randn(5, 3, N_FEATURES, seed=4)
    expected = vector_jacobian(
        lambda q, mu: plain.update_fwd(q, mu, *weights)[:2], [q, mu], [g_q, g_mu]
    )
    *_, saved = plain.update_fwd(q, mu, *weights)
    uv, w1, _, w2, _ = weights
    found = plain.update_bwd(g_q, g_mu, saved, uv, w1, w2)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_readout_backward_is_that_of_autograd():
    q, w1, b1, w2, b2 = randn(5, 4), randn(2, 4), randn(2), randn(1, 2), randn(1)
    scale = torch.tensor(1.7, dtype=torch.float64)
    energy, hidden = plain.readout_fwd(q, w1, b1, w2, b2, scale)
    (expected,) = vector_jacobian(
        lambda q: [plain.readout_fwd(q, w1, b1, w2, b2, scale)[0]],
        [q],
        [torch.ones_like(energy)],
    )
    torch.testing.assert_close(
        plain.readout_bwd(hidden, w1, w2, scale), expected, rtol=0, atol=1e-12
    )


def test_repulsion_is_that_of_the_model_and_its_slope_that_of_autograd():
    d = torch.linspace(0.2, 3.0, 57, dtype=torch.float64, requires_grad=True)
    Z_i, Z_j, contact = (torch.full_like(d, v) for v in (6.0, 17.0, 1.78))
    energy = zbl_repulsion(d, Z_i, Z_j, contact)
    (slope,) = torch.autograd.grad(energy.sum(), d)
    found = plain.repulsion_fwd_bwd(d.detach(), Z_i, Z_j, contact)
    torch.testing.assert_close(found[0], energy.detach(), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(found[1], slope, rtol=1e-12, atol=1e-11)


def test_position_gradient_is_that_of_autograd(geometry):
    positions, i, j = geometry

    def forward(positions):
        edges = plain.edge_geometry(positions, i, j, N_RBF, CUTOFF)
        return edges.distance, edges.unit

    edges = plain.edge_geometry(positions, i, j, N_RBF, CUTOFF)
    g_distance, g_unit = randn(len(i)), randn(len(i), 3)
    (expected,) = vector_jacobian(forward, [positions], [g_distance, g_unit])
    found = plain.position_gradient(edges, g_distance, g_unit, len(positions))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_each_backward_can_be_differentiated_once_more(geometry):
    edges, phi, mu, filters, g_dq, g_dmu = message_inputs(geometry)
    leaf = lambda x: x.clone().requires_grad_(True)  # noqa: E731
    assert gradcheck(
        lambda *x: plain.message_bwd(*x[:4], edges, x[4]),
        [leaf(x) for x in (g_dq, g_dmu, phi, mu, filters)],
    )

    def update(q, mu, g_q, g_mu, *weights):
        *_, saved = plain.update_fwd(q, mu, *weights)
        return plain.update_bwd(g_q, g_mu, saved, weights[0], weights[1], weights[3])

    atoms = [
        randn(2, N_FEATURES),
        randn(2, 3, N_FEATURES),
        randn(2, N_FEATURES, seed=1),
        randn(2, 3, N_FEATURES, seed=1),
    ]
    assert gradcheck(update, [leaf(x) for x in (*atoms, *update_weights())])
