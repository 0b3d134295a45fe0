# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The update block: mix scalars and vectors of each atom. The way back: update_bwd.py.

Meaning: plain.update_fwd. Everything that is elementwise (the norm, the products U·V) happens
inside the matrix products that produce or consume it.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.plain import NORM_FLOOR
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.linear import linear
from mlff_core.ops.triton.operand import (
    contiguous_transpose,
    load_operand,
    load_weights,
    new_operand,
    product,
    sigmoid,
    split,
    split_weights,
    store_operand,
)
from mlff_core.ops.triton.tiles import piece_grid, tile_options

_NORM_FLOOR = tl.constexpr(NORM_FLOOR)


class UpdateWeights(NamedTuple):
    """Weights of one update block, and the transposes that its backward reads.

    Weights are split in two, see `operand.split_weights`.

    Attributes:
        uv: U above V [2, 2 n_features, n_features].
        w1: First layer [2, n_features, 2 n_features].
        b1: Its bias.
        w2: Second layer [2, 3 n_features, n_features].
        b2: Its bias.
        uv_t: Of the transpose of uv.
        w1_t: Of the transpose of w1.
        w2_t: Of the transpose of w2.
    """

    uv: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    uv_t: Tensor
    w1_t: Tensor
    w2_t: Tensor

    @classmethod
    def make(
        cls,
        uv: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        precisions: tuple[str, str],
        first_back: str,
    ) -> "UpdateWeights":
        """Split, with the transposes.

        The first arguments are those of plain.update_fwd; then follows how products are computed,
        forward and backward, and how the first one on the way back.
        """
        forward, backward = precisions
        back = ((uv, backward), (w1, backward), (w2, first_back))
        transposed = [split_weights(contiguous_transpose(w), how) for w, how in back]
        uv, w1, w2 = (split_weights(w, forward) for w in (uv, w1, w2))
        return cls(uv, w1, b1, w2, b2, *transposed)


class UpdateSaved(NamedTuple):
    """What the backward needs from the forward.

    Attributes:
        uv: U mu beside V mu [n_atoms, 3, 2 n_features].
        a: a_mu beside a_q_mu beside the inner product of U mu and V mu [n_atoms, 3 n_features].
        hidden: Hidden layer before silu [n_atoms, n_features].
    """

    uv: Tensor
    a: Tensor
    hidden: Tensor


@triton.jit(do_not_specialize=["n_atoms"])
def update_hidden_kernel(
    q_ptr,  # [n_atoms, n_features]
    uv_ptr,  # [n_atoms, 3, 2 n_features]
    w_ptr,  # pieces of [n_features, 2 n_features]
    b_ptr,  # [n_features]
    hidden_ptr,  # [n_atoms, n_features]
    silu_ptr,  # operand [n_atoms, PIECES, n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    ONE_PIECE: tl.constexpr = BLOCK_K == N_FEATURES  # As in linear_kernel.
    N_IN: tl.constexpr = 2 * N_FEATURES
    PIECE: tl.constexpr = N_FEATURES * N_IN
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    if ONE_PIECE:
        k = tl.arange(0, BLOCK_K)
        w = load_weights(w_ptr, n, k, N_IN, PIECE)
        w_norm = load_weights(w_ptr, n, N_FEATURES + k, N_IN, PIECE)
    bias = tl.load(b_ptr + n)
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M, end_ptr, OVERLAP):
        return
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = tl.load(q_ptr + wide * N_FEATURES + k[None, :], mask=real, other=0.0)
        if not ONE_PIECE:
            w = load_weights(w_ptr, n, k, N_IN, PIECE)
        acc = product(split(q, PRECISION), w, acc, PRECISION)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        v = uv_ptr + wide * (6 * N_FEATURES) + N_FEATURES + k[None, :]
        vx = tl.load(v, mask=real, other=0.0)
        vy = tl.load(v + 2 * N_FEATURES, mask=real, other=0.0)
        vz = tl.load(v + 4 * N_FEATURES, mask=real, other=0.0)
        norm = tl.sqrt(vx * vx + vy * vy + vz * vz + _NORM_FLOOR)
        if not ONE_PIECE:
            w_norm = load_weights(w_ptr, n, N_FEATURES + k, N_IN, PIECE)
        acc = product(split(norm, PRECISION), w_norm, acc, PRECISION)
    let_next_begin(OVERLAP)
    acc += bias[None, :]
    tl.store(hidden_ptr + wide * N_FEATURES + n[None, :], acc, mask=real)
    silu = silu_ptr + wide * (PIECES * N_FEATURES) + n[None, :]
    store_operand(silu, acc * sigmoid(acc), real, N_FEATURES, PRECISION)


@triton.jit(do_not_specialize=["n_atoms"])
def update_out_kernel(
    q_ptr,  # [n_atoms, n_features]
    mu_ptr,  # [n_atoms, 3, n_features], unused without WITH_MU
    uv_ptr,  # [n_atoms, 3, 2 n_features]
    silu_ptr,  # operand [n_atoms, PIECES, n_features]
    w_ptr,  # pieces of [3 n_features, n_features]
    b_ptr,  # [3 n_features]
    a_ptr,  # [n_atoms, 3 n_features]
    q_out_ptr,  # [n_atoms, n_features]
    mu_out_ptr,  # [n_atoms, 3, n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    WITH_MU: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    ONE_PIECE: tl.constexpr = BLOCK_K == N_FEATURES  # As in linear_kernel.
    PIECE: tl.constexpr = 3 * N_FEATURES * N_FEATURES
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    if ONE_PIECE:
        k = tl.arange(0, BLOCK_K)
        if WITH_MU:
            w_mu = load_weights(w_ptr, n, k, N_FEATURES, PIECE)
        w_q_mu = load_weights(w_ptr, N_FEATURES + n, k, N_FEATURES, PIECE)
        w_q = load_weights(w_ptr, 2 * N_FEATURES + n, k, N_FEATURES, PIECE)
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M, end_ptr, OVERLAP):
        return
    a_mu = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    a_q_mu = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    a_q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        silu = silu_ptr + wide * (PIECES * N_FEATURES) + k[None, :]
        h = load_operand(silu, real, N_FEATURES, PRECISION)
        if not ONE_PIECE:
            if WITH_MU:
                w_mu = load_weights(w_ptr, n, k, N_FEATURES, PIECE)
            w_q_mu = load_weights(w_ptr, N_FEATURES + n, k, N_FEATURES, PIECE)
            w_q = load_weights(w_ptr, 2 * N_FEATURES + n, k, N_FEATURES, PIECE)
        if WITH_MU:
            a_mu = product(h, w_mu, a_mu, PRECISION)
        a_q_mu = product(h, w_q_mu, a_q_mu, PRECISION)
        a_q = product(h, w_q, a_q, PRECISION)
    a_q_mu += tl.load(b_ptr + N_FEATURES + n)[None, :]
    a_q += tl.load(b_ptr + 2 * N_FEATURES + n)[None, :]
    u = uv_ptr + wide * (6 * N_FEATURES) + n[None, :]
    ux = tl.load(u, mask=real, other=0.0)
    uy = tl.load(u + 2 * N_FEATURES, mask=real, other=0.0)
    uz = tl.load(u + 4 * N_FEATURES, mask=real, other=0.0)
    inner = ux * tl.load(u + N_FEATURES, mask=real, other=0.0)
    inner += uy * tl.load(u + 3 * N_FEATURES, mask=real, other=0.0)
    inner += uz * tl.load(u + 5 * N_FEATURES, mask=real, other=0.0)
    let_next_begin(OVERLAP)
    scalar = wide * N_FEATURES + n[None, :]
    q = tl.load(q_ptr + scalar, mask=real, other=0.0)
    tl.store(q_out_ptr + scalar, q + a_q + a_q_mu * inner, mask=real)
    a = a_ptr + wide * (3 * N_FEATURES) + n[None, :]
    tl.store(a + N_FEATURES, a_q_mu, mask=real)
    tl.store(a + 2 * N_FEATURES, inner, mask=real)
    if WITH_MU:
        a_mu += tl.load(b_ptr + n)[None, :]
        tl.store(a, a_mu, mask=real)
        vector = wide * (3 * N_FEATURES) + n[None, :]
        mx = tl.load(mu_ptr + vector, mask=real, other=0.0)
        my = tl.load(mu_ptr + vector + N_FEATURES, mask=real, other=0.0)
        mz = tl.load(mu_ptr + vector + 2 * N_FEATURES, mask=real, other=0.0)
        tl.store(mu_out_ptr + vector, mx + a_mu * ux, mask=real)
        tl.store(mu_out_ptr + vector + N_FEATURES, my + a_mu * uy, mask=real)
        tl.store(mu_out_ptr + vector + 2 * N_FEATURES, mz + a_mu * uz, mask=real)


def update_fwd(
    q: Tensor,
    mu: Tensor | None,
    weights: UpdateWeights,
    *,
    end: Tensor,
    with_mu: bool,
    precision: str,
    operand: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, UpdateSaved]:
    """Scalars, vectors (None without `with_mu`) and what the backward needs.

    Args:
        q: [n_atoms, n_features].
        mu: [n_atoms, 3, n_features]; may be None where there is an operand, without `with_mu`.
        weights: Of the block.
        end: Number of atoms that are no padding, int32 [1]; of the others nothing is written.
        with_mu: Whether anything after this block reads the vectors.
        precision: As in `linear.linear`.
        operand: mu as one, of 3 n_atoms rows; None where the walk has not left it.
    """
    n_atoms, n_features = q.shape
    widths = (n_features, n_features, n_features)
    if operand is not None:
        flat = operand
    else:
        assert mu is not None
        flat = mu.view(3 * n_atoms, n_features)
    uv = linear(flat, weights.uv, end=end, atom_rows=3, precision=precision)
    hidden, q_out = q.new_empty(n_atoms, n_features), q.new_empty(n_atoms, n_features)
    silu = new_operand(n_atoms, n_features, precision, q.device)
    sizes = tile_options("update_hidden", precision, n_atoms, *widths)
    grid = piece_grid(n_atoms, n_features, sizes)
    update_hidden_kernel[grid](
        q,
        uv,
        weights.w1,
        weights.b1,
        hidden,
        silu,
        end,
        n_atoms,
        N_FEATURES=n_features,
        PRECISION=precision,
        **sizes,
        **overlap(n_atoms),
    )
    a = q.new_empty(n_atoms, 3 * n_features)
    mu_out = q.new_empty(n_atoms, 3, n_features) if with_mu else None
    sizes = tile_options("update_out", precision, n_atoms, *widths)
    grid = piece_grid(n_atoms, n_features, sizes)
    update_out_kernel[grid](
        q,
        q if mu is None else mu,
        uv,
        silu,
        weights.w2,
        weights.b2,
        a,
        q_out,
        q if mu_out is None else mu_out,
        end,
        n_atoms,
        N_FEATURES=n_features,
        PRECISION=precision,
        WITH_MU=with_mu,
        **sizes,
        **overlap(n_atoms),
    )
    return q_out, mu_out, UpdateSaved(uv, a, hidden)
