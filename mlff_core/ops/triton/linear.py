# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Products of atoms' features with weights, with what comes before and after fused in.

Meaning: plain.mlp_fwd and plain.mlp_bwd, a layer at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.triton.launch import overlap, wait_for_inputs
from mlff_core.ops.triton.tiles import piece_grid, tile_options

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow at either end."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def to_tf32(x):
    """x to the nearest number that the matrix units' tf32 can hold; they themselves cut it off."""
    # On bits, because compilers contract the same in floating point to x itself. The NaN with all
    # bits set comes out as zero; what is left of x after this is subtracted is NaN still.
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def to_fp16(x):
    """x in float16, the largest that it has where x is larger; NaN stays NaN."""
    ALL: tl.constexpr = tl.PropagateNan.ALL
    return tl.clamp(x, -65504.0, 65504.0, propagate_nan=ALL).to(tl.float16)


@triton.jit
def dot_16(a, b, acc):
    """acc + a · b of bfloat16 or float16."""
    # Triton's interpreter would multiply their bits as whole numbers.
    if _INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def load_weights(w_ptr, n, k, N_IN: tl.constexpr, PIECE: tl.constexpr):
    """w[n, k]ᵀ, split by `split_weights` into pieces of PIECE numbers each: high, low."""
    tile = w_ptr + n[None, :] * N_IN + k[:, None]
    return tl.load(tile), tl.load(tile + PIECE)


@triton.jit
def product(x, w, acc, PRECISION: tl.constexpr):
    """acc + x · w, with w from `load_weights`. Meaning: `product_plain`.

    "tf32x3" keeps float32's accuracy, "bf16x3" most of it, "fp16" is one product instead of three.
    The matrix units cut off where float32 rounds, at each addition: a sum begins anew with every
    call, its small terms first, so that little is lost that way. Where rows are few, the three sums
    run side by side.
    """
    w_high, w_low = w
    zero = tl.zeros(acc.shape, tl.float32)
    SIDE_BY_SIDE: tl.constexpr = x.shape[0] <= 16
    if PRECISION == "fp16":
        return acc + dot_16(to_fp16(x), w_high, zero)
    elif PRECISION == "bf16x3":
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        part = dot_16(low, w_high, zero)
        if SIDE_BY_SIDE:
            part += dot_16(high, w_low, zero)
            return acc + (part + dot_16(high, w_high, zero))
        else:
            part = dot_16(high, w_low, part)
            return acc + dot_16(high, w_high, part)
    else:
        high = to_tf32(x)
        part = tl.dot(x - high, w_high, zero, input_precision="tf32")
        if SIDE_BY_SIDE:
            part += tl.dot(high, w_low, zero, input_precision="tf32")
            return acc + (part + tl.dot(high, w_high, zero, input_precision="tf32"))
        else:
            part = tl.dot(high, w_low, part, input_precision="tf32")
            return acc + tl.dot(high, w_high, part, input_precision="tf32")


@triton.jit(do_not_specialize=["n_rows"])
def linear_kernel(
    x_ptr,  # [n_rows, x_stride]
    w_ptr,  # pieces of [n_out, N_IN]
    b_ptr,  # [n_out]
    other_ptr,  # [n_rows, n_out]
    y_ptr,  # [n_rows, y_stride]
    n_rows,
    x_stride,
    y_stride,
    N_IN: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    SILU_IN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFTER: tl.constexpr,  # "", "add" other, or "silu_slope" of other
    SHORT: tl.constexpr,  # y is float16
    OVERLAP: tl.constexpr,
):
    # In one piece all that there is to load is loaded at once, the weights before the inputs are
    # written; in several that would take too many registers.
    ONE_PIECE: tl.constexpr = BLOCK_K == N_IN
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_rows
    wide = rows.to(tl.int64)[:, None]
    other = other_ptr + wide * y_stride + n[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if ONE_PIECE:
        w = load_weights(w_ptr, n, tl.arange(0, BLOCK_K), N_IN, PIECE)
        if HAS_BIAS:
            bias = tl.load(b_ptr + n)
    wait_for_inputs(OVERLAP)
    if ONE_PIECE and AFTER != "":
        h = tl.load(other, mask=real, other=0.0)
    for start in range(0, N_IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + wide * x_stride + k[None, :], mask=real, other=0.0)
        if not ONE_PIECE:
            w = load_weights(w_ptr, n, k, N_IN, PIECE)
        if SILU_IN:
            x = x * sigmoid(x)
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
    if SHORT:
        acc = to_fp16(acc)
    tl.store(y_ptr + wide * y_stride + n[None, :], acc, mask=real)


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    precision: str,
    silu_in: bool = False,
    add: Tensor | None = None,
    silu_slope_of: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(silu?)(x) · wᵀ (+ b) (+ add | · silu'(silu_slope_of)) [n_rows, n_out].

    Args:
        x: [n_rows, at least n_in]; columns beyond n_in are not read.
        w: Weights, split for the precision [2, n_out, n_in].
        b: Bias [n_out].
        precision: "tf32x3", "bf16x3" or "fp16".
        silu_in: Whether silu is applied to x first.
        add: Added to the result [n_rows, n_out].
        silu_slope_of: Hidden layer whose silu slope multiplies the result [n_rows, n_out].
        dtype: Of the result, that of x or float16; None: that of x.
    """
    _, n_out, n_in = w.shape
    n_rows = len(x)
    y = x.new_empty(n_rows, n_out, dtype=dtype)
    other = add if add is not None else silu_slope_of
    # One of the two is the width of the features, the other a multiple of it.
    sizes = tile_options("linear", precision, n_rows, min(n_out, n_in), n_out, n_in)
    grid = piece_grid(n_rows, n_out, sizes)
    linear_kernel[grid](
        x,
        w,
        w if b is None else b,
        w if other is None else other,
        y,
        n_rows,
        x.stride(0),
        n_out,
        N_IN=n_in,
        PIECE=n_out * n_in,
        PRECISION=precision,
        SILU_IN=silu_in,
        HAS_BIAS=b is not None,
        SHORT=y.dtype == torch.float16,
        AFTER="add" if add is not None else "silu_slope" if silu_slope_of is not None else "",
        **sizes,
        **overlap(n_rows),
    )
    return y


def mlp_bwd(
    g_y: Tensor, hidden: Tensor, w1_t: Tensor, w2_t: Tensor, add: Tensor, *, precision: str
) -> Tensor:
    """add + plain.mlp_bwd(g_y, hidden, w1, w2), from the split transposes of the weights."""
    g_hidden = linear(g_y, w2_t, silu_slope_of=hidden, precision=precision)
    return linear(g_hidden, w1_t, add=add, precision=precision)


def split_weights(w: Tensor, precision: str) -> Tensor:
    """Weights [n_out, n_in] as the addends that `product` takes [2, n_out, n_in]."""
    if precision in ("bf16x3", "fp16"):
        short = torch.bfloat16 if precision == "bf16x3" else torch.float16
        largest = torch.finfo(short).max
        high = w.clamp(-largest, largest).to(short)
        return torch.stack([high, (w - high.float()).clamp(-largest, largest).to(short)])
    high = nearest_tf32(w)
    return torch.stack([high, nearest_tf32(w - high)])


def product_plain(x: Tensor, w: Tensor, precision: str) -> Tensor:
    """The meaning of `product`: x [n_rows, n_in] · wᵀ of w [n_out, n_in], in float32.

    Each factor is two addends, and the product of the two small ones is left out; of "fp16" all but
    the product of the large ones.
    """
    x_high, x_low = split_weights(x, precision).float()
    w_high, w_low = split_weights(w, precision).float()
    if precision == "fp16":
        return x_high @ w_high.T
    return x_low @ w_high.T + x_high @ w_low.T + x_high @ w_high.T


def nearest_tf32(w: Tensor) -> Tensor:
    """The meaning of `to_tf32`, up to ties."""
    wide = w * 8193.0
    return wide - (wide - w)


def contiguous_transpose(w: Tensor) -> Tensor:
    """The transpose as its own memory: the matrix units read float32 weights one way only."""
    return torch.t(w).contiguous()
