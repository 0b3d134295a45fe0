# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The kernels of the derivative of `message_bwd`, for training.

Meaning and names: `message_twice`.
"""

import triton
import triton.language as tl

from mlff_core.ops.triton.message_twice_first import pair_rows, pair_vector, vector_features


@triton.jit
def twice_centre_kernel(
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
            mx, my, mz = vector_features((mu + at_c)[None, :], F)
            P1 = tl.load(c_phi + at_c).to(tl.float32)[None, :]
            P2 = tl.load(c_phi + at_c + F).to(tl.float32)[None, :]
            P3 = tl.load(c_phi + at_c + 2 * F).to(tl.float32)[None, :]
            Mx, My, Mz = vector_features((c_mu + at_c)[None, :], F)
            acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e, inside, n, r = pair_rows(source, pair, first, end, BLOCK_E)
            here = inside[:, None]
            D = tl.load(c_d + e, mask=inside, other=0.0)[:, None]
            at_w = r * (PARTS * F) + f[None, :]
            at_g = e[:, None] * (PARTS * F) + f[None, :]
            a = tl.load(g_dq + n * F + f[None, :]).to(tl.float32)
            # D only ever meets the slope, so the product of the two stands in for it.
            s1 = tl.load(S + at_w, mask=here, other=0.0).to(tl.float32) * D
            acc_1 += a * s1
            if PARTS == 3:
                tl.store(g_W + at_g, (a * P1).to(tl.bfloat16), mask=here)
            else:
                tl.store(g_W + at_g, nothing, mask=here)
            tl.store(g_S + at_g, (a * p1 * D).to(tl.bfloat16), mask=here)
            ux, uy, uz = pair_vector(unit, e, inside)
            Vx, Vy, Vz = pair_vector(c_u, e, inside)
            at_n = n * (3 * F) + f[None, :]
            bx, by, bz = vector_features(g_dmu + at_n, F)
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
def twice_neighbour_kernel(
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
            e, inside, c, r = pair_rows(source, pair, first, end, BLOCK_E)
            here = inside[:, None]
            back = tl.load(reverse + e, mask=inside, other=0)
            D = tl.load(c_d + back, mask=inside, other=0.0)[:, None]
            at_w = r * (PARTS * F) + f[None, :]
            at_p = c * (PARTS * F) + f[None, :]
            at_n = c * (3 * F) + f[None, :]
            s1 = tl.load(S + at_w, mask=here, other=0.0).to(tl.float32) * D
            acc_a += tl.load(phi + at_p).to(tl.float32) * s1
            ux, uy, uz = pair_vector(unit, e, inside)
            Vx, Vy, Vz = pair_vector(c_u, back, inside)
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
                mx, my, mz = vector_features(mu + at_n, F)
                Mx, My, Mz = vector_features(c_mu + at_n, F)
                acc_x += t3 * mx + x3 * Mx
                acc_y += t3 * my + x3 * My
                acc_z += t3 * mz + x3 * Mz
        tl.store(out_a + atom * F + f, tl.sum(acc_a, 0))
        tl.store(out_b + atom * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(out_b + atom * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(out_b + atom * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))
