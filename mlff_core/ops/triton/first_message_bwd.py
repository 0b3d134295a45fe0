# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The way back of the first block's messages as products of matrices; see first_message.py.

Meaning: `message_bwd.message_bwd` without vectors, where nothing but the geometry gets a gradient.
With p_i[z, k] and r_i[z, k] the gradients in s_i and t_i, products of those in q and mu with the
transposed weights, the message from j of element z to i gives to the vector from i to j

    (Σ_k b'_k (p + r·unit)) unit + Σ_k b_k (r - (r·unit) unit) / d.
"""

import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.triton.first_message import CHUNK, COLUMNS, PAIRS, FirstWeights
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.message import load_pair
from mlff_core.ops.triton.message_bwd import N_PULL, add_or_store, filter_and_slope_tile
from mlff_core.ops.triton.operand import load_weights, product, split
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.spline import spline_weights
from mlff_core.ops.triton.tiles import piece_grid, tile_options

_CHUNK = tl.constexpr(CHUNK)


@triton.jit(
    do_not_specialize=["n_rows"], repr=lambda call: f"to_elements_{call.constants['ATOM_ROWS']}"
)
def to_elements_kernel(
    x_ptr,  # [n_rows, N_IN]
    w_ptr,  # [n_charges, 2, 2, N_OUT, N_IN], the first or the second of the second axis
    kind_ptr,  # int32 [n_atoms]
    reach_ptr,  # int32 [n_atoms]
    end_ptr,  # int32 [1]
    y_ptr,  # [n_rows, N_OUT]
    n_rows,
    n_charges,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    ATOM_ROWS: tl.constexpr,  # of an atom, side by side
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    PIECE: tl.constexpr = N_OUT * N_IN
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows < n_rows
    wide = rows.to(tl.int64)[:, None]
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M // ATOM_ROWS, end_ptr, OVERLAP):
        return
    charge = tl.load(kind_ptr + rows // ATOM_ROWS, mask=real, other=0) % n_charges
    reach = tl.load(reach_ptr + rows // ATOM_ROWS, mask=real, other=0)
    wanted = real & (rows // ATOM_ROWS < tl.load(end_ptr))
    wanted = wanted & (tl.program_id(0) * BLOCK_N < reach * _CHUNK)
    first = tl.min(tl.where(wanted, charge, n_charges), 0)
    last = tl.max(tl.where(wanted, charge, -1), 0)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for c in range(first, last + 1):
        mine = wanted & (charge == c)
        w_c = w_ptr + c * (4 * PIECE)
        for start in range(0, tl.max(tl.where(mine, N_IN, 0), 0), BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_ptr + wide * N_IN + k[None, :], mask=mine[:, None], other=0.0)
            w = load_weights(w_c, n, k, N_IN, PIECE)
            acc = product(split(x, PRECISION), w, acc, PRECISION)
    let_next_begin(OVERLAP)
    tl.store(y_ptr + wide * N_OUT + n[None, :], acc, mask=wanted[:, None])


@triton.jit(do_not_specialize=["n_atoms"])
def element_pull_kernel(
    p_ptr,  # [n_atoms, N_COLUMNS]
    r_ptr,  # [n_atoms, 3, N_COLUMNS]
    kind_ptr,  # int32 [n_atoms]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    place_ptr,  # int32 [n_elements]
    table_ptr,  # [n_knots, COLUMNS]
    end_ptr,  # int32 [1]
    pull_ptr,  # [n_atoms, stride, N_SLICES, N_PULL], the first slice is added to with ADD
    n_atoms,
    stride,
    n_charges,
    inverse_knot,
    n_intervals,
    N_COLUMNS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAIRS: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    N_PULL: tl.constexpr,
    N_SLICES: tl.constexpr,
    DEGREE: tl.constexpr,
    ADD: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0), end_ptr, OVERLAP):
        return
    atom = tl.program_id(0)
    own = atom.to(tl.int64)
    count = tl.load(count_ptr + atom)
    row = own * stride
    lane = tl.arange(0, PAIRS)
    k = tl.arange(0, COLUMNS)[None, :]
    for start in range(0, count, PAIRS):
        e = start + lane
        listed = e < count
        b, ux, uy, uz, d = load_pair(j_ptr, geometry_ptr, row + e, listed, listed, own, N_GEOMETRY)
        column = tl.load(place_ptr + tl.load(kind_ptr + b) // n_charges) * COLUMNS
        x = d * inverse_knot
        interval = tl.minimum(tl.floor(x), n_intervals - 1.0)
        weights, slopes = spline_weights(x - interval, DEGREE)
        knot = table_ptr + interval.to(tl.int32)[:, None] * COLUMNS + k
        W, slope = filter_and_slope_tile(knot, weights, slopes, DEGREE, COLUMNS)
        at = column[:, None] + k
        there = listed[:, None]
        r = r_ptr + own * (3 * N_COLUMNS) + at
        rx = tl.load(r, mask=there, other=0.0)
        ry = tl.load(r + N_COLUMNS, mask=there, other=0.0)
        rz = tl.load(r + 2 * N_COLUMNS, mask=there, other=0.0)
        radial = tl.load(p_ptr + own * N_COLUMNS + at, mask=there, other=0.0)
        radial += rx * ux[:, None] + ry * uy[:, None] + rz * uz[:, None]
        # To x_i - x_j, which is the vector from i to j the other way round.
        pull = pull_ptr + (row + e) * (N_SLICES * N_PULL)
        add_or_store(pull, -tl.sum(rx * W, 1), listed, ADD)
        add_or_store(pull + 1, -tl.sum(ry * W, 1), listed, ADD)
        add_or_store(pull + 2, -tl.sum(rz * W, 1), listed, ADD)
        add_or_store(pull + 3, tl.sum(radial * slope, 1) * inverse_knot, listed, ADD)
        if not ADD:
            for c in tl.static_range(N_PULL, N_SLICES * N_PULL):
                tl.store(pull + c, tl.zeros([PAIRS], tl.float32), mask=listed)


def first_message_bwd(
    g_q: Tensor,
    g_mu: Tensor,
    rows: PairRows,
    weights: FirstWeights,
    reach: Tensor,
    pull: Tensor,
    *,
    add: bool,
) -> None:
    """What the pairs get of the gradients in what `first_message.first_message_fwd` gave.

    Args:
        g_q: [n_atoms, n_features].
        g_mu: [n_atoms, 3, n_features].
        rows: The pairs.
        weights: Of the first block.
        reach: From the forward.
        pull: As in `message_bwd.message_bwd`, but that a message is listed in the row of the atom
            that gets it, which is all the same to the sum over both rows.
        add: Add to pull rather than overwrite it.
    """
    n_atoms, n_features = g_q.shape
    precision, n_columns = weights.precision[1], weights.n_columns
    p, r = g_q.new_empty(n_atoms, n_columns), g_q.new_empty(n_atoms, 3, n_columns)
    for which, (x, y) in enumerate(((g_q, p), (g_mu.view(-1, n_features), r))):
        n_rows = len(x)
        sizes = tile_options("linear_1x1", precision, n_rows, n_features, n_columns, n_features)
        to_elements_kernel[piece_grid(n_rows, n_columns, sizes)](
            x,
            weights.w_t[:, which],
            rows.kind,
            reach,
            rows.end,
            y,
            n_rows,
            weights.n_charges,
            N_IN=n_features,
            N_OUT=n_columns,
            ATOM_ROWS=n_rows // n_atoms,
            PRECISION=precision,
            **sizes,
            **overlap(n_atoms),
        )
    element_pull_kernel[(n_atoms,)](
        p,
        r,
        rows.kind,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        weights.place,
        weights.basis.rows,
        rows.end,
        pull,
        n_atoms,
        rows.j.shape[1],
        weights.n_charges,
        weights.basis.inverse_knot,
        weights.basis.n_intervals,
        N_COLUMNS=n_columns,
        COLUMNS=COLUMNS,
        PAIRS=PAIRS,
        N_GEOMETRY=N_GEOMETRY,
        N_PULL=N_PULL,
        N_SLICES=pull.shape[2],
        DEGREE=weights.basis.degree,
        ADD=add,
        num_warps=1,
        num_stages=1,
        **overlap(n_atoms),
    )
