# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The messages' backward.

Meaning: plain.message_bwd, the filter taken from `triton.spline`; the tiles are `message`'s.

The program of atom a meets its neighbours b as the destinations of a's messages: what phi_a and
mu_a get is then complete, and repeatable bit for bit: no two programs add to one number. What a
message gives to the positions of its two ends is four numbers, written or added to the pair's place
in a's row; what becomes of them and the sum over both ends is left to `readout.molecules`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.filters import FilterTable
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.message import column, gather, load_pair, most, over_pairs, places
from mlff_core.ops.triton.operand import new_operand, store_operand
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.spline import spline_weights
from mlff_core.ops.triton.tiles import launch_of
from mlff_core.ops.triton.update_bwd import g_a_mu_operand

#: Components of what a pair gives to the positions of its ends: a vector, of which the part across
#: the pair counts, divided by the distance, and the slope along it.
N_PULL = 4
#: Features that a warp has at four a thread.
_WARP = tl.constexpr(128)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


#: What `pull_of_one` does in a thread. Operands from 4 on: x2, gx, gy, gz, radial, the address and
#: the number of lanes that write, each of four features.
_SUMS_OF_ONE = """{{
    .reg .f32 x, y, z, r, t, s;
    .reg .pred odd, upper, writes;
    .reg .b32 lane, bit;
    .reg .b64 place;
    mul.f32 x, $4, $8;
    mul.f32 y, $4, $12;
    mul.f32 z, $4, $16;
    add.f32 r, $20, $21;
    fma.rn.f32 x, $5, $9, x;
    fma.rn.f32 y, $5, $13, y;
    fma.rn.f32 z, $5, $17, z;
    add.f32 t, $22, $23;
    fma.rn.f32 x, $6, $10, x;
    fma.rn.f32 y, $6, $14, y;
    fma.rn.f32 z, $6, $18, z;
    add.f32 r, r, t;
    fma.rn.f32 x, $7, $11, x;
    fma.rn.f32 y, $7, $15, y;
    fma.rn.f32 z, $7, $19, z;
    mov.u32 lane, %laneid;
    and.b32 bit, lane, 1;
    setp.ne.u32 odd, bit, 0;
    and.b32 bit, lane, 2;
    setp.ne.u32 upper, bit, 0;
    setp.lt.u32 writes, lane, $28;
    selp.f32 t, x, y, odd;
    selp.f32 x, y, x, odd;
    selp.f32 s, z, r, odd;
    selp.f32 z, r, z, odd;
    shfl.sync.bfly.b32 t, t, 1, 31, -1;
    shfl.sync.bfly.b32 s, s, 1, 31, -1;
    add.f32 x, x, t;
    add.f32 z, z, s;
    selp.f32 t, x, z, upper;
    selp.f32 x, z, x, upper;
    shfl.sync.bfly.b32 t, t, 2, 31, -1;
    add.f32 x, x, t;
    shfl.sync.bfly.b32 t, x, 4, 31, -1;
    add.f32 x, x, t;
    shfl.sync.bfly.b32 t, x, 8, 31, -1;
    add.f32 x, x, t;
    shfl.sync.bfly.b32 t, x, 16, 31, -1;
    add.f32 x, x, t;
    mul.wide.u32 place, lane, 4;
    add.s64 place, place, $24;
    @writes {write} [place], x;
    mov.b32 $0, 0;
    mov.b32 $1, 0;
    mov.b32 $2, 0;
    mov.b32 $3, 0;
    }}"""
_ADD_UP = tl.constexpr(_SUMS_OF_ONE.format(write="red.global.add.f32"))
_PUT_DOWN = tl.constexpr(_SUMS_OF_ONE.format(write="st.global.f32"))


@triton.jit
def filter_and_slope_tile(knot, weights, slopes, DEGREE: tl.constexpr, ROW: tl.constexpr):
    """`message.filter_tile`, and its slope per distance of two knots [n, BLOCK_F]."""
    row = tl.load(knot)
    W = row * column(weights[0])
    slope = row * column(slopes[0])
    for m in tl.static_range(1, DEGREE + 1):
        row = tl.load(knot + m * ROW)
        W += row * column(weights[m])
        slope += row * column(slopes[m])
    return W, slope


@triton.jit
def over_features(x, listed):
    """Sum over the features [n], or of a pair alone a number."""
    if len(listed.shape) == 0:
        return tl.sum(x)
    else:
        return tl.sum(x, 1)


@triton.jit
def add_or_store(x_ptr, x, mask, ADD: tl.constexpr):
    """Leave x, or add it to what is there; nobody else adds to it meanwhile."""
    if ADD:
        tl.atomic_add(x_ptr, x, mask=mask, sem="relaxed")
    else:
        tl.store(x_ptr, x, mask=mask)


@triton.jit
def pull_of_one(pull, x2, gx, gy, gz, radial, writers, ADD: tl.constexpr):
    """Leave or add the sums over the features of x2 gx, x2 gy, x2 gz and radial, a pair a warp.

    The features are those of a warp, four a thread. In the first two rounds each lane hands on half
    of the sums that it has and keeps the other half, so that four sums take six exchanges instead
    of twenty; lane c of the first four ends with sum c, and writes it if less than writers.
    """
    tl.inline_asm_elementwise(
        _ADD_UP if ADD else _PUT_DOWN,
        "=r,=r,=r,=r,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,f,l,l,l,l,r,r,r,r",
        [x2, gx, gy, gz, radial, pull.to(tl.int64), writers],
        dtype=tl.int32,
        is_pure=False,
        pack=4,
    )


@triton.jit(do_not_specialize=["n_atoms"])
def message_bwd_kernel(
    g_q_ptr,  # [n_atoms, n_features]
    g_mu_ptr,  # [n_atoms, 3, n_features]
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
    WARPS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * ATOMS, end_ptr, OVERLAP):
        return
    PHI: tl.constexpr = 3 * N_FEATURES if HAS_MU else 2 * N_FEATURES
    ROW: tl.constexpr = 3 * N_FEATURES
    N_SLICES: tl.constexpr = N_FEATURES // BLOCK_F
    # With one atom the compiler lays each pair in a warp; see test_compiled.py.
    IN_A_WARP: tl.constexpr = ATOMS == 1 and SPLIT % WARPS == 0 and BLOCK_F == _WARP
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    atom, first = places(ATOMS, SPLIT)
    count = tl.load(count_ptr + atom, mask=atom < n_atoms, other=0) - first
    own = tl.minimum(atom, n_atoms - 1)
    row = own.to(tl.int64) * stride + first
    said = own.to(tl.int64) if HAS_MU else tl.load(kind_ptr + own).to(tl.int64)
    phi = phi_ptr + column(said) * PHI + f
    phi1 = tl.load(phi)
    phi2 = tl.load(phi + N_FEATURES)
    if HAS_MU:
        phi3 = tl.load(phi + 2 * N_FEATURES)
        mu = mu_ptr + column(own.to(tl.int64)) * (3 * N_FEATURES) + f
        mx = tl.load(mu) * phi3
        my = tl.load(mu + N_FEATURES) * phi3
        mz = tl.load(mu + 2 * N_FEATURES) * phi3
        g_phi1 = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        g_phi2 = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        # Gradient of phi3 mu: times phi3 that of mu, times mu that of phi3, which wait to the end.
        hx = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        hy = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
        hz = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    b, ux, uy, uz, d = load_pair(
        j_ptr, geometry_ptr, row, first < stride, count > 0, own, N_GEOMETRY
    )
    for e in range(0, most(count), SPLIT):
        next_listed = e + SPLIT < count
        next_b, next_ux, next_uy, next_uz, next_d = load_pair(
            j_ptr, geometry_ptr, row + e + SPLIT, next_listed, next_listed, own, N_GEOMETRY
        )
        listed = e < count
        x = d * inverse_knot
        interval = tl.minimum(tl.floor(x), n_intervals - 1.0)
        weights, slopes = spline_weights(x - interval, DEGREE)
        knot = table_ptr + column(interval.to(tl.int32)) * ROW + f
        g_q = gather(g_q_ptr + column(b) * N_FEATURES + f, listed)
        g_mu = g_mu_ptr + column(b) * (3 * N_FEATURES) + f
        gx = gather(g_mu, listed)
        gy = gather(g_mu + N_FEATURES, listed)
        gz = gather(g_mu + 2 * N_FEATURES, listed)
        # The unit vector of the message, from its destination b to its source, is -u.
        W, slope = filter_and_slope_tile(knot, weights, slopes, DEGREE, ROW)
        radial = phi1 * g_q * slope
        if HAS_MU:
            g_phi1 += g_q * W
        along = gx * column(ux) + gy * column(uy) + gz * column(uz)
        W, slope = filter_and_slope_tile(knot + N_FEATURES, weights, slopes, DEGREE, ROW)
        radial -= phi2 * along * slope
        x2 = phi2 * W
        if HAS_MU:
            g_phi2 -= along * W
            inner = gx * mx + gy * my + gz * mz
            W, slope = filter_and_slope_tile(knot + 2 * N_FEATURES, weights, slopes, DEGREE, ROW)
            radial += inner * slope
            hx += W * gx
            hy += W * gy
            hz += W * gz
        # What dE/dd and dE/d(-u) are made of; see docs/theory.md and `readout.molecules`.
        pull = pull_ptr + ((row + e) * N_SLICES + tl.program_id(1)) * N_PULL
        if IN_A_WARP and not _INTERPRETED:
            writers = tl.where(listed, N_PULL, 0)
            pull_of_one(column(pull), x2, gx, gy, gz, radial * inverse_knot, column(writers), ADD)
        else:
            add_or_store(pull, over_features(x2 * gx, listed), listed, ADD)
            add_or_store(pull + 1, over_features(x2 * gy, listed), listed, ADD)
            add_or_store(pull + 2, over_features(x2 * gz, listed), listed, ADD)
            add_or_store(pull + 3, over_features(radial, listed) * inverse_knot, listed, ADD)
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
        wide = atom.to(tl.int64)[:, None]
        phi3 = tl.load(phi_ptr + wide * PHI + 2 * N_FEATURES + f, mask=real, other=0.0)
        vector = wide * (3 * N_FEATURES) + f
        hx = over_pairs(hx, ATOMS, SPLIT, BLOCK_F)
        hy = over_pairs(hy, ATOMS, SPLIT, BLOCK_F)
        hz = over_pairs(hz, ATOMS, SPLIT, BLOCK_F)
        g_phi3 = hx * tl.load(mu_ptr + vector, mask=real, other=0.0)
        g_phi3 += hy * tl.load(mu_ptr + vector + N_FEATURES, mask=real, other=0.0)
        g_phi3 += hz * tl.load(mu_ptr + vector + 2 * N_FEATURES, mask=real, other=0.0)
        store_operand(g_phi + 2 * N_FEATURES, g_phi3, real, PHI, OPERAND)
        x = tl.load(g_mu_ptr + vector, mask=real, other=0.0) + phi3 * hx
        tl.store(g_mu_out_ptr + vector, x, mask=real)
        vector += N_FEATURES
        y = tl.load(g_mu_ptr + vector, mask=real, other=0.0) + phi3 * hy
        tl.store(g_mu_out_ptr + vector, y, mask=real)
        vector += N_FEATURES
        z = tl.load(g_mu_ptr + vector, mask=real, other=0.0) + phi3 * hz
        tl.store(g_mu_out_ptr + vector, z, mask=real)
        if PRODUCTS != "":
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
            dE/d(x_a - x_b), eV/Å, in the pair's place of a's row, a slice of the features each, as
            `readout.molecules` puts it together: dE/d(-u) in eV and dE/dd in eV/Å.
        add: Add to pull rather than overwrite it.
        precision: How products are computed that take dE/dphi.
        uv: What the update block before has kept [n_atoms, 3, 2 n_features].
        g_a_mu: From `operand.new_operand`; written: what `update_bwd.gradient_in_a_mu` makes of
            uv and dE/dmu, which are at hand here.
        products: How those are computed that take it.

    Returns:
        dE/dphi as an operand of 3 n_features columns, and dE/dmu [n_atoms, 3, n_features].
    """
    n_atoms, n_features = g_q.shape
    gradients = None
    if mu is not None:
        g_phi = new_operand(n_atoms, 3 * n_features, precision, g_q.device)
        gradients = g_phi, torch.empty_like(g_mu)
    launch = launch_of("message_bwd", n_atoms, n_features)
    n_slices = pull.shape[2]
    message_bwd_kernel[(triton.cdiv(n_atoms, launch.atoms), n_slices)](
        g_q,
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
        WARPS=launch.warps,
        **launch.options,
        **overlap(n_atoms),
    )
    return gradients
