# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The messages' backward.

Meaning: plain.message_bwd, the filter taken from `triton.spline`; the tiles are `message`'s.

The program of atom a meets its neighbours b as the destinations of a's messages: what phi_a and
mu_a get is then complete, without atomics, and repeatable bit for bit. What a message gives to the
positions of its two ends is one vector, written to the pair's place in a's row; the sum over both
ends is left to `readout.molecules`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.filters import FilterTable
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.linear import new_operand, store_operand
from mlff_core.ops.triton.message import gather, load_pair, over_pairs
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.spline import spline_weights
from mlff_core.ops.triton.tiles import launch_of
from mlff_core.ops.triton.update_bwd import g_a_mu_operand

#: Components of what a pair gives to the positions of its ends.
N_PULL = 3


@triton.jit
def filter_and_slope_tile(knot, weights, slopes, DEGREE: tl.constexpr, ROW: tl.constexpr):
    """`message.filter_tile`, and its slope per distance of two knots [n, BLOCK_F]."""
    row = tl.load(knot)
    W = row * weights[0][:, None]
    slope = row * slopes[0][:, None]
    for m in tl.static_range(1, DEGREE + 1):
        row = tl.load(knot + m * ROW)
        W += row * weights[m][:, None]
        slope += row * slopes[m][:, None]
    return W, slope


@triton.jit(do_not_specialize=["n_atoms"])
def message_bwd_kernel(
    g_q_ptr,  # as gathered [n_atoms, n_features]
    g_mu_ptr,  # as gathered [n_atoms, 3, n_features]
    own_g_mu_ptr,  # as added to [n_atoms, 3, n_features], unused without HAS_MU
    phi_ptr,  # [n_atoms, 3 n_features]; without HAS_MU [n_kinds, 2 n_features]
    mu_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    table_ptr,  # [n_knots, 3 n_features]
    kind_ptr,  # int32 [n_atoms]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    end_ptr,  # int32 [1]
    pull_ptr,  # [n_atoms, stride, n_features / BLOCK_F, N_PULL], added to with ADD
    g_phi_ptr,  # operand [n_atoms, n_pieces, 3 n_features], unused without HAS_MU
    g_mu_out_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    uv_ptr,  # of the update block before [n_atoms, 3, 2 n_features], unused without PRODUCTS
    g_a_mu_ptr,  # operand [n_atoms, n_pieces, n_features], unused without PRODUCTS
    n_atoms,
    stride,  # of a row
    inverse_knot,  # 1 / distance of two knots
    n_intervals,
    N_FEATURES: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    N_PULL: tl.constexpr,
    DEGREE: tl.constexpr,
    HAS_MU: tl.constexpr,
    PRODUCTS: tl.constexpr,  # precision of those that take g_a_mu, or ""
    OPERAND: tl.constexpr,  # of those that take g_phi
    ADD: tl.constexpr,
    ATOMS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_F: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * ATOMS, end_ptr, OVERLAP):
        return
    PHI: tl.constexpr = 3 * N_FEATURES if HAS_MU else 2 * N_FEATURES
    ROW: tl.constexpr = 3 * N_FEATURES
    N_SLICES: tl.constexpr = N_FEATURES // BLOCK_F
    ALL_LISTED: tl.constexpr = ATOMS * SPLIT == 1
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    lane = tl.arange(0, ATOMS * SPLIT)
    atom = tl.program_id(0) * ATOMS + lane // SPLIT
    count = tl.load(count_ptr + atom, mask=atom < n_atoms, other=0) - lane % SPLIT
    own = tl.minimum(atom, n_atoms - 1)
    row = own.to(tl.int64) * stride + lane % SPLIT
    said = own.to(tl.int64) if HAS_MU else tl.load(kind_ptr + own).to(tl.int64)
    phi = phi_ptr + said[:, None] * PHI + f
    phi1 = tl.load(phi).to(tl.float32)
    phi2 = tl.load(phi + N_FEATURES).to(tl.float32)
    if HAS_MU:
        phi3 = tl.load(phi + 2 * N_FEATURES).to(tl.float32)
        mu = mu_ptr + own.to(tl.int64)[:, None] * (3 * N_FEATURES) + f
        mx = tl.load(mu)
        my = tl.load(mu + N_FEATURES)
        mz = tl.load(mu + 2 * N_FEATURES)
        g_phi1 = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        g_phi2 = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        g_phi3 = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        # Gradient of mu, all of it times phi3, which waits to the end.
        hx = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        hy = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        hz = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    b, ux, uy, uz, d = load_pair(
        j_ptr, geometry_ptr, row, lane % SPLIT < stride, count > 0, own, N_GEOMETRY
    )
    for e in range(0, tl.max(count, 0), SPLIT):
        next_listed = e + SPLIT < count
        next_b, next_ux, next_uy, next_uz, next_d = load_pair(
            j_ptr, geometry_ptr, row + e + SPLIT, next_listed, next_listed, own, N_GEOMETRY
        )
        listed = e < count
        x = d * inverse_knot
        interval = tl.minimum(tl.floor(x), n_intervals - 1.0)
        weights, slopes = spline_weights(x - interval, DEGREE)
        knot = table_ptr + interval.to(tl.int32)[:, None] * ROW + f
        g_q = gather(g_q_ptr + b[:, None] * N_FEATURES + f, listed[:, None], ALL_LISTED)
        g_mu = g_mu_ptr + b[:, None] * (3 * N_FEATURES) + f
        gx = gather(g_mu, listed[:, None], ALL_LISTED)
        gy = gather(g_mu + N_FEATURES, listed[:, None], ALL_LISTED)
        gz = gather(g_mu + 2 * N_FEATURES, listed[:, None], ALL_LISTED)
        # The unit vector of the message, from its destination b to its source, is -u.
        W, slope = filter_and_slope_tile(knot, weights, slopes, DEGREE, ROW)
        radial = phi1 * g_q * slope
        if HAS_MU:
            g_phi1 += g_q * W
        along = gx * ux[:, None] + gy * uy[:, None] + gz * uz[:, None]
        W, slope = filter_and_slope_tile(knot + N_FEATURES, weights, slopes, DEGREE, ROW)
        radial -= phi2 * along * slope
        x2 = phi2 * W
        if HAS_MU:
            g_phi2 -= along * W
            inner = gx * mx + gy * my + gz * mz
            W, slope = filter_and_slope_tile(knot + 2 * N_FEATURES, weights, slopes, DEGREE, ROW)
            radial += phi3 * inner * slope
            g_phi3 += inner * W
            hx += W * gx
            hy += W * gy
            hz += W * gz
        # dE/d(x_a - x_b) from dE/dd and dE/d(-u); see docs/theory.md.
        inverse = 1.0 / d
        px = tl.sum(x2 * gx, 1) * inverse
        py = tl.sum(x2 * gy, 1) * inverse
        pz = tl.sum(x2 * gz, 1) * inverse
        outward = tl.sum(radial, 1) * inverse_knot + px * ux + py * uy + pz * uz
        px -= outward * ux
        py -= outward * uy
        pz -= outward * uz
        pull = pull_ptr + ((row + e) * N_SLICES + tl.program_id(1)) * N_PULL
        if ADD:
            px += tl.load(pull, mask=listed, other=0.0)
            py += tl.load(pull + 1, mask=listed, other=0.0)
            pz += tl.load(pull + 2, mask=listed, other=0.0)
        tl.store(pull, px, mask=listed)
        tl.store(pull + 1, py, mask=listed)
        tl.store(pull + 2, pz, mask=listed)
        b, ux, uy, uz, d = next_b, next_ux, next_uy, next_uz, next_d
    let_next_begin(OVERLAP)
    if HAS_MU:
        atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
        real = atom[:, None] < n_atoms
        PIECES: tl.constexpr = 1 if OPERAND == "fp16" else 2
        g_phi = g_phi_ptr + atom.to(tl.int64)[:, None] * (PIECES * PHI) + f
        g_phi1 = over_pairs(g_phi1, ATOMS, SPLIT, BLOCK_F)
        store_operand(g_phi, g_phi1, real, PHI, OPERAND)
        g_phi2 = over_pairs(g_phi2, ATOMS, SPLIT, BLOCK_F)
        store_operand(g_phi + N_FEATURES, g_phi2, real, PHI, OPERAND)
        g_phi3 = over_pairs(g_phi3, ATOMS, SPLIT, BLOCK_F)
        store_operand(g_phi + 2 * N_FEATURES, g_phi3, real, PHI, OPERAND)
        told = atom.to(tl.int64)[:, None] * PHI + 2 * N_FEATURES + f
        phi3 = tl.load(phi_ptr + told, mask=real, other=0.0).to(tl.float32)
        vector = atom.to(tl.int64)[:, None] * (3 * N_FEATURES) + f
        x = tl.load(own_g_mu_ptr + vector, mask=real, other=0.0)
        x += phi3 * over_pairs(hx, ATOMS, SPLIT, BLOCK_F)
        tl.store(g_mu_out_ptr + vector, x, mask=real)
        vector += N_FEATURES
        y = tl.load(own_g_mu_ptr + vector, mask=real, other=0.0)
        y += phi3 * over_pairs(hy, ATOMS, SPLIT, BLOCK_F)
        tl.store(g_mu_out_ptr + vector, y, mask=real)
        vector += N_FEATURES
        z = tl.load(own_g_mu_ptr + vector, mask=real, other=0.0)
        z += phi3 * over_pairs(hz, ATOMS, SPLIT, BLOCK_F)
        tl.store(g_mu_out_ptr + vector, z, mask=real)
        if PRODUCTS != "":
            wide = atom.to(tl.int64)[:, None]
            g_a_mu_operand(g_a_mu_ptr, x, y, z, uv_ptr, wide, f, real, N_FEATURES, PRODUCTS)


def new_pull(rows: PairRows, n_features: int) -> Tensor:
    """Memory for what `message_bwd` writes [n_atoms, stride, n_slices, N_PULL]."""
    n_atoms, stride = rows.j.shape
    n_slices = n_features // launch_of("message_bwd", n_atoms, n_features).features
    return rows.geometry.new_empty(n_atoms, stride, n_slices, N_PULL)


def message_bwd(
    g_q: Tensor,
    g_mu: Tensor,
    phi: Tensor,
    mu: Tensor | None,
    rows: PairRows,
    table: FilterTable,
    pull: Tensor,
    *,
    add: bool,
    precision: str,
    gathered: tuple[Tensor, Tensor] | None = None,
    uv: Tensor | None = None,
    g_a_mu: Tensor | None = None,
    products: str = "",
) -> tuple[Tensor, Tensor] | None:
    """Gradients with respect to phi and mu, None where there is no mu, and with respect to pairs.

    Args:
        g_q: dE/d(q + dq) [n_atoms, n_features].
        g_mu: dE/d(mu + dmu) [n_atoms, 3, n_features].
        phi: As in `message_fwd`.
        mu: As in `message_fwd`.
        rows: As in `message_fwd`.
        table: As in `message_fwd`.
        pull: From `new_pull`; written: what the message from atom a to its neighbour b gives to
            dE/d(x_a - x_b), eV/Å, in the pair's place of a's row, a slice of the features each.
        add: Add to pull rather than overwrite it.
        precision: How products are computed that take dE/dphi.
        gathered: g_q and g_mu as neighbours read them, in a shorter type; None: as they are.
        uv: What the update block before has kept [n_atoms, 3, 2 n_features].
        g_a_mu: From `linear.new_operand`; written: what `update_bwd.gradient_in_a_mu` makes of
            uv and dE/dmu, which are at hand here.
        products: How those are computed that take it.

    Returns:
        dE/dphi as an operand of 3 n_features columns, and dE/dmu [n_atoms, 3, n_features].
    """
    n_atoms, n_features = g_q.shape
    gradients = None
    if mu is not None:
        g_phi = new_operand(n_atoms, 3 * n_features, precision, g_q.device)
        gradients = g_phi, torch.empty_like(mu)
    read_q, read_mu = gathered or (g_q, g_mu)
    launch = launch_of("message_bwd", n_atoms, n_features)
    n_slices = pull.shape[2]
    message_bwd_kernel[(triton.cdiv(n_atoms, launch.atoms), n_slices)](
        read_q,
        read_mu,
        g_mu,
        phi,
        phi if mu is None else mu,
        table.rows,
        rows.kind,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        rows.end,
        pull,
        phi if gradients is None else gradients[0],
        phi if gradients is None else gradients[1],
        phi if uv is None else uv,
        phi if g_a_mu is None else g_a_mu,
        n_atoms,
        rows.j.shape[1],
        table.inverse_knot,
        table.n_intervals,
        N_FEATURES=n_features,
        N_GEOMETRY=N_GEOMETRY,
        N_PULL=N_PULL,
        DEGREE=table.degree,
        HAS_MU=mu is not None,
        PRODUCTS="" if g_a_mu is None else products,
        OPERAND=precision,
        ADD=add,
        BLOCK_F=n_features // n_slices,
        **launch.options,
        **overlap(n_atoms),
    )
    return gradients
