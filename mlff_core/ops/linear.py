# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Products of atoms' features with weights, with what comes before and after fused in.

Meaning: reference.mlp_fwd and reference.mlp_bwd, a layer at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.tiles import tile_options


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow at either end."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def to_tf32(x):
    """x to the nearest number that the matrix units' tf32 can hold; they themselves cut it off."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a · b: "tf32x3" keeps float32's accuracy, "bf16x3" most of it, "tf32" three digits."""
    if PRECISION == "tf32":
        return tl.dot(to_tf32(a), to_tf32(b), acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def weight_tile(w_ptr, n, k, n_in: tl.constexpr):
    """Tile [BLOCK_K, BLOCK_N] of the transpose of weights [n_out, n_in]."""
    return tl.load(w_ptr + n[None, :] * n_in + k[:, None])


@triton.jit(do_not_specialize=["n_rows"])
def linear_kernel(
    x_ptr,  # [n_rows, x_stride]
    w_ptr,  # [n_out, N_IN]
    b_ptr,  # [n_out]
    other_ptr,  # [n_rows, n_out]
    y_ptr,  # [n_rows, y_stride]
    n_rows,
    x_stride,
    y_stride,
    N_IN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    SILU_IN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFTER: tl.constexpr,  # "", "add" other, or "silu_slope" of other
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_rows
    wide = rows.to(tl.int64)[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + wide * x_stride + k[None, :], mask=real, other=0.0)
        if SILU_IN:
            x = x * sigmoid(x)
        acc = dot(x, weight_tile(w_ptr, n, k, N_IN), acc, PRECISION)
    if HAS_BIAS:
        acc += tl.load(b_ptr + n)[None, :]
    if AFTER == "add":
        acc += tl.load(other_ptr + wide * y_stride + n[None, :], mask=real, other=0.0)
    elif AFTER == "silu_slope":
        h = tl.load(other_ptr + wide * y_stride + n[None, :], mask=real, other=0.0)
        gate = sigmoid(h)
        acc *= gate * (1.0 + h * (1.0 - gate))
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
) -> Tensor:
    """(silu?)(x) · wᵀ (+ b) (+ add | · silu'(silu_slope_of)) [n_rows, n_out].

    Args:
        x: [n_rows, at least n_in]; columns beyond n_in are not read.
        w: Weights [n_out, n_in].
        b: Bias [n_out].
        precision: "tf32x3", "bf16x3" or "tf32".
        silu_in: Whether silu is applied to x first.
        add: Added to the result [n_rows, n_out].
        silu_slope_of: Hidden layer whose silu slope multiplies the result [n_rows, n_out].
    """
    n_out, n_in = w.shape
    n_rows = len(x)
    y = x.new_empty(n_rows, n_out)
    other = add if add is not None else silu_slope_of
    sizes = tile_options("linear", precision, n_rows, n_out, n_in)
    grid = (triton.cdiv(n_rows, sizes["BLOCK_M"]), n_out // sizes["BLOCK_N"])
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
        PRECISION=precision,
        SILU_IN=silu_in,
        HAS_BIAS=b is not None,
        AFTER="add" if add is not None else "silu_slope" if silu_slope_of is not None else "",
        **sizes,
    )
    return y


def mlp_bwd(
    g_y: Tensor, hidden: Tensor, w1_t: Tensor, w2_t: Tensor, add: Tensor, *, precision: str
) -> Tensor:
    """add + reference.mlp_bwd(g_y, hidden, w1, w2), from the transposed weights."""
    g_hidden = linear(g_y, w2_t, silu_slope_of=hidden, precision=precision)
    return linear(g_hidden, w1_t, add=add, precision=precision)


def contiguous_transpose(w: Tensor) -> Tensor:
    """The transpose as its own memory: the matrix units read float32 weights one way only."""
    return torch.t(w).contiguous()
