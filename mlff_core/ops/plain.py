"""The plain meaning of every operator: energy and forces in one pass, derivatives by hand.

Each step of PaiNN is a pair of functions, `<op>_fwd` and `<op>_bwd`; the second returns the
gradients of the total energy with respect to what the first was given, from the gradients with
respect to what it returned. The formulas are derived in docs/theory.md. Names follow the paper:

    q, mu        scalar [n_atoms, n_features] and vector features [n_atoms, 3, n_features]
    phi, W_ij    what the sender says; the filter, a function of the distance alone
    g_x          dE/dx, of the shape of x

Everything is functional and out of place, so that autograd can differentiate each function, the
backward ones included, with respect to the weights (force training), and `torch.compile` can fuse
them. The caller holds `torch.no_grad` where no such derivative is wanted.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid, silu

from mlff_core.units import BOHR_ANGSTROM, COULOMB_EV_ANGSTROM

#: Added to the square of a vector feature's norm before the root is taken. Some features always
#: pass near zero, and a smaller number makes a kink there.
NORM_FLOOR = 0.05

#: Width of the repulsion's end, relative to the sum of two covalent radii; bonds vibrate there.
REPULSION_WIDTH = 0.04

#: Distances in Å up to which the network sees one and the same distance, and from which on it sees
#: what is there. No bond is at rest below the second, but for that of H2, and hot ones hardly come
#: there; narrower, the step would be hard on the splines that the kernels take filters from.
SEEN_ALIKE, SEEN_TRULY = 0.35, 0.85

#: The four terms of the ZBL screening function: amplitudes and exponents.
ZBL_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
#: The ZBL screening length in Å of two nuclei, times (Z_i^0.23 + Z_j^0.23).
ZBL_LENGTH = 0.8854 * BOHR_ANGSTROM


class Edges(NamedTuple):
    """Geometry of the pairs within the cutoff; every pair is listed in both directions.

    Attributes:
        i: Destinations, ascending, int64 [n_edges].
        j: Sources, int64 [n_edges].
        distance: Å [n_edges].
        unit: Unit vectors from i to j [n_edges, 3].
        basis: Radial basis times cutoff function of the distance that the network sees
            (`seen_distance`), and the cutoff function itself as the last column, for the
            filter's bias [n_edges, n_rbf + 1].
        slope: Derivative of the basis with respect to the distance [n_edges, n_rbf + 1].
    """

    i: Tensor
    j: Tensor
    distance: Tensor
    unit: Tensor
    basis: Tensor
    slope: Tensor


def seen_distance(distance: Tensor) -> tuple[Tensor, Tensor]:
    """The distance in Å that the network sees in place of one, and its slope, each [n_edges].

    The very distance from `SEEN_TRULY` on, and half-way between the two bounds, 0.6 Å, up to
    `SEEN_ALIKE`; in between the slope goes from 0 to 1 as the smoothstep of degree 7, so that four
    derivatives are continuous.
    """
    width = SEEN_TRULY - SEEN_ALIKE
    x = ((distance - SEEN_ALIKE) / width).clamp(0.0, 1.0)
    more = 0.5 - x + x**5 * (7.0 + x * (-14.0 + x * (10.0 - 2.5 * x)))
    slope = x**4 * (35.0 + x * (-84.0 + x * (70.0 - 20.0 * x)))
    return distance.clamp(min=SEEN_ALIKE) + width * more, slope


def edge_geometry(positions: Tensor, i: Tensor, j: Tensor, n_rbf: int, cutoff: float) -> Edges:
    """Distances, unit vectors and the radial basis of each pair, with its slope.

    Args:
        positions: Å [n_atoms, 3].
        i: Destinations, int64 [n_edges].
        j: Sources, int64 [n_edges].
        n_rbf: Number of radial functions.
        cutoff: Å.
    """
    r_ij = positions[j] - positions[i]
    distance = r_ij.square().sum(-1).sqrt()
    n = torch.arange(1, n_rbf + 1, dtype=distance.dtype, device=distance.device)
    k = n * (math.pi / cutoff)
    seen, seen_slope = seen_distance(distance)
    phase, d = seen[:, None] * k, seen[:, None]
    rbf = torch.sin(phase) / d
    rbf_slope = (k * torch.cos(phase) - rbf) / d
    envelope = 0.5 * (torch.cos(d * (math.pi / cutoff)) + 1.0)
    envelope_slope = (-0.5 * math.pi / cutoff) * torch.sin(d * (math.pi / cutoff))
    return Edges(
        i=i,
        j=j,
        distance=distance,
        unit=r_ij / distance[:, None],
        basis=torch.cat([rbf * envelope, envelope], -1),
        slope=seen_slope[:, None]
        * torch.cat([rbf_slope * envelope + rbf * envelope_slope, envelope_slope], -1),
    )


def silu_slope(h: Tensor) -> Tensor:
    """Derivative of silu(h) = h σ(h): σ(h) (1 + h (1 - σ(h)))."""
    gate = torch.sigmoid(h)
    return gate * (1.0 + h * (1.0 - gate))


def mlp_fwd(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Linear, silu, linear: the result [n_atoms, n_out], and the hidden layer before silu."""
    hidden = linear(x, w1, b1)
    return linear(silu(hidden), w2, b2), hidden


def mlp_bwd(g_y: Tensor, hidden: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Gradient with respect to the input of `mlp_fwd`."""
    return ((g_y @ w2) * silu_slope(hidden)) @ w1


def message_fwd(phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
    """What the neighbours add: dq [n_atoms, n_features] and dmu [n_atoms, 3, n_features].

    Paper, eq. 7 and 8: with W = filters · basis(d) cut in three, as phi is,
    dq_i = Σ_j phi1_j W1, dmu_i = Σ_j phi2_j W2 unit + phi3_j W3 mu_j.

    Args:
        phi: What each atom says as a sender [n_atoms, 3 n_features].
        mu: Vector features [n_atoms, 3, n_features].
        edges: The pairs.
        filters: Filter weights, the bias as the last column [3 n_features, n_rbf + 1].
    """
    i, j = edges.i, edges.j
    x1, x2, x3 = (phi[j] * (edges.basis @ filters.T)).chunk(3, dim=-1)
    terms = x2[:, None, :] * edges.unit[:, :, None] + x3[:, None, :] * mu[j]
    dq = phi.new_zeros(len(mu), x1.shape[-1]).index_add(0, i, x1)
    return dq, torch.zeros_like(mu).index_add(0, i, terms)


def message_bwd(
    g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `message_fwd`.

    Args:
        g_dq: dE/d(dq) [n_atoms, n_features].
        g_dmu: dE/d(dmu) [n_atoms, 3, n_features].
        phi: As in `message_fwd`.
        mu: As in `message_fwd`.
        edges: As in `message_fwd`.
        filters: As in `message_fwd`.

    Returns:
        Gradients with respect to phi [n_atoms, 3 n_features], mu [n_atoms, 3, n_features], the
        distance [n_edges] and the unit vector [n_edges, 3] of each pair.
    """
    i, j = edges.i, edges.j
    phi_j, mu_j, g_dmu_i = phi[j], mu[j], g_dmu[i]
    W_ij, W_slope = edges.basis @ filters.T, edges.slope @ filters.T
    g_x = torch.cat(
        [g_dq[i], (g_dmu_i * edges.unit[:, :, None]).sum(1), (g_dmu_i * mu_j).sum(1)], -1
    )
    _, x2, x3 = (phi_j * W_ij).chunk(3, dim=-1)
    g_phi = torch.zeros_like(phi).index_add(0, j, g_x * W_ij)
    g_mu = torch.zeros_like(mu).index_add(0, j, x3[:, None, :] * g_dmu_i)
    g_distance = (g_x * phi_j * W_slope).sum(-1)
    g_unit = (x2[:, None, :] * g_dmu_i).sum(-1)
    return g_phi, g_mu, g_distance, g_unit


class UpdateSaved(NamedTuple):
    """What the backward of the update block needs from its forward.

    Attributes:
        U_mu: First mixing of the vectors [n_atoms, 3, n_features].
        V_mu: Second mixing of the vectors [n_atoms, 3, n_features].
        V_norm: Norm of the second [n_atoms, n_features].
        a: What the network returned: a_mu, a_q_mu, a_q [n_atoms, 3 n_features].
        hidden: The network's hidden layer before silu [n_atoms, n_features].
    """

    U_mu: Tensor
    V_mu: Tensor
    V_norm: Tensor
    a: Tensor
    hidden: Tensor


def update_fwd(
    q: Tensor, mu: Tensor, uv: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor, UpdateSaved]:
    """Scalars and vectors of each atom, mixed (paper, eq. 9 and 10).

    Args:
        q: Scalar features [n_atoms, n_features].
        mu: Vector features [n_atoms, 3, n_features].
        uv: U above V [2 n_features, n_features].
        w1: First layer of the network [n_features, 2 n_features].
        b1: Its bias [n_features].
        w2: Second layer [3 n_features, n_features].
        b2: Its bias [3 n_features].
    """
    U_mu, V_mu = linear(mu, uv).chunk(2, dim=-1)
    V_norm = (V_mu.square().sum(1) + NORM_FLOOR).sqrt()
    a, hidden = mlp_fwd(torch.cat([q, V_norm], -1), w1, b1, w2, b2)
    a_mu, a_q_mu, a_q = a.chunk(3, dim=-1)
    q_new = q + a_q + a_q_mu * (U_mu * V_mu).sum(1)
    return q_new, mu + a_mu[:, None, :] * U_mu, UpdateSaved(U_mu, V_mu, V_norm, a, hidden)


def update_bwd(
    g_q: Tensor, g_mu: Tensor, saved: UpdateSaved, uv: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the q and mu that `update_fwd` was given."""
    U_mu, V_mu, V_norm, a, hidden = saved
    a_mu, a_q_mu, _ = a.chunk(3, dim=-1)
    g_a = torch.cat([(g_mu * U_mu).sum(1), g_q * (U_mu * V_mu).sum(1), g_q], -1)
    g_q_in, g_norm = mlp_bwd(g_a, hidden, w1, w2).chunk(2, dim=-1)
    g_product = (g_q * a_q_mu)[:, None, :]
    g_U = a_mu[:, None, :] * g_mu + g_product * V_mu
    g_V = g_product * U_mu + (g_norm / V_norm)[:, None, :] * V_mu
    return g_q + g_q_in, g_mu + torch.cat([g_U, g_V], -1) @ uv


def readout_fwd(
    q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Energy of each atom in eV [n_atoms], and the hidden layer before silu."""
    y, hidden = mlp_fwd(q, w1, b1, w2, b2)
    return y.squeeze(-1) * scale, hidden


def readout_bwd(hidden: Tensor, w1: Tensor, w2: Tensor, scale: Tensor) -> Tensor:
    """Gradient of the sum of all atoms' energies with respect to q [n_atoms, n_features]."""
    return (silu_slope(hidden) * (w2[0] * scale)) @ w1


def repulsion_fwd_bwd(
    distance: Tensor, Z_i: Tensor, Z_j: Tensor, contact: Tensor
) -> tuple[Tensor, Tensor]:
    """Screened nuclear repulsion (painn.zbl_repulsion) of each pair in eV, and its slope in eV/Å.

    Args:
        distance: Å [n_edges].
        Z_i: Nuclear charges of the destinations [n_edges].
        Z_j: Nuclear charges of the sources [n_edges].
        contact: Sum of the two covalent radii in Å [n_edges].
    """
    inverse_length = (Z_i**0.23 + Z_j**0.23) / ZBL_LENGTH
    screening = torch.zeros_like(distance)
    screening_slope = torch.zeros_like(distance)
    for amplitude, exponent in ZBL_TERMS:
        term = amplitude * torch.exp(-exponent * inverse_length * distance)
        screening = screening + term
        screening_slope = screening_slope - exponent * inverse_length * term
    beyond = (distance / contact - 1.0) / REPULSION_WIDTH
    t = -REPULSION_WIDTH * logsigmoid(beyond)
    envelope = t**3 * (56.0 + t * (-210.0 + t * (336.0 + t * (-280.0 + t * (120.0 - 21.0 * t)))))
    # The polynomial's slope, -168 y⁵ (1 - y)² of y = 1 - t, times that of y.
    envelope_slope = -168.0 * (1.0 - t) ** 5 * t.square() * torch.sigmoid(-beyond) / contact
    coulomb = COULOMB_EV_ANGSTROM * Z_i * Z_j / distance
    energy = coulomb * screening * envelope
    slope = coulomb * (
        screening_slope * envelope + screening * envelope_slope - screening * envelope / distance
    )
    return energy, slope


def position_gradient(edges: Edges, g_distance: Tensor, g_unit: Tensor, n_atoms: int) -> Tensor:
    """dE/dx of each atom [n_atoms, 3] from the gradients with respect to the pairs' geometry."""
    unit = edges.unit
    along = (g_unit * unit).sum(-1, keepdim=True)
    g_r = g_distance[:, None] * unit + (g_unit - along * unit) / edges.distance[:, None]
    return g_r.new_zeros(n_atoms, 3).index_add(0, edges.j, g_r).index_add(0, edges.i, -g_r)
