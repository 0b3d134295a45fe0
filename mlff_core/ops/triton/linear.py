# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Products of atoms' features with weights, with what comes before and after fused in.

Meaning: plain.mlp_fwd and plain.mlp_bwd, a layer at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.linear_warpgroups import linear_by_warpgroups
from mlff_core.ops.triton.operand import (
    load_operand,
    load_weights,
    new_operand,
    product,
    shape_name,
    sigmoid,
    split,
    store_operand,
)
from mlff_core.ops.triton.tiles import piece_grid, rows_that_count, tile_options
from mlff_core.ops.triton.warpgroups import groups_of


@triton.jit(
    do_not_specialize=["n_rows"],
    # Each shape has its own name on the device as well, where it is timed.
    repr=lambda call: shape_name(call.constants["N_IN"], call.constants["N_OUT"]) + "_kernel",
)
def linear_kernel(
    x_ptr,  # [n_rows, x_stride]; with PREPARED an operand [n_rows, n_pieces, N_IN]
    w_ptr,  # pieces of [n_out, N_IN]
    b_ptr,  # [n_out]
    other_ptr,  # [n_rows, n_out]
    end_ptr,  # int32 [1], atoms that are no padding
    y_ptr,  # [n_rows, n_out]; with OPERAND an operand [n_rows, n_pieces, n_out]
    silu_ptr,  # operand [n_rows, n_pieces, n_out], unused without SILU
    n_rows,
    x_stride,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    ATOM_ROWS: tl.constexpr,  # of an atom, side by side
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    PREPARED: tl.constexpr,  # x is one
    OPERAND: tl.constexpr,  # y becomes one
    SILU: tl.constexpr,  # silu(y) becomes one as well
    HAS_BIAS: tl.constexpr,
    AFTER: tl.constexpr,  # "", "add" other, or "silu_slope" of other
    OVERLAP: tl.constexpr,
):
    # In one piece all that there is to load is loaded at once, the weights before the inputs are
    # written; in several that would take too many registers.
    ONE_PIECE: tl.constexpr = BLOCK_K == N_IN
    PIECE: tl.constexpr = N_OUT * N_IN
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_rows
    wide = rows.to(tl.int64)[:, None]
    other = other_ptr + wide * N_OUT + n[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if ONE_PIECE:
        w = load_weights(w_ptr, n, tl.arange(0, BLOCK_K), N_IN, PIECE)
        if HAS_BIAS:
            bias = tl.load(b_ptr + n)
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M // ATOM_ROWS, end_ptr, OVERLAP):
        return
    if ONE_PIECE and AFTER != "":
        h = tl.load(other, mask=real, other=0.0)
    for start in range(0, N_IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        tile = x_ptr + wide * x_stride + k[None, :]
        if PREPARED:
            x = load_operand(tile, real, N_IN, PRECISION)
        else:
            x = split(tl.load(tile, mask=real, other=0.0), PRECISION)
        if not ONE_PIECE:
            w = load_weights(w_ptr, n, k, N_IN, PIECE)
        acc = product(x, w, acc, PRECISION)
    if not ONE_PIECE:
        if HAS_BIAS:
            bias = tl.load(b_ptr + n)
        if AFTER != "":
            h = tl.load(other, mask=real, other=0.0)
    if HAS_BIAS:
        acc += bias[None, :]
    if AFTER == "add":
        acc += h
    elif AFTER == "silu_slope":
        gate = sigmoid(h)
        acc *= gate * (1.0 + h * (1.0 - gate))
    let_next_begin(OVERLAP)
    operand = wide * (PIECES * N_OUT) + n[None, :]
    if SILU:
        store_operand(silu_ptr + operand, acc * sigmoid(acc), real, N_OUT, PRECISION)
    if OPERAND:
        store_operand(y_ptr + operand, acc, real, N_OUT, PRECISION)
    else:
        tl.store(y_ptr + wide * N_OUT + n[None, :], acc, mask=real)


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    end: Tensor,
    precision: str,
    atom_rows: int = 1,
    add: Tensor | None = None,
    silu_slope_of: Tensor | None = None,
    silu: Tensor | None = None,
    operand: bool = False,
) -> Tensor:
    """x · wᵀ (+ b) (+ add | · silu'(silu_slope_of)) [n_rows, n_out].

    Args:
        x: [n_rows, at least n_in], columns beyond n_in are not read; or an operand, from
            `new_operand` and written by a kernel.
        w: Weights, split for the precision [2, n_out, n_in].
        b: Bias [n_out].
        end: Number of atoms that are no padding, int32 [1]; of the others nothing is written.
        precision: "fp16x3", "fp16x3on" or "fp16"; see `product`.
        atom_rows: Rows of an atom, side by side.
        add: Added to the result [n_rows, n_out].
        silu_slope_of: Hidden layer whose silu slope multiplies the result [n_rows, n_out].
        silu: From `new_operand`; written: silu of the result.
        operand: Return the result as an operand.
    """
    _, n_out, n_in = w.shape
    n_rows = len(x)
    if operand:
        y = new_operand(n_rows, n_out, precision, x.device)
    else:
        y = torch.empty(n_rows, n_out, device=x.device)
    other = add if add is not None else silu_slope_of
    after = "add" if add is not None else "silu_slope" if silu_slope_of is not None else ""
    name = shape_name(n_in, n_out)
    groups = groups_of(name, precision, n_rows // atom_rows, min(n_out, n_in))
    if groups is not None and x.dim() == 3 and silu is None:
        linear_by_warpgroups(
            x, w, b, other, end, y, groups,
            precision=precision, atom_rows=atom_rows, operand=operand, after=after,
        )  # fmt: skip
        return y
    counted = rows_that_count(n_rows, atom_rows)
    sizes = tile_options(name, precision, counted, min(n_out, n_in), n_out, n_in)
    grid = piece_grid(n_rows, n_out, sizes)
    linear_kernel[grid](
        x,
        w,
        w if b is None else b,
        w if other is None else other,
        end,
        y,
        w if silu is None else silu,
        n_rows,
        x.stride(0),
        N_IN=n_in,
        N_OUT=n_out,
        ATOM_ROWS=atom_rows,
        PRECISION=precision,
        PREPARED=x.dim() == 3,
        OPERAND=operand,
        SILU=silu is not None,
        HAS_BIAS=b is not None,
        AFTER=after,
        **sizes,
        **overlap(counted),
    )
    return y


def mlp_fwd(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    end: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """plain.mlp_fwd, from the split weights."""
    silu = new_operand(len(x), w1.shape[1], precision, x.device)
    hidden = linear(x, w1, b1, silu=silu, end=end, precision=precision)
    return linear(silu, w2, b2, end=end, precision=precision), hidden


def mlp_bwd(
    g_y: Tensor,
    hidden: Tensor,
    w1_t: Tensor,
    w2_t: Tensor,
    add: Tensor,
    *,
    end: Tensor,
    precision: str,
) -> Tensor:
    """add + plain.mlp_bwd(g_y, hidden, w1, w2), from the split transposes of the weights."""
    g_hidden = linear(g_y, w2_t, silu_slope_of=hidden, operand=True, end=end, precision=precision)
    return linear(g_hidden, w1_t, add=add, end=end, precision=precision)
