"""PaiNN's operators over pairs with the derivatives that force training needs, as Triton kernels.

Training on forces differentiates the analytic pass of `mlff_core.ops.analytic` once more, by the
weights. Of that, what runs over pairs is here; the rest is plain PyTorch. With, for one feature,
row r = (c, n) of the pair list (centre c, neighbour n, unit vector u from c to n, distance d),
filters W1 W2 W3 (d) and their slopes W'1 W'2 W'3, the messages p1 p2 p3 = phi and m = mu:

    message_fwd   dq_c = Σ p1_n W1,   dmu_c = Σ p2_n W2 u + p3_n W3 m_n
    message_bwd   from a = g_dq and b = g_dmu, with β = -b_n·u and γ = b_n·m_c:
                  g_phi_c = Σ (a_n W1, β W2, γ W3),   g_mu_c = Σ p3_c W3 b_n
                  g_d = Σ_f a_n p1_c W'1 + β p2_c W'2 + γ p3_c W'3,   g_u = -Σ_f p2_c W2 b_n

Both directions of a pair are listed, so everything is a sum over the rows of a centre: no atomic
additions, and the same result in every run. `message_bwd` lists g_d and g_u under the row of the
sender, the reverse of `reference.message_bwd`: their sums over both directions are the same.
The derivative of `message_bwd` follows from L = Σ P·g_phi + M·g_mu + D g_d + V·g_u, whose terms are
products of what is listed above (`_second_centre_kernel`, `_second_neighbour_kernel`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlff_core.ops.analytic import EdgeOps
from mlff_core.ops.reference import Edges

#: Pairs that a program handles at once, and radial functions, padded to what the matrix unit eats.
BLOCK_E = 16
BLOCK_K = 32


@triton.jit
def _filters_tile(filters, f, k, K: tl.constexpr, F: tl.constexpr, part: tl.constexpr):
    """Transposed filter weights of one third [BLOCK_K, BLOCK_F], zero beyond the last radial."""
    at = filters + (part * F + f)[None, :] * K + k[:, None]
    return tl.load(at, mask=(k < K)[:, None], other=0.0)


@triton.jit
def _message_fwd_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    unit,  # [n_edges, 3]
    basis,  # [n_edges, K]
    filters,  # [3 F, K]
    phi,  # [n_atoms, 3 F]
    mu,  # [n_atoms, 3, F]
    dq,  # [n_atoms, F]
    dmu,  # [n_atoms, 3, F]
    n_atoms,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    f1 = _filters_tile(filters, f, k, K, F, 0)
    f2 = _filters_tile(filters, f, k, K, F, 1)
    f3 = _filters_tile(filters, f, k, K, F, 2)
    # Neighbouring atoms share their neighbours, and so the cache.
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    for centre in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + centre), tl.load(row + centre + 1)
        acc_q = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            n = tl.load(source + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            # Rows beyond the end have a zero basis, hence zero filters, and add nothing.
            at = inside[:, None] & (k < K)[None, :]
            b = tl.load(basis + e[:, None] * K + k[None, :], mask=at, other=0.0)
            w1 = tl.dot(b, f1, input_precision=PRECISION)
            w2 = tl.dot(b, f2, input_precision=PRECISION)
            w3 = tl.dot(b, f3, input_precision=PRECISION)
            at_n = n[:, None] * (3 * F) + f[None, :]
            acc_q += tl.load(phi + at_n) * w1
            x2 = tl.load(phi + at_n + F) * w2
            x3 = tl.load(phi + at_n + 2 * F) * w3
            acc_x += x2 * ux + x3 * tl.load(mu + at_n)
            acc_y += x2 * uy + x3 * tl.load(mu + at_n + F)
            acc_z += x2 * uz + x3 * tl.load(mu + at_n + 2 * F)
        tl.store(dq + centre * F + f, tl.sum(acc_q, 0))
        tl.store(dmu + centre * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(dmu + centre * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(dmu + centre * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))


@triton.jit
def _message_bwd_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    unit,  # [n_edges, 3]
    basis,  # [n_edges, K]
    slope,  # [n_edges, K]
    filters,  # [3 F, K]
    phi,  # [n_atoms, 3 F]
    mu,  # [n_atoms, 3, F]
    g_dq,  # [n_atoms, F]
    g_dmu,  # [n_atoms, 3, F]
    g_phi,  # [n_atoms, 3 F]
    g_mu,  # [n_atoms, 3, F]
    g_geometry,  # [F / BLOCK_F, n_edges, 4]: g_d, g_u; only if GEOMETRY
    g_filters,  # [n_programs, 3 F, BLOCK_K]; only if FILTERS
    n_atoms,
    n_edges,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
    GEOMETRY: tl.constexpr,
    FILTERS: tl.constexpr,
):
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    f1 = _filters_tile(filters, f, k, K, F, 0)
    f2 = _filters_tile(filters, f, k, K, F, 1)
    f3 = _filters_tile(filters, f, k, K, F, 2)
    g1 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    g2 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    g3 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    # Neighbouring atoms share their neighbours, and so the cache.
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    for centre in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + centre), tl.load(row + centre + 1)
        at_c = centre * (3 * F) + f
        p1 = tl.load(phi + at_c)[None, :]
        p2 = tl.load(phi + at_c + F)[None, :]
        p3 = tl.load(phi + at_c + 2 * F)[None, :]
        mx = tl.load(mu + at_c)[None, :]
        my = tl.load(mu + at_c + F)[None, :]
        mz = tl.load(mu + at_c + 2 * F)[None, :]
        acc_1 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_2 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            n = tl.load(source + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            at = inside[:, None] & (k < K)[None, :]
            at_k = e[:, None] * K + k[None, :]
            basis_e = tl.load(basis + at_k, mask=at, other=0.0)
            w1 = tl.dot(basis_e, f1, input_precision=PRECISION)
            w2 = tl.dot(basis_e, f2, input_precision=PRECISION)
            w3 = tl.dot(basis_e, f3, input_precision=PRECISION)
            a = tl.load(g_dq + n[:, None] * F + f[None, :])
            at_n = n[:, None] * (3 * F) + f[None, :]
            bx = tl.load(g_dmu + at_n)
            by = tl.load(g_dmu + at_n + F)
            bz = tl.load(g_dmu + at_n + 2 * F)
            beta = -(bx * ux + by * uy + bz * uz)
            gamma = bx * mx + by * my + bz * mz
            acc_1 += a * w1
            acc_2 += beta * w2
            acc_3 += gamma * w3
            x3 = p3 * w3
            acc_x += x3 * bx
            acc_y += x3 * by
            acc_z += x3 * bz
            if GEOMETRY:
                slope_e = tl.load(slope + at_k, mask=at, other=0.0)
                s1 = tl.dot(slope_e, f1, input_precision=PRECISION)
                s2 = tl.dot(slope_e, f2, input_precision=PRECISION)
                s3 = tl.dot(slope_e, f3, input_precision=PRECISION)
                x2 = p2 * w2
                out = g_geometry + (tl.program_id(1) * n_edges + e) * 4
                g_d = tl.sum(a * p1 * s1 + beta * p2 * s2 + gamma * p3 * s3, 1)
                tl.store(out, g_d, mask=inside)
                tl.store(out + 1, -tl.sum(x2 * bx, 1), mask=inside)
                tl.store(out + 2, -tl.sum(x2 * by, 1), mask=inside)
                tl.store(out + 3, -tl.sum(x2 * bz, 1), mask=inside)
            if FILTERS:
                basis_t = tl.trans(basis_e)
                g1 = tl.dot(basis_t, a * p1, g1, input_precision=PRECISION)
                g2 = tl.dot(basis_t, beta * p2, g2, input_precision=PRECISION)
                g3 = tl.dot(basis_t, gamma * p3, g3, input_precision=PRECISION)
        tl.store(g_phi + at_c, tl.sum(acc_1, 0))
        tl.store(g_phi + at_c + F, tl.sum(acc_2, 0))
        tl.store(g_phi + at_c + 2 * F, tl.sum(acc_3, 0))
        tl.store(g_mu + at_c, tl.sum(acc_x, 0))
        tl.store(g_mu + at_c + F, tl.sum(acc_y, 0))
        tl.store(g_mu + at_c + 2 * F, tl.sum(acc_z, 0))
    if FILTERS:
        own = g_filters + tl.program_id(0) * (3 * F * BLOCK_K)
        at_f = f[None, :] * BLOCK_K + k[:, None]
        tl.store(own + at_f, g1)
        tl.store(own + F * BLOCK_K + at_f, g2)
        tl.store(own + 2 * F * BLOCK_K + at_f, g3)


@triton.jit
def _second_centre_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    unit,  # [n_edges, 3]
    basis,  # [n_edges, K]
    slope,  # [n_edges, K]
    filters,  # [3 F, K]
    phi,  # [n_atoms, 3 F]
    mu,  # [n_atoms, 3, F]
    g_dq,  # a [n_atoms, F]
    g_dmu,  # b [n_atoms, 3, F]
    c_phi,  # P [n_atoms, 3 F]
    c_mu,  # M [n_atoms, 3, F]
    c_d,  # D [n_edges]
    c_u,  # V [n_edges, 3]
    out_phi,  # [n_atoms, 3 F]
    out_mu,  # [n_atoms, 3, F]
    out_filters,  # [n_programs, 3 F, BLOCK_K]
    n_atoms,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Derivative of `message_bwd` by what belongs to the centre, phi and mu, and by the filters."""
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    f1 = _filters_tile(filters, f, k, K, F, 0)
    f2 = _filters_tile(filters, f, k, K, F, 1)
    f3 = _filters_tile(filters, f, k, K, F, 2)
    g1 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    g2 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    g3 = tl.zeros((BLOCK_K, BLOCK_F), tl.float32)
    # Neighbouring atoms share their neighbours, and so the cache.
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    for centre in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + centre), tl.load(row + centre + 1)
        at_c = centre * (3 * F) + f
        p1 = tl.load(phi + at_c)[None, :]
        p2 = tl.load(phi + at_c + F)[None, :]
        p3 = tl.load(phi + at_c + 2 * F)[None, :]
        mx = tl.load(mu + at_c)[None, :]
        my = tl.load(mu + at_c + F)[None, :]
        mz = tl.load(mu + at_c + 2 * F)[None, :]
        P1 = tl.load(c_phi + at_c)[None, :]
        P2 = tl.load(c_phi + at_c + F)[None, :]
        P3 = tl.load(c_phi + at_c + 2 * F)[None, :]
        Mx = tl.load(c_mu + at_c)[None, :]
        My = tl.load(c_mu + at_c + F)[None, :]
        Mz = tl.load(c_mu + at_c + 2 * F)[None, :]
        acc_1 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_2 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            n = tl.load(source + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            D = tl.load(c_d + e, mask=inside, other=0.0)[:, None]
            Vx = tl.load(c_u + e * 3, mask=inside, other=0.0)[:, None]
            Vy = tl.load(c_u + e * 3 + 1, mask=inside, other=0.0)[:, None]
            Vz = tl.load(c_u + e * 3 + 2, mask=inside, other=0.0)[:, None]
            at = inside[:, None] & (k < K)[None, :]
            at_k = e[:, None] * K + k[None, :]
            basis_e = tl.load(basis + at_k, mask=at, other=0.0)
            # D only ever meets the slope, so the product of the two stands in for it.
            slope_e = tl.load(slope + at_k, mask=at, other=0.0) * D
            a = tl.load(g_dq + n[:, None] * F + f[None, :])
            at_n = n[:, None] * (3 * F) + f[None, :]
            bx = tl.load(g_dmu + at_n)
            by = tl.load(g_dmu + at_n + F)
            bz = tl.load(g_dmu + at_n + 2 * F)
            beta = -(bx * ux + by * uy + bz * uz)
            gamma = bx * mx + by * my + bz * mz
            b_V = -(bx * Vx + by * Vy + bz * Vz)
            b_M = bx * Mx + by * My + bz * Mz
            s1 = tl.dot(slope_e, f1, input_precision=PRECISION)
            acc_1 += a * s1
            w2 = tl.dot(basis_e, f2, input_precision=PRECISION)
            s2 = tl.dot(slope_e, f2, input_precision=PRECISION)
            acc_2 += beta * s2 + b_V * w2
            w3 = tl.dot(basis_e, f3, input_precision=PRECISION)
            s3 = tl.dot(slope_e, f3, input_precision=PRECISION)
            acc_3 += gamma * s3 + b_M * w3
            t3 = P3 * w3 + p3 * s3
            acc_x += t3 * bx
            acc_y += t3 * by
            acc_z += t3 * bz
            basis_t, slope_t = tl.trans(basis_e), tl.trans(slope_e)
            g1 = tl.dot(basis_t, a * P1, g1, input_precision=PRECISION)
            g1 = tl.dot(slope_t, a * p1, g1, input_precision=PRECISION)
            g2 = tl.dot(basis_t, beta * P2 + b_V * p2, g2, input_precision=PRECISION)
            g2 = tl.dot(slope_t, beta * p2, g2, input_precision=PRECISION)
            g3 = tl.dot(basis_t, gamma * P3 + b_M * p3, g3, input_precision=PRECISION)
            g3 = tl.dot(slope_t, gamma * p3, g3, input_precision=PRECISION)
        tl.store(out_phi + at_c, tl.sum(acc_1, 0))
        tl.store(out_phi + at_c + F, tl.sum(acc_2, 0))
        tl.store(out_phi + at_c + 2 * F, tl.sum(acc_3, 0))
        tl.store(out_mu + at_c, tl.sum(acc_x, 0))
        tl.store(out_mu + at_c + F, tl.sum(acc_y, 0))
        tl.store(out_mu + at_c + 2 * F, tl.sum(acc_z, 0))
    own = out_filters + tl.program_id(0) * (3 * F * BLOCK_K)
    at_f = f[None, :] * BLOCK_K + k[:, None]
    tl.store(own + at_f, g1)
    tl.store(own + F * BLOCK_K + at_f, g2)
    tl.store(own + 2 * F * BLOCK_K + at_f, g3)


@triton.jit
def _second_neighbour_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    reverse,  # row of the opposite direction of each pair [n_edges]
    unit,  # [n_edges, 3]
    basis,  # [n_edges, K]
    slope,  # [n_edges, K]
    filters,  # [3 F, K]
    phi,  # [n_atoms, 3 F]
    mu,  # [n_atoms, 3, F]
    c_phi,  # P [n_atoms, 3 F]
    c_mu,  # M [n_atoms, 3, F]
    c_d,  # D [n_edges]
    c_u,  # V [n_edges, 3]
    out_a,  # [n_atoms, F]
    out_b,  # [n_atoms, 3, F]
    n_atoms,
    K: tl.constexpr,
    F: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Derivative of `message_bwd` by what belongs to the neighbour: a = g_dq and b = g_dmu.

    A program gathers for the atom that plays the neighbour: its rows list the senders, each under
    the direction opposite to the one that D and V are listed under.
    """
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    f1 = _filters_tile(filters, f, k, K, F, 0)
    f2 = _filters_tile(filters, f, k, K, F, 1)
    f3 = _filters_tile(filters, f, k, K, F, 2)
    # Neighbouring atoms share their neighbours, and so the cache.
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    for atom in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + atom), tl.load(row + atom + 1)
        acc_a = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            c = tl.load(source + e, mask=inside, other=0)
            r = tl.load(reverse + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            D = tl.load(c_d + r, mask=inside, other=0.0)[:, None]
            Vx = tl.load(c_u + r * 3, mask=inside, other=0.0)[:, None]
            Vy = tl.load(c_u + r * 3 + 1, mask=inside, other=0.0)[:, None]
            Vz = tl.load(c_u + r * 3 + 2, mask=inside, other=0.0)[:, None]
            at = inside[:, None] & (k < K)[None, :]
            at_k = e[:, None] * K + k[None, :]
            basis_e = tl.load(basis + at_k, mask=at, other=0.0)
            slope_e = tl.load(slope + at_k, mask=at, other=0.0) * D
            at_n = c[:, None] * (3 * F) + f[None, :]
            w1 = tl.dot(basis_e, f1, input_precision=PRECISION)
            s1 = tl.dot(slope_e, f1, input_precision=PRECISION)
            acc_a += tl.load(c_phi + at_n) * w1 + tl.load(phi + at_n) * s1
            w2 = tl.dot(basis_e, f2, input_precision=PRECISION)
            s2 = tl.dot(slope_e, f2, input_precision=PRECISION)
            p2 = tl.load(phi + at_n + F)
            t2 = tl.load(c_phi + at_n + F) * w2 + p2 * s2
            x2 = p2 * w2
            w3 = tl.dot(basis_e, f3, input_precision=PRECISION)
            s3 = tl.dot(slope_e, f3, input_precision=PRECISION)
            p3 = tl.load(phi + at_n + 2 * F)
            t3 = tl.load(c_phi + at_n + 2 * F) * w3 + p3 * s3
            x3 = p3 * w3
            # Seen from the neighbour, the unit vector of the listed row points to the sender, so
            # beta = -b·(-unit) here.
            acc_x += t2 * ux + t3 * tl.load(mu + at_n) + x3 * tl.load(c_mu + at_n) - x2 * Vx
            acc_y += t2 * uy + t3 * tl.load(mu + at_n + F) + x3 * tl.load(c_mu + at_n + F) - x2 * Vy
            acc_z += (
                t2 * uz
                + t3 * tl.load(mu + at_n + 2 * F)
                + x3 * tl.load(c_mu + at_n + 2 * F)
                - x2 * Vz
            )
        tl.store(out_a + atom * F + f, tl.sum(acc_a, 0))
        tl.store(out_b + atom * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(out_b + atom * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(out_b + atom * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))


class _Launch:
    """Grid and constants of the kernels, for one pair list.

    Attributes:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1]; rows beyond the
            end are padding that no kernel reads.
        reverse: Row of the opposite direction of each pair, int64 [n_edges].
    """

    def __init__(self, row: Tensor, reverse: Tensor, n_programs: int, precision: str):
        self.row, self.reverse = row, reverse
        self.n_programs, self.precision = n_programs, precision

    def __call__(self, kernel: Any, n_features: int, *arguments: Any, **flags: Any) -> None:
        block_f, num_warps = features_and_warps(kernel, n_features)
        kernel[(self.n_programs, n_features // block_f)](
            *arguments,
            F=n_features,
            BLOCK_E=BLOCK_E,
            BLOCK_K=BLOCK_K,
            BLOCK_F=block_f,
            PRECISION=self.precision,
            num_warps=num_warps,
            **flags,
        )


#: Features that a program of each kernel handles, and its warps: what was fastest on one H200.
TILES: dict[str, tuple[int, int]] = {
    "_message_fwd_kernel": (64, 4),
    "_message_bwd_kernel": (64, 4),
    "_second_centre_kernel": (64, 4),
    "_second_neighbour_kernel": (64, 4),
}


def features_and_warps(kernel: Any, n_features: int) -> tuple[int, int]:
    """Features that a program of a kernel handles, and its warps."""
    block_f, num_warps = TILES[kernel.fn.__name__]
    return min(block_f, n_features), num_warps


class _MessageFwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, launch, edges, phi, mu, filters):
        n_atoms, _, n_features = mu.shape
        phi, mu, filters = phi.contiguous(), mu.contiguous(), filters.contiguous()
        dq, dmu = torch.empty_like(mu[:, 0]), torch.empty_like(mu)
        launch(
            _message_fwd_kernel,
            n_features,
            launch.row,
            edges.j,
            edges.unit,
            edges.basis,
            filters,
            phi,
            mu,
            dq,
            dmu,
            n_atoms,
            K=filters.shape[1],
        )
        ctx.launch, ctx.edges = launch, edges
        ctx.save_for_backward(phi, mu, filters)
        return dq, dmu

    @staticmethod
    @once_differentiable
    def backward(ctx, g_dq, g_dmu):
        phi, mu, filters = ctx.saved_tensors
        g_phi, g_mu, _, g_filters = _first(
            ctx.launch, ctx.edges, g_dq, g_dmu, phi, mu, filters, geometry=False, weights=True
        )
        return None, None, g_phi, g_mu, g_filters


def _first(launch, edges, g_dq, g_dmu, phi, mu, filters, *, geometry, weights):
    """Gradients of `message_fwd`: g_phi, g_mu, and as asked [g_d, g_u] of the pairs, g_filters."""
    n_atoms, _, n_features = mu.shape
    n_edges, n_basis = len(edges.j), filters.shape[1]
    g_phi, g_mu = torch.empty_like(phi), torch.empty_like(mu)
    parts = n_features // features_and_warps(_message_bwd_kernel, n_features)[0]
    # Padding rows are never written, and must not be garbage.
    g_geometry = mu.new_zeros(parts, n_edges, 4) if geometry else mu
    g_filters = mu.new_empty(launch.n_programs, 3 * n_features, BLOCK_K) if weights else mu
    launch(
        _message_bwd_kernel,
        n_features,
        launch.row,
        edges.j,
        edges.unit,
        edges.basis,
        edges.slope,
        filters,
        phi,
        mu,
        g_dq.contiguous(),
        g_dmu.contiguous(),
        g_phi,
        g_mu,
        g_geometry,
        g_filters,
        n_atoms,
        n_edges,
        K=n_basis,
        GEOMETRY=geometry,
        FILTERS=weights,
    )
    return (
        g_phi,
        g_mu,
        g_geometry.sum(0) if geometry else None,
        g_filters.sum(0)[:, :n_basis] if weights else None,
    )


class _MessageBwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, launch, edges, g_dq, g_dmu, phi, mu, filters):
        phi, mu, filters = phi.contiguous(), mu.contiguous(), filters.contiguous()
        g_dq, g_dmu = g_dq.contiguous(), g_dmu.contiguous()
        g_phi, g_mu, g_geometry, _ = _first(
            launch, edges, g_dq, g_dmu, phi, mu, filters, geometry=True, weights=False
        )
        ctx.launch, ctx.edges = launch, edges
        ctx.save_for_backward(g_dq, g_dmu, phi, mu, filters)
        return g_phi, g_mu, g_geometry[:, 0].contiguous(), g_geometry[:, 1:].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, c_phi, c_mu, c_d, c_u):
        g_dq, g_dmu, phi, mu, filters = ctx.saved_tensors
        launch, edges = ctx.launch, ctx.edges
        n_atoms, _, n_features = mu.shape
        c_phi, c_mu, c_d, c_u = (c.contiguous() for c in (c_phi, c_mu, c_d, c_u))
        out_phi, out_mu = torch.empty_like(phi), torch.empty_like(mu)
        out_a, out_b = torch.empty_like(g_dq), torch.empty_like(g_dmu)
        out_filters = mu.new_empty(launch.n_programs, 3 * n_features, BLOCK_K)
        common = (edges.unit, edges.basis, edges.slope, filters, phi, mu)
        launch(
            _second_centre_kernel,
            n_features,
            launch.row,
            edges.j,
            *common,
            g_dq,
            g_dmu,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_phi,
            out_mu,
            out_filters,
            n_atoms,
            K=filters.shape[1],
        )
        launch(
            _second_neighbour_kernel,
            n_features,
            launch.row,
            edges.j,
            launch.reverse,
            *common,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_a,
            out_b,
            n_atoms,
            K=filters.shape[1],
        )
        g_filters = out_filters.sum(0)[:, : filters.shape[1]]
        return None, None, out_a, out_b, out_phi, out_mu, g_filters


def reverse_rows(row: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Row of (j, i) for the row of every pair (i, j), int64 [n_edges].

    Args:
        row: First row of each atom, int64 [n_atoms + 1].
        i: Destinations, ascending, int64 [n_edges].
        j: Sources, ascending within a destination, int64 [n_edges]; the list is symmetric.
    """
    # Rows are sorted by (i, j), so those of the swapped pairs are found by sorting by (j, i).
    order = torch.sort(j, stable=True).indices
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(j), device=j.device))


def triton_edge_ops(
    row: Tensor,
    reverse: Tensor,
    *,
    n_programs: int = 1056,
    precision: str = "tf32",
) -> EdgeOps:
    """The operators for one pair list, differentiable by the weights, for `energy_and_forces`.

    Args:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1].
        reverse: As from `reverse_rows`.
        n_programs: Programs of each kernel for each block of features.
        precision: Of the products with the radial basis: "tf32" or "ieee".
    """
    launch = _Launch(row, reverse, n_programs, precision)

    def message_fwd(phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor):
        return _MessageFwd.apply(launch, edges, phi, mu, filters)

    def message_bwd(
        g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ):
        return _MessageBwd.apply(launch, edges, g_dq, g_dmu, phi, mu, filters)

    return EdgeOps(message_fwd, message_bwd)
