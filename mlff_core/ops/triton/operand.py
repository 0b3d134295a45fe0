# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Operands: numbers as the addends of float16 in which products take them, and those products."""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: What the low addend of "fp16x3" is multiplied by. It is 2^-11 of the number or less, and float16
#: has fewer bits for what is small: times this it has all of them.
LOW_SCALE = 2048.0

#: What is multiplied in "fp16x3" is divided by this, and weights are multiplied by it: float16 ends
#: at 65504, and features of atoms that are far too close to each other do not.
RANGE = 256.0

_LOW_SCALE = tl.constexpr(LOW_SCALE)
_INVERSE_RANGE = tl.constexpr(1.0 / RANGE)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow at either end."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def dot_16(a, b, acc):
    """acc + a · b of float16."""
    # Triton's interpreter would multiply their bits as whole numbers.
    if _INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def load_weights(w_ptr, n, k, N_IN: tl.constexpr, PIECE: tl.constexpr):
    """w[n, k]ᵀ, split by `split_weights` into addends of PIECE numbers each: high, low."""
    tile = w_ptr + n[None, :] * N_IN + k[:, None]
    return tl.load(tile), tl.load(tile + PIECE)


@triton.jit
def split(x, PRECISION: tl.constexpr):
    """x in the addends that `product` takes: high, low. Meaning: `split_plain`.

    What is beyond becomes the largest that there is; of "fp16x3", it is not a number.
    """
    if PRECISION != "fp16x3":
        ALL: tl.constexpr = tl.PropagateNan.ALL
        x = tl.clamp(x, -65504.0, 65504.0, propagate_nan=ALL)
        high = x.to(tl.float16)
        if PRECISION == "fp16":
            return high, high
        else:
            return high, (x - high.to(tl.float32)).to(tl.float16)
    else:
        x *= _INVERSE_RANGE
        high = x.to(tl.float16)
        return high, ((x - high.to(tl.float32)) * _LOW_SCALE).to(tl.float16)


@triton.jit
def load_operand(x_ptr, mask, N_IN: tl.constexpr, PRECISION: tl.constexpr):
    """Addends that `store_operand` has left at x_ptr: high, low."""
    high = tl.load(x_ptr, mask=mask, other=0.0)
    if PRECISION == "fp16":
        return high, high
    else:
        return high, tl.load(x_ptr + N_IN, mask=mask, other=0.0)


@triton.jit
def store_operand(x_ptr, x, mask, N_IN: tl.constexpr, PRECISION: tl.constexpr):
    """Leave x as the addends that `product` takes, the low ones N_IN numbers behind.

    A product is computed in many pieces, each of which would split the same x anew.
    """
    high, low = split(x, PRECISION)
    tl.store(x_ptr, high, mask=mask)
    if PRECISION != "fp16":
        tl.store(x_ptr + N_IN, low, mask=mask)


@triton.jit
def product(x, w, acc, PRECISION: tl.constexpr):
    """acc + x · w, with x from `split` and w from `load_weights`. Meaning: `product_plain`.

    "fp16x3" keeps float32's accuracy. The matrix units cut off where float32 rounds, at each
    addition: a sum begins anew with every call, its small terms first, so that little is lost that
    way. Where rows are few, the three sums run side by side. "fp16x3on" and "fp16", which is one
    product instead of three, go on with the sum where it is, in the matrix units.
    """
    high, low = x
    w_high, w_low = w
    SIDE_BY_SIDE: tl.constexpr = high.shape[0] <= 16
    if PRECISION == "fp16":
        return dot_16(high, w_high, acc)
    elif PRECISION == "fp16x3on":
        acc = dot_16(low, w_high, acc)
        acc = dot_16(high, w_low, acc)
        return dot_16(high, w_high, acc)
    else:
        zero = tl.zeros(acc.shape, tl.float32)
        part = dot_16(low, w_high, zero)
        if SIDE_BY_SIDE:
            part += dot_16(high, w_low, zero)
            return acc + (part * (1.0 / _LOW_SCALE) + dot_16(high, w_high, zero))
        else:
            part = dot_16(high, w_low, part) * (1.0 / _LOW_SCALE)
            return acc + dot_16(high, w_high, part)


def shape_name(n_in: int, n_out: int) -> str:
    """What a product is called in the table of tiles, whatever the width of the features."""
    # One of the two is the width, the other a multiple of it.
    width = min(n_in, n_out)
    return f"linear_{n_in // width}x{n_out // width}"


def new_operand(n_rows: int, n_in: int, precision: str, device: torch.device) -> Tensor:
    """Memory for what `store_operand` writes, float16 [n_rows, n_pieces, n_in]."""
    pieces = 1 if precision == "fp16" else 2
    return torch.empty(n_rows, pieces, n_in, dtype=torch.float16, device=device)


def value_of(operand: Tensor, precision: str) -> Tensor:
    """The numbers that an operand stands for, float32 [n_rows, n_in]."""
    high, *low = operand.float().unbind(1)
    if precision == "fp16":
        return high
    if precision == "fp16x3on":
        return high + low[0]
    return (high + low[0] / LOW_SCALE) * RANGE


def split_weights(w: Tensor, precision: str) -> Tensor:
    """Weights [n_out, n_in] as the addends that `product` takes, float16 [2, n_out, n_in]."""
    if precision == "fp16x3":
        return split_plain(w * RANGE)
    return split_plain(w, 1.0 if precision == "fp16x3on" else LOW_SCALE)


def split_plain(x: Tensor, low_scale: float = LOW_SCALE) -> Tensor:
    """Two addends, float16 [2, ...], the second one low_scale times as large.

    What float16 cannot hold becomes the largest that it can.
    """
    largest = torch.finfo(torch.float16).max
    x = x.clamp(-largest, largest)
    high = x.half()
    return torch.stack([high, ((x - high.float()) * low_scale).half()])


def product_plain(x: Tensor, w: Tensor, precision: str) -> Tensor:
    """The meaning of `product`: x [n_rows, n_in] · wᵀ of w [n_out, n_in], in float32.

    Each factor is two addends, and the product of the two small ones is left out; of "fp16" all but
    the product of the large ones.
    """
    w_high, w_low = split_weights(w, precision).float()
    if precision == "fp16":
        return split_plain(x)[0].float() @ w_high.T
    if precision == "fp16x3on":
        x_high, x_low = split_plain(x, 1.0).float()
        return x_low @ w_high.T + x_high @ w_low.T + x_high @ w_high.T
    x_high, x_low = split_plain(x / RANGE).float()
    return (x_low @ w_high.T + x_high @ w_low.T) / LOW_SCALE + x_high @ w_high.T


def contiguous_transpose(w: Tensor) -> Tensor:
    """The transpose as its own memory, along which the kernels read."""
    return torch.t(w).contiguous()
