# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The kernels of messages and of their derivative, for training.

Meaning and names: `message_twice`.
"""

import triton
import triton.language as tl


@triton.jit
def pair_vector(x, e, inside):
    """A vector of each pair [n, 1], from what lists three components a pair; 0 where none is."""
    return (
        tl.load(x + e * 3, mask=inside, other=0.0)[:, None],
        tl.load(x + e * 3 + 1, mask=inside, other=0.0)[:, None],
        tl.load(x + e * 3 + 2, mask=inside, other=0.0)[:, None],
    )


@triton.jit
def pair_rows(source, pair, first, end, BLOCK_E: tl.constexpr):
    """Rows of a list that begin with `first`, which of them come before `end`, their sources, and
    where their pairs' filters are; the last two stand upright, beside features."""
    e = first + tl.arange(0, BLOCK_E)
    inside = e < end
    n = tl.load(source + e, mask=inside, other=0)
    r = tl.load(pair + e, mask=inside, other=0)
    return e, inside, n[:, None], r[:, None]


@triton.jit
def vector_features(x, F: tl.constexpr):
    """The components of vector features, of whatever shape the places of the first have."""
    return (
        tl.load(x).to(tl.float32),
        tl.load(x + F).to(tl.float32),
        tl.load(x + 2 * F).to(tl.float32),
    )


@triton.jit
def twice_fwd_kernel(
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
            e, inside, n, r = pair_rows(source, pair, first, end, BLOCK_E)
            here = inside[:, None]
            ux, uy, uz = pair_vector(unit, e, inside)
            # Rows beyond the end have zero filters, and add nothing.
            at_w = r * (PARTS * F) + f[None, :]
            at_p = n * (PARTS * F) + f[None, :]
            w1 = tl.load(W + at_w, mask=here, other=0.0).to(tl.float32)
            w2 = tl.load(W + at_w + F, mask=here, other=0.0).to(tl.float32)
            acc_q += tl.load(phi + at_p).to(tl.float32) * w1
            x2 = tl.load(phi + at_p + F).to(tl.float32) * w2
            acc_x += x2 * ux
            acc_y += x2 * uy
            acc_z += x2 * uz
            if PARTS == 3:
                at_n = n * (3 * F) + f[None, :]
                w3 = tl.load(W + at_w + 2 * F, mask=here, other=0.0).to(tl.float32)
                x3 = tl.load(phi + at_p + 2 * F).to(tl.float32) * w3
                mx, my, mz = vector_features(mu + at_n, F)
                acc_x += x3 * mx
                acc_y += x3 * my
                acc_z += x3 * mz
        tl.store(dq + centre * F + f, tl.sum(acc_q, 0))
        tl.store(dmu + centre * (3 * F) + f, tl.sum(acc_x, 0))
        tl.store(dmu + centre * (3 * F) + F + f, tl.sum(acc_y, 0))
        tl.store(dmu + centre * (3 * F) + 2 * F + f, tl.sum(acc_z, 0))


@triton.jit
def twice_bwd_kernel(
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
            mx, my, mz = vector_features((mu + at_c)[None, :], F)
            acc_3 = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_x = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_y = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
            acc_z = tl.zeros((BLOCK_E, BLOCK_F), tl.float32)
        for first in range(start, end, BLOCK_E):
            e, inside, n, r = pair_rows(source, pair, first, end, BLOCK_E)
            here = inside[:, None]
            ux, uy, uz = pair_vector(unit, e, inside)
            at_w = r * (PARTS * F) + f[None, :]
            at_n = n * (3 * F) + f[None, :]
            a = tl.load(g_dq + n * F + f[None, :]).to(tl.float32)
            bx, by, bz = vector_features(g_dmu + at_n, F)
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
