# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""PaiNN's operators over pairs with the derivatives that force training needs, as Triton kernels.

Training on forces differentiates the analytic pass of `mlff_core.ops.program` once more, by the
weights. Of that, what runs over pairs is here; the rest is plain PyTorch. With, for one feature,
row r = (c, n) of the pair list (centre c, neighbour n, unit vector u from c to n, distance d),
filters W1 W2 W3 (d) and their slopes S1 S2 S3, the messages p1 p2 p3 = phi and m = mu:

    message_fwd   dq_c = Σ p1_n W1,   dmu_c = Σ p2_n W2 u + p3_n W3 m_n
    message_bwd   from a = g_dq and b = g_dmu, with β = -b_n·u and γ = b_n·m_c:
                  g_phi_c = Σ (a_n W1, β W2, γ W3),   g_mu_c = Σ p3_c W3 b_n
                  g_d = Σ_f a_n p1_c S1 + β p2_c S2 + γ p3_c S3,   g_u = -Σ_f p2_c W2 b_n

Both directions of a pair are listed, so everything is a sum over the rows of a centre: no atomic
additions, and the same result in every run. `message_bwd` lists g_d and g_u under the row of the
sender, the reverse of `plain.message_bwd`: their sums over both directions are the same.
The derivative of `message_bwd` follows from L = Σ P·g_phi + M·g_mu + D g_d + V·g_u, whose terms are
products of what is listed above (`_second_centre_kernel`, `_second_neighbour_kernel`).

The first block has no vectors yet (m = 0), so neither p3, W3 nor M are there, and nothing asks for
g_phi: kernels with PARTS = 2 instead of 3 leave all of that out.

W and S are computed once for a block of the network, by the matrix units, one row for both
directions of a pair, and kept in float16, whose mantissa is that of TF32. So is what a kernel
gathers, phi, mu, a and b: each of these rows is read some twenty times. Cotangents and gradients of
filters are kept in bfloat16, whose range is float32's.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlff_core.ops.plain import Edges
from mlff_core.ops.program import EdgeOps


@triton.jit
def _message_fwd_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    pair,  # row of W of each row [n_edges]
    unit,  # [n_edges, 3]
    W,  # [n_edges / 2, PARTS F]
    phi,  # [n_atoms, PARTS F]
    mu,  # [n_atoms, 3, F]; only if PARTS is 3
    dq,  # [n_atoms, F]
    dmu,  # [n_atoms, 3, F]
    n_atoms,
    F: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
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
            here = inside[:, None]
            n = tl.load(source + e, mask=inside, other=0)
            r = tl.load(pair + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            # Rows beyond the end have zero filters, and add nothing.
            at_w = r[:, None] * (PARTS * F) + f[None, :]
            at_p = n[:, None] * (PARTS * F) + f[None, :]
            w1 = tl.load(W + at_w, mask=here, other=0.0).to(tl.float32)
            w2 = tl.load(W + at_w + F, mask=here, other=0.0).to(tl.float32)
            acc_q += tl.load(phi + at_p).to(tl.float32) * w1
            x2 = tl.load(phi + at_p + F).to(tl.float32) * w2
            acc_x += x2 * ux
            acc_y += x2 * uy
            acc_z += x2 * uz
            if PARTS == 3:
                at_n = n[:, None] * (3 * F) + f[None, :]
                w3 = tl.load(W + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                x3 = tl.load(phi + at_p + 2 * F).to(tl.float32) * w3
                acc_x += x3 * tl.load(mu + at_n).to(tl.float32)
                acc_y += x3 * tl.load(mu + at_n + F).to(tl.float32)
                acc_z += x3 * tl.load(mu + at_n + 2 * F).to(tl.float32)
        tl.store(dq + centre * F + f, tl.sum(acc_q, 0))
        tl.store(dmu + centre * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(dmu + centre * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(dmu + centre * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))


@triton.jit
def _message_bwd_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    pair,  # row of W of each row [n_edges]
    unit,  # [n_edges, 3]
    W,  # [n_edges / 2, PARTS F]
    S,  # [n_edges / 2, PARTS F]; only if GEOMETRY
    phi,  # [n_atoms, PARTS F]
    mu,  # [n_atoms, 3, F]; only if PARTS is 3
    g_dq,  # [n_atoms, F]
    g_dmu,  # [n_atoms, 3, F]
    g_phi,  # [n_atoms, PARTS F]; only if FEATURES
    g_mu,  # [n_atoms, 3, F]; only if FEATURES and PARTS is 3
    g_geometry,  # [F / BLOCK_F, n_edges, 4]: g_d, g_u; only if GEOMETRY
    g_W,  # [n_edges, PARTS F]; only if FILTERS
    n_atoms,
    n_edges,
    F: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
    FEATURES: tl.constexpr,
    GEOMETRY: tl.constexpr,
    FILTERS: tl.constexpr,
):
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    for centre in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + centre), tl.load(row + centre + 1)
        at_c = centre * (3 * F) + f
        at_cp = centre * (PARTS * F) + f
        p1 = tl.load(phi + at_cp).to(tl.float32)[None, :]
        p2 = tl.load(phi + at_cp + F).to(tl.float32)[None, :]
        acc_1 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_2 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        if PARTS == 3:
            p3 = tl.load(phi + at_cp + 2 * F).to(tl.float32)[None, :]
            mx = tl.load(mu + at_c).to(tl.float32)[None, :]
            my = tl.load(mu + at_c + F).to(tl.float32)[None, :]
            mz = tl.load(mu + at_c + 2 * F).to(tl.float32)[None, :]
            acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            here = inside[:, None]
            n = tl.load(source + e, mask=inside, other=0)
            r = tl.load(pair + e, mask=inside, other=0)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            at_w = r[:, None] * (PARTS * F) + f[None, :]
            at_n = n[:, None] * (3 * F) + f[None, :]
            a = tl.load(g_dq + n[:, None] * F + f[None, :]).to(tl.float32)
            bx = tl.load(g_dmu + at_n).to(tl.float32)
            by = tl.load(g_dmu + at_n + F).to(tl.float32)
            bz = tl.load(g_dmu + at_n + 2 * F).to(tl.float32)
            beta = -(bx * ux + by * uy + bz * uz)
            if FEATURES:
                w1 = tl.load(W + at_w, mask=here, other=0.0).to(tl.float32)
                acc_1 += a * w1
            w2 = tl.load(W + at_w + F, mask=here, other=0.0).to(tl.float32)
            acc_2 += beta * w2
            if PARTS == 3:
                gamma = bx * mx + by * my + bz * mz
                if FEATURES:
                    w3 = tl.load(W + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                    acc_3 += gamma * w3
                    # p3 waits until the sum is complete.
                    acc_x += w3 * bx
                    acc_y += w3 * by
                    acc_z += w3 * bz
            if GEOMETRY:
                g_d = a * p1 * tl.load(S + at_w, mask=here, other=0.0).to(tl.float32)
                g_d += beta * p2 * tl.load(S + at_w + F, mask=here, other=0.0).to(tl.float32)
                if PARTS == 3:
                    s3 = tl.load(S + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                    g_d += gamma * p3 * s3
                x2 = p2 * w2
                out = g_geometry + (tl.program_id(1) * n_edges + e) * 4
                tl.store(out, tl.sum(g_d, 1), mask=inside)
                tl.store(out + 1, -tl.sum(x2 * bx, 1), mask=inside)
                tl.store(out + 2, -tl.sum(x2 * by, 1), mask=inside)
                tl.store(out + 3, -tl.sum(x2 * bz, 1), mask=inside)
            if FILTERS:
                at_g = e[:, None] * (PARTS * F) + f[None, :]
                tl.store(g_W + at_g, (a * p1).to(tl.bfloat16), mask=here)
                tl.store(g_W + at_g + F, (beta * p2).to(tl.bfloat16), mask=here)
                if PARTS == 3:
                    tl.store(g_W + at_g + 2 * F, (gamma * p3).to(tl.bfloat16), mask=here)
        if FEATURES:
            tl.store(g_phi + at_cp, tl.sum(acc_1, 0))
            tl.store(g_phi + at_cp + F, tl.sum(acc_2, 0))
            if PARTS == 3:
                tl.store(g_phi + at_cp + 2 * F, tl.sum(acc_3, 0))
                p3_c = tl.load(phi + at_cp + 2 * F).to(tl.float32)
                tl.store(g_mu + at_c, p3_c * tl.sum(acc_x, 0))
                tl.store(g_mu + at_c + F, p3_c * tl.sum(acc_y, 0))
                tl.store(g_mu + at_c + 2 * F, p3_c * tl.sum(acc_z, 0))
    # Padding rows belong to no atom, and must not stay as they were found.
    first_padding = tl.load(row + n_atoms)
    stride = tl.num_programs(0) * BLOCK_E
    for first in range(first_padding + tl.program_id(0) * BLOCK_E, n_edges, stride):
        e = first + tl.arange(0, BLOCK_E)
        inside = e < n_edges
        zero = tl.zeros((BLOCK_E,), tl.float32)
        if GEOMETRY:
            out = g_geometry + (tl.program_id(1) * n_edges + e) * 4
            tl.store(out, zero, mask=inside)
            tl.store(out + 1, zero, mask=inside)
            tl.store(out + 2, zero, mask=inside)
            tl.store(out + 3, zero, mask=inside)
        if FILTERS:
            at_g = e[:, None] * (PARTS * F) + f[None, :]
            nothing = tl.zeros((BLOCK_E, BLOCK_F), tl.bfloat16)
            for part in tl.static_range(PARTS):
                tl.store(g_W + at_g + part * F, nothing, mask=inside[:, None])


@triton.jit
def _second_centre_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    pair,  # row of W of each row [n_edges]
    unit,  # [n_edges, 3]
    W,  # [n_edges / 2, PARTS F]
    S,  # [n_edges / 2, PARTS F]
    phi,  # [n_atoms, PARTS F]
    mu,  # [n_atoms, 3, F]; only if PARTS is 3
    g_dq,  # a [n_atoms, F]
    g_dmu,  # b [n_atoms, 3, F]
    c_phi,  # P [n_atoms, 3 F]; only if PARTS is 3
    c_mu,  # M [n_atoms, 3, F]; likewise
    c_d,  # D [n_edges]
    c_u,  # V [n_edges, 3]
    out_phi,  # [n_atoms, PARTS F]
    out_mu,  # [n_atoms, 3, F]; only if PARTS is 3
    g_W,  # [n_edges, PARTS F]
    g_S,  # [n_edges, PARTS F]
    n_atoms,
    n_edges,
    F: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Derivative of `message_bwd` by what belongs to the centre, phi and mu, and by W and S."""
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    share = tl.cdiv(n_atoms, tl.num_programs(0))
    begin = tl.program_id(0) * share
    nothing = tl.zeros((BLOCK_E, BLOCK_F), tl.bfloat16)
    for centre in range(begin, tl.minimum(begin + share, n_atoms)):
        start, end = tl.load(row + centre), tl.load(row + centre + 1)
        at_c = centre * (3 * F) + f
        at_cp = centre * (PARTS * F) + f
        p1 = tl.load(phi + at_cp).to(tl.float32)[None, :]
        p2 = tl.load(phi + at_cp + F).to(tl.float32)[None, :]
        acc_1 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        acc_2 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        if PARTS == 3:
            p3 = tl.load(phi + at_cp + 2 * F).to(tl.float32)[None, :]
            mx = tl.load(mu + at_c).to(tl.float32)[None, :]
            my = tl.load(mu + at_c + F).to(tl.float32)[None, :]
            mz = tl.load(mu + at_c + 2 * F).to(tl.float32)[None, :]
            P1 = tl.load(c_phi + at_c).to(tl.float32)[None, :]
            P2 = tl.load(c_phi + at_c + F).to(tl.float32)[None, :]
            P3 = tl.load(c_phi + at_c + 2 * F).to(tl.float32)[None, :]
            Mx = tl.load(c_mu + at_c).to(tl.float32)[None, :]
            My = tl.load(c_mu + at_c + F).to(tl.float32)[None, :]
            Mz = tl.load(c_mu + at_c + 2 * F).to(tl.float32)[None, :]
            acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e = first + tl.arange(0, BLOCK_E)
            inside = e < end
            here = inside[:, None]
            n = tl.load(source + e, mask=inside, other=0)
            r = tl.load(pair + e, mask=inside, other=0)
            D = tl.load(c_d + e, mask=inside, other=0.0)[:, None]
            at_w = r[:, None] * (PARTS * F) + f[None, :]
            at_g = e[:, None] * (PARTS * F) + f[None, :]
            a = tl.load(g_dq + n[:, None] * F + f[None, :]).to(tl.float32)
            # D only ever meets the slope, so the product of the two stands in for it.
            s1 = tl.load(S + at_w, mask=here, other=0.0).to(tl.float32) * D
            acc_1 += a * s1
            if PARTS == 3:
                tl.store(g_W + at_g, (a * P1).to(tl.bfloat16), mask=here)
            else:
                tl.store(g_W + at_g, nothing, mask=here)
            tl.store(g_S + at_g, (a * p1 * D).to(tl.bfloat16), mask=here)
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            Vx = tl.load(c_u + e * 3, mask=inside, other=0.0)[:, None]
            Vy = tl.load(c_u + e * 3 + 1, mask=inside, other=0.0)[:, None]
            Vz = tl.load(c_u + e * 3 + 2, mask=inside, other=0.0)[:, None]
            at_n = n[:, None] * (3 * F) + f[None, :]
            bx = tl.load(g_dmu + at_n).to(tl.float32)
            by = tl.load(g_dmu + at_n + F).to(tl.float32)
            bz = tl.load(g_dmu + at_n + 2 * F).to(tl.float32)
            beta = -(bx * ux + by * uy + bz * uz)
            b_V = -(bx * Vx + by * Vy + bz * Vz)
            w2 = tl.load(W + at_w + F, mask=here, other=0.0).to(tl.float32)
            s2 = tl.load(S + at_w + F, mask=here, other=0.0).to(tl.float32) * D
            acc_2 += beta * s2 + b_V * w2
            if PARTS == 3:
                tl.store(g_W + at_g + F, (beta * P2 + b_V * p2).to(tl.bfloat16), mask=here)
            else:
                tl.store(g_W + at_g + F, (b_V * p2).to(tl.bfloat16), mask=here)
            tl.store(g_S + at_g + F, (beta * p2 * D).to(tl.bfloat16), mask=here)
            if PARTS == 3:
                gamma = bx * mx + by * my + bz * mz
                b_M = bx * Mx + by * My + bz * Mz
                w3 = tl.load(W + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                s3 = tl.load(S + at_w + 2 * F, mask=here, other=0.0).to(tl.float32) * D
                acc_3 += gamma * s3 + b_M * w3
                t3 = P3 * w3 + p3 * s3
                acc_x += t3 * bx
                acc_y += t3 * by
                acc_z += t3 * bz
                g3 = gamma * P3 + b_M * p3
                tl.store(g_W + at_g + 2 * F, g3.to(tl.bfloat16), mask=here)
                tl.store(g_S + at_g + 2 * F, (gamma * p3 * D).to(tl.bfloat16), mask=here)
        tl.store(out_phi + at_cp, tl.sum(acc_1, 0))
        tl.store(out_phi + at_cp + F, tl.sum(acc_2, 0))
        if PARTS == 3:
            tl.store(out_phi + at_cp + 2 * F, tl.sum(acc_3, 0))
            tl.store(out_mu + at_c, tl.sum(acc_x, 0))
            tl.store(out_mu + at_c + F, tl.sum(acc_y, 0))
            tl.store(out_mu + at_c + 2 * F, tl.sum(acc_z, 0))
    first_padding = tl.load(row + n_atoms)
    stride = tl.num_programs(0) * BLOCK_E
    for first in range(first_padding + tl.program_id(0) * BLOCK_E, n_edges, stride):
        e = first + tl.arange(0, BLOCK_E)
        here = (e < n_edges)[:, None]
        at_g = e[:, None] * (PARTS * F) + f[None, :]
        for part in tl.static_range(PARTS):
            tl.store(g_W + at_g + part * F, nothing, mask=here)
            tl.store(g_S + at_g + part * F, nothing, mask=here)


@triton.jit
def _second_neighbour_kernel(
    row,  # [n_atoms + 1]
    source,  # [n_edges]
    pair,  # row of W of each row [n_edges]
    reverse,  # row of the opposite direction of each pair [n_edges]
    unit,  # [n_edges, 3]
    W,  # [n_edges / 2, PARTS F]
    S,  # [n_edges / 2, PARTS F]
    phi,  # [n_atoms, PARTS F]
    mu,  # [n_atoms, 3, F]; only if PARTS is 3
    c_phi,  # P [n_atoms, 3 F]; likewise
    c_mu,  # M [n_atoms, 3, F]; likewise
    c_d,  # D [n_edges]
    c_u,  # V [n_edges, 3]
    out_a,  # [n_atoms, F]
    out_b,  # [n_atoms, 3, F]
    n_atoms,
    F: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Derivative of `message_bwd` by what belongs to the neighbour: a = g_dq and b = g_dmu.

    A program gathers for the atom that plays the neighbour: its rows list the senders, each under
    the direction opposite to the one that D and V are listed under.
    """
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
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
            here = inside[:, None]
            c = tl.load(source + e, mask=inside, other=0)
            r = tl.load(pair + e, mask=inside, other=0)
            back = tl.load(reverse + e, mask=inside, other=0)
            D = tl.load(c_d + back, mask=inside, other=0.0)[:, None]
            at_w = r[:, None] * (PARTS * F) + f[None, :]
            at_p = c[:, None] * (PARTS * F) + f[None, :]
            at_n = c[:, None] * (3 * F) + f[None, :]
            s1 = tl.load(S + at_w, mask=here, other=0.0).to(tl.float32) * D
            acc_a += tl.load(phi + at_p).to(tl.float32) * s1
            ux = tl.load(unit + e * 3, mask=inside, other=0.0)[:, None]
            uy = tl.load(unit + e * 3 + 1, mask=inside, other=0.0)[:, None]
            uz = tl.load(unit + e * 3 + 2, mask=inside, other=0.0)[:, None]
            Vx = tl.load(c_u + back * 3, mask=inside, other=0.0)[:, None]
            Vy = tl.load(c_u + back * 3 + 1, mask=inside, other=0.0)[:, None]
            Vz = tl.load(c_u + back * 3 + 2, mask=inside, other=0.0)[:, None]
            w2 = tl.load(W + at_w + F, mask=here, other=0.0).to(tl.float32)
            s2 = tl.load(S + at_w + F, mask=here, other=0.0).to(tl.float32) * D
            p2 = tl.load(phi + at_p + F).to(tl.float32)
            t2 = p2 * s2
            x2 = p2 * w2
            if PARTS == 3:
                w1 = tl.load(W + at_w, mask=here, other=0.0).to(tl.float32)
                acc_a += tl.load(c_phi + at_n).to(tl.float32) * w1
                t2 += tl.load(c_phi + at_n + F).to(tl.float32) * w2
            # Seen from the neighbour, the unit vector of the listed row points to the sender, so
            # beta = -b·(-unit) here.
            acc_x += t2 * ux - x2 * Vx
            acc_y += t2 * uy - x2 * Vy
            acc_z += t2 * uz - x2 * Vz
            if PARTS == 3:
                w3 = tl.load(W + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                s3 = tl.load(S + at_w + 2 * F, mask=here, other=0.0).to(tl.float32) * D
                p3 = tl.load(phi + at_p + 2 * F).to(tl.float32)
                t3 = tl.load(c_phi + at_n + 2 * F).to(tl.float32) * w3 + p3 * s3
                x3 = p3 * w3
                mx = tl.load(mu + at_n).to(tl.float32)
                my = tl.load(mu + at_n + F).to(tl.float32)
                mz = tl.load(mu + at_n + 2 * F).to(tl.float32)
                acc_x += t3 * mx + x3 * tl.load(c_mu + at_n).to(tl.float32)
                acc_y += t3 * my + x3 * tl.load(c_mu + at_n + F).to(tl.float32)
                acc_z += t3 * mz + x3 * tl.load(c_mu + at_n + 2 * F).to(tl.float32)
        tl.store(out_a + atom * F + f, tl.sum(acc_a, 0))
        tl.store(out_b + atom * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(out_b + atom * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(out_b + atom * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))


class Tile(NamedTuple):
    """Pairs and features that a program handles at once, and its warps."""

    block_e: int
    block_f: int
    num_warps: int


#: What was fastest on one H200 with 256 features.
TILES: dict[str, Tile] = {
    "_message_fwd_kernel": Tile(2, 64, 1),
    "_message_bwd_kernel": Tile(2, 256, 1),
    "_second_centre_kernel": Tile(1, 256, 2),
    "_second_neighbour_kernel": Tile(8, 64, 1),
}

#: Programs of a kernel for each block of features.
N_PROGRAMS = 8448

#: Most elements that a tensor over pairs may have for its places to fit in 32 bits.
_MOST_NARROW = 2**31 - 1


class _Pairs:
    """One pair list: how its rows are laid out, and the basis as the matrix units want it.

    Attributes:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1]; rows beyond the
            end are padding that no atom owns.
        reverse: Row of the opposite direction of each pair, int64 [n_edges].
    """

    def __init__(self, row: Tensor, reverse: Tensor, n_programs: int):
        self.row, self.reverse, self.n_programs = row, reverse, n_programs
        self._basis: tuple[Tensor, Tensor] | None = None
        self._filters: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._places: dict[torch.dtype, tuple[Tensor, ...]] = {}
        self._halves: tuple[Tensor, Tensor] | None = None

    def halves(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """For each row the place of its pair in a list of pairs without direction, int64 [n_edges];
        and a row of each of these pairs, int64 [n_edges // 2]."""
        if self._halves is None:
            rows = torch.arange(len(edges.j), device=edges.j.device)
            first = (edges.i < edges.j) & (rows < self.row[-1])
            place = first.cumsum(0) - 1
            n_pairs = len(rows) // 2
            # One more than there is: rows that are no first ones are written there.
            listed = torch.zeros(n_pairs + 1, dtype=torch.int64, device=rows.device)
            listed.scatter_(0, torch.where(first, place, n_pairs), rows)
            self._halves = torch.where(first, place, place[self.reverse]), listed[:n_pairs]
        return self._halves

    def places(self, edges: Edges, n_features: int) -> tuple[Tensor, ...]:
        """First rows, sources, places of pairs and reverse rows, in as few bits as hold the places
        of filters."""
        narrow = 6 * n_features * len(edges.j) <= _MOST_NARROW
        dtype = torch.int32 if narrow else torch.int64
        if dtype not in self._places:
            every = self.row, edges.j, self.halves(edges)[0], self.reverse
            self._places[dtype] = tuple(x.to(dtype) for x in every)
        return self._places[dtype]

    def launch(self, kernel: Any, n_features: int, *arguments: Any, **flags: Any) -> None:
        """Run a kernel over all atoms."""
        tile = TILES[kernel.fn.__name__]
        block_f = min(tile.block_f, n_features)
        kernel[(self.n_programs, n_features // block_f)](
            *arguments,
            F=n_features,
            BLOCK_E=tile.block_e,
            BLOCK_F=block_f,
            num_warps=tile.num_warps,
            **flags,
        )

    def basis(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """Basis above slope, padded to a width that the matrix units take.

        Returns:
            float16 [2 (n_edges // 2), width], of pairs without direction; and bfloat16 [2 n_edges,
            2 width], where the second half holds what the first rounds off.
        """
        if self._basis is None:
            both = torch.cat([edges.basis, edges.slope])
            both = torch.nn.functional.pad(both, (0, -both.shape[1] % 8))
            high = both.bfloat16()
            low = (both - high.float()).bfloat16()
            _, listed = self.halves(edges)
            half = torch.cat([both[listed], both[listed + len(edges.j)]]).half()
            self._basis = half, torch.cat([high, low], 1)
        return self._basis

    def filters(self, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """W and S of every pair, each float16 [n_edges // 2, len(filters)]."""
        # The forward and the backward pass of a block meet the same filters: compute them once.
        if id(filters) not in self._filters:
            half, _ = self.basis(edges)
            weights = torch.nn.functional.pad(filters, (0, half.shape[1] - filters.shape[1]))
            W, S = (half @ weights.half().T).chunk(2)
            # Holding the weights themselves keeps their id theirs.
            self._filters[id(filters)] = (filters, W, S)
        return self._filters[id(filters)][1:]

    def filter_gradient(self, edges: Edges, g: Tensor, n_basis: int) -> Tensor:
        """Gradient of the filter weights [width, n_basis] from that of W, or of W above S."""
        _, parts = self.basis(edges)
        high, low = (g.T @ parts[: len(g)]).float().chunk(2, -1)
        return (high + low)[:, :n_basis]


def _gathered(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What neighbours read, in half as many bytes."""
    return tuple(None if x is None else x.half().contiguous() for x in tensors)


class _MessageFwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, edges, phi, mu, filters, W):
        n_atoms, n_features = len(phi), W.shape[1] // (2 if mu is None else 3)
        phi, mu = _gathered(phi, mu)
        dq = torch.empty(n_atoms, n_features, device=phi.device)
        dmu = torch.empty(n_atoms, 3, n_features, device=phi.device)
        row, source, pair, _ = pairs.places(edges, n_features)
        pairs.launch(
            _message_fwd_kernel,
            n_features,
            row,
            source,
            pair,
            edges.unit,
            W,
            phi,
            phi if mu is None else mu,
            dq,
            dmu,
            n_atoms,
            PARTS=2 if mu is None else 3,
        )
        ctx.pairs, ctx.edges, ctx.n_basis = pairs, edges, filters.shape[1]
        ctx.save_for_backward(phi, mu, W)
        return dq, dmu

    @staticmethod
    @once_differentiable
    def backward(ctx, g_dq, g_dmu):
        phi, mu, W = ctx.saved_tensors
        # A cotangent, whose size is that of the loss.
        g_dq, g_dmu = g_dq.bfloat16().contiguous(), g_dmu.bfloat16().contiguous()
        g_W = W.new_empty(len(ctx.edges.j), W.shape[1], dtype=torch.bfloat16)
        g_phi, g_mu, _ = _first(ctx.pairs, ctx.edges, g_dq, g_dmu, phi, mu, W, None, g_W)
        g_filters = ctx.pairs.filter_gradient(ctx.edges, g_W, ctx.n_basis)
        return None, None, g_phi, g_mu, g_filters, None


def _first(pairs, edges, g_dq, g_dmu, phi, mu, W, S, g_W):
    """Gradients of `message_fwd`: g_phi, g_mu, and, if S is given, [g_d, g_u] of the pairs.

    Where there is no mu there is no g_mu, and no g_phi beside the geometry's.
    """
    n_atoms, _, n_features = g_dmu.shape
    n_edges, device = len(edges.j), phi.device
    geometry, weights = S is not None, g_W is not None
    features = mu is not None or not geometry
    g_phi = torch.empty(phi.shape, device=device) if features else None
    g_mu = torch.empty(mu.shape, device=device) if mu is not None else None
    parts = n_features // min(TILES["_message_bwd_kernel"].block_f, n_features)
    g_geometry = torch.empty(parts, n_edges, 4, device=device) if geometry else None
    row, source, pair, _ = pairs.places(edges, n_features)
    pairs.launch(
        _message_bwd_kernel,
        n_features,
        row,
        source,
        pair,
        edges.unit,
        W,
        S if geometry else W,
        phi,
        phi if mu is None else mu,
        g_dq,
        g_dmu,
        phi if g_phi is None else g_phi,
        phi if g_mu is None else g_mu,
        phi if g_geometry is None else g_geometry,
        g_W if weights else W,
        n_atoms,
        n_edges,
        PARTS=2 if mu is None else 3,
        FEATURES=features,
        GEOMETRY=geometry,
        FILTERS=weights,
    )
    return g_phi, g_mu, None if g_geometry is None else g_geometry.sum(0)


class _MessageBwd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, edges, g_dq, g_dmu, phi, mu, filters, W, S):
        g_dq, g_dmu, phi, mu = _gathered(g_dq, g_dmu, phi, mu)
        g_phi, g_mu, g_geometry = _first(pairs, edges, g_dq, g_dmu, phi, mu, W, S, None)
        ctx.pairs, ctx.edges, ctx.n_basis = pairs, edges, filters.shape[1]
        ctx.save_for_backward(g_dq, g_dmu, phi, mu, W, S)
        g_d, g_u = g_geometry[:, 0].contiguous(), g_geometry[:, 1:].contiguous()
        return (g_d, g_u) if mu is None else (g_phi, g_mu, g_d, g_u)

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):
        g_dq, g_dmu, phi, mu, W, S = ctx.saved_tensors
        pairs, edges = ctx.pairs, ctx.edges
        n_atoms, _, n_features = g_dmu.shape
        n_edges, device = len(edges.j), W.device
        c_d, c_u = (c.contiguous() for c in cotangents[-2:])
        c_phi = c_mu = phi
        if mu is not None:
            c_phi, c_mu = (c.bfloat16().contiguous() for c in cotangents[:2])
        flags = {"PARTS": 2 if mu is None else 3}
        out_phi = torch.empty(phi.shape, device=device)
        out_mu = None if mu is None else torch.empty(mu.shape, device=device)
        out_a = torch.empty(g_dq.shape, device=device)
        out_b = torch.empty(g_dmu.shape, device=device)
        g_WS = torch.empty(2 * n_edges, W.shape[1], dtype=torch.bfloat16, device=device)
        row, source, pair, reverse = pairs.places(edges, n_features)
        pairs.launch(
            _second_centre_kernel,
            n_features,
            row,
            source,
            pair,
            edges.unit,
            W,
            S,
            phi,
            phi if mu is None else mu,
            g_dq,
            g_dmu,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_phi,
            out_phi if out_mu is None else out_mu,
            g_WS[:n_edges],
            g_WS[n_edges:],
            n_atoms,
            n_edges,
            **flags,
        )
        pairs.launch(
            _second_neighbour_kernel,
            n_features,
            row,
            source,
            pair,
            reverse,
            edges.unit,
            W,
            S,
            phi,
            phi if mu is None else mu,
            c_phi,
            c_mu,
            c_d,
            c_u,
            out_a,
            out_b,
            n_atoms,
            **flags,
        )
        g_filters = pairs.filter_gradient(edges, g_WS, ctx.n_basis)
        return None, None, out_a, out_b, out_phi, out_mu, g_filters, None, None


def reverse_rows(j: Tensor) -> Tensor:
    """Row of (j, i) for the row of every pair (i, j), int64 [n_edges].

    Args:
        j: Sources of a symmetric list, sorted by destination and then by source, int64 [n_edges].
    """
    # Rows are sorted by (i, j), so those of the swapped pairs are found by sorting by (j, i).
    order = torch.sort(j, stable=True).indices
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(j), device=j.device))


def triton_edge_ops(row: Tensor, reverse: Tensor) -> EdgeOps:
    """The operators for one pair list, differentiable by the weights, for `energy_and_forces`.

    Args:
        row: First row of each atom, and the end of the last, int64 [n_atoms + 1].
        reverse: As from `reverse_rows`.
    """
    pairs = _Pairs(row, reverse, N_PROGRAMS)

    def message_fwd(phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, _ = pairs.filters(edges, filters)
        return _MessageFwd.apply(pairs, edges, phi, mu, filters, W)

    def message_bwd(
        g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ):
        with torch.no_grad():
            W, S = pairs.filters(edges, filters)
        return _MessageBwd.apply(pairs, edges, g_dq, g_dmu, phi, mu, filters, W, S)

    def scalar_fwd(phi: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, _ = pairs.filters(edges, filters)
        return _MessageFwd.apply(pairs, edges, phi, None, filters, W)

    def scalar_bwd(g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor):
        with torch.no_grad():
            W, S = pairs.filters(edges, filters)
        return _MessageBwd.apply(pairs, edges, g_dq, g_dmu, phi, None, filters, W, S)

    return EdgeOps(message_fwd, message_bwd, scalar_fwd, scalar_bwd)
