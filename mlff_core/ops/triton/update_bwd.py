# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The update block's backward, from what its forward in update.py keeps.

Meaning: plain.update_bwd. Gradients that are elementwise are made inside the matrix products.
"""

import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.plain import NORM_FLOOR
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.linear import linear
from mlff_core.ops.triton.operand import (
    load_operand,
    load_weights,
    new_operand,
    product,
    sigmoid,
    split,
    store_operand,
)
from mlff_core.ops.triton.tiles import piece_grid, row_class, tile_options
from mlff_core.ops.triton.update import UpdateSaved, UpdateWeights
from mlff_core.ops.triton.update_bwd_warpgroups import bwd_hidden_by_warpgroups
from mlff_core.ops.triton.warpgroups import groups_of

#: Classes of rows where what is elementwise at the end of the way back is a kernel of its own. In a
#: product, whose tiles lie otherwise in the registers, each number read has to change its place.
APART = ("large",)
#: Atoms of a program of such kernels.
ATOMS = 4

_NORM_FLOOR = tl.constexpr(NORM_FLOOR)


@triton.jit(do_not_specialize=["n_atoms"])
def update_bwd_hidden_kernel(
    g_q_ptr,  # [n_atoms, n_features]
    g_a_mu_ptr,  # operand [n_atoms, n_pieces, n_features], unused without WITH_MU
    a_ptr,  # [n_atoms, 3 n_features]
    hidden_ptr,  # [n_atoms, n_features]
    w_ptr,  # pieces of the transposed second layer [n_features, 3 n_features]
    g_hidden_ptr,  # operand [n_atoms, PIECES, n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,  # precision of the product that takes the gradient
    WITH_MU: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    ONE_PIECE: tl.constexpr = BLOCK_K == N_FEATURES  # As in linear_kernel.
    N_IN: tl.constexpr = 3 * N_FEATURES
    PIECE: tl.constexpr = N_FEATURES * N_IN
    PIECES: tl.constexpr = 1 if OPERAND == "fp16" else 2
    PIECES_IN: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    if ONE_PIECE:
        k = tl.arange(0, BLOCK_K)
        if WITH_MU:
            w_mu = load_weights(w_ptr, n, k, N_IN, PIECE)
        w_q_mu = load_weights(w_ptr, n, N_FEATURES + k, N_IN, PIECE)
        w_q = load_weights(w_ptr, n, 2 * N_FEATURES + k, N_IN, PIECE)
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M, end_ptr, OVERLAP):
        return
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inner = tl.load(a_ptr + wide * N_IN + 2 * N_FEATURES + k[None, :], mask=real, other=0.0)
        g_q = tl.load(g_q_ptr + wide * N_FEATURES + k[None, :], mask=real, other=0.0)
        if WITH_MU:
            g_a_mu = g_a_mu_ptr + wide * (PIECES_IN * N_FEATURES) + k[None, :]
            g_a_mu = load_operand(g_a_mu, real, N_FEATURES, PRECISION)
            if not ONE_PIECE:
                w_mu = load_weights(w_ptr, n, k, N_IN, PIECE)
            acc = product(g_a_mu, w_mu, acc, PRECISION)
        if not ONE_PIECE:
            w_q_mu = load_weights(w_ptr, n, N_FEATURES + k, N_IN, PIECE)
            w_q = load_weights(w_ptr, n, 2 * N_FEATURES + k, N_IN, PIECE)
        acc = product(split(g_q * inner, PRECISION), w_q_mu, acc, PRECISION)
        acc = product(split(g_q, PRECISION), w_q, acc, PRECISION)
    let_next_begin(OVERLAP)
    h = tl.load(hidden_ptr + wide * N_FEATURES + n[None, :], mask=real, other=0.0)
    gate = sigmoid(h)
    acc *= gate * (1.0 + h * (1.0 - gate))
    g_hidden = g_hidden_ptr + wide * (PIECES * N_FEATURES) + n[None, :]
    store_operand(g_hidden, acc, real, N_FEATURES, OPERAND)


@triton.jit(do_not_specialize=["n_atoms"])
def update_bwd_in_kernel(
    g_hidden_ptr,  # operand [n_atoms, PIECES, n_features]
    g_q_ptr,  # [n_atoms, n_features]
    g_mu_ptr,  # [n_atoms, 3, n_features], unused without WITH_MU
    uv_ptr,  # [n_atoms, 3, 2 n_features]
    a_ptr,  # [n_atoms, 3 n_features]
    w_ptr,  # pieces of the transposed first layer [2 n_features, n_features]
    g_q_out_ptr,  # [n_atoms, n_features]
    g_uv_ptr,  # gradient in U mu beside that in V mu, operand [3 n_atoms, PIECES, 2 n_features]
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
    PIECE: tl.constexpr = 2 * N_FEATURES * N_FEATURES
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    if ONE_PIECE:
        k = tl.arange(0, BLOCK_K)
        w_q = load_weights(w_ptr, n, k, N_FEATURES, PIECE)
        w_norm = load_weights(w_ptr, N_FEATURES + n, k, N_FEATURES, PIECE)
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M, end_ptr, OVERLAP):
        return
    acc_q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc_norm = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        g_hidden = g_hidden_ptr + wide * (PIECES * N_FEATURES) + k[None, :]
        g = load_operand(g_hidden, real, N_FEATURES, PRECISION)
        if not ONE_PIECE:
            w_q = load_weights(w_ptr, n, k, N_FEATURES, PIECE)
            w_norm = load_weights(w_ptr, N_FEATURES + n, k, N_FEATURES, PIECE)
        acc_q = product(g, w_q, acc_q, PRECISION)
        acc_norm = product(g, w_norm, acc_norm, PRECISION)
    let_next_begin(OVERLAP)
    gradients_in(
        acc_q, acc_norm, g_q_ptr, g_mu_ptr, uv_ptr, a_ptr, g_q_out_ptr, g_uv_ptr, wide, n[None, :],
        real, N_FEATURES, PRECISION, WITH_MU,
    )  # fmt: skip


@triton.jit
def gradients_in(
    through_q, through_norm, g_q_ptr, g_mu_ptr, uv_ptr, a_ptr, g_q_out_ptr, g_uv_ptr, atom, f, real,
    N_FEATURES: tl.constexpr, PRECISION: tl.constexpr, WITH_MU: tl.constexpr,
):  # fmt: skip
    """Leave the gradients in q, and in U mu and V mu as an operand.

    Args:
        through_q, through_norm: What comes through the network to q and to the norm of V mu
            [atoms, features].
        g_q_ptr, g_mu_ptr, uv_ptr, a_ptr, g_q_out_ptr, g_uv_ptr: As in `update_bwd_in_kernel`.
        atom: Which atoms, int64 [atoms, 1].
        f: Which features [1, features].
        real: Which of the atoms there are [atoms, 1].
    """
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    scalar = atom * N_FEATURES + f
    g_q = tl.load(g_q_ptr + scalar, mask=real, other=0.0)
    tl.store(g_q_out_ptr + scalar, through_q + g_q, mask=real)
    uv = uv_ptr + atom * (6 * N_FEATURES) + f
    vx = tl.load(uv + N_FEATURES, mask=real, other=0.0)
    vy = tl.load(uv + 3 * N_FEATURES, mask=real, other=0.0)
    vz = tl.load(uv + 5 * N_FEATURES, mask=real, other=0.0)
    ratio = through_norm / tl.sqrt(vx * vx + vy * vy + vz * vz + _NORM_FLOOR)
    a = a_ptr + atom * (3 * N_FEATURES) + f
    g_product = g_q * tl.load(a + N_FEATURES, mask=real, other=0.0)
    if WITH_MU:
        a_mu = tl.load(a, mask=real, other=0.0)
    V = (vx, vy, vz)
    for c in tl.static_range(3):
        g_u = g_product * V[c]
        if WITH_MU:
            g_mu = g_mu_ptr + atom * (3 * N_FEATURES) + c * N_FEATURES + f
            g_u += a_mu * tl.load(g_mu, mask=real, other=0.0)
        g_v = g_product * tl.load(uv + 2 * c * N_FEATURES, mask=real, other=0.0) + ratio * V[c]
        g_uv = g_uv_ptr + (atom * 3 + c) * (PIECES * 2 * N_FEATURES) + f
        store_operand(g_uv, g_u, real, 2 * N_FEATURES, PRECISION)
        store_operand(g_uv + N_FEATURES, g_v, real, 2 * N_FEATURES, PRECISION)


@triton.jit(do_not_specialize=["n_atoms"])
def update_bwd_mix_kernel(
    g_in_ptr,  # what comes through the network to q beside that to the norm [n_atoms, 2 n_features]
    g_q_ptr,  # [n_atoms, n_features]
    g_mu_ptr,  # [n_atoms, 3, n_features], unused without WITH_MU
    uv_ptr,  # [n_atoms, 3, 2 n_features]
    a_ptr,  # [n_atoms, 3 n_features]
    g_q_out_ptr,  # [n_atoms, n_features]
    g_uv_ptr,  # gradient in U mu beside that in V mu, operand [3 n_atoms, n_pieces, 2 n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    ATOMS: tl.constexpr,
    PRECISION: tl.constexpr,
    WITH_MU: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * ATOMS, end_ptr, OVERLAP):
        return
    let_next_begin(OVERLAP)
    atom = (tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)).to(tl.int64)[:, None]
    f = tl.arange(0, N_FEATURES)[None, :]
    real = atom < n_atoms
    g_in = g_in_ptr + atom * (2 * N_FEATURES) + f
    through_q = tl.load(g_in, mask=real, other=0.0)
    through_norm = tl.load(g_in + N_FEATURES, mask=real, other=0.0)
    gradients_in(
        through_q, through_norm, g_q_ptr, g_mu_ptr, uv_ptr, a_ptr, g_q_out_ptr, g_uv_ptr, atom, f,
        real, N_FEATURES, PRECISION, WITH_MU,
    )  # fmt: skip


@triton.jit
def g_a_mu_operand(
    g_a_mu_ptr, x, y, z, uv_ptr, atom, f, real, N_FEATURES: tl.constexpr, PRECISION: tl.constexpr
):
    """Leave the gradient in a_mu, the inner product of U mu and that in mu, as an operand.

    Args:
        g_a_mu_ptr: Operand [n_atoms, PIECES, n_features].
        x, y, z: Gradient in the vectors that the update block gives [atoms, features].
        uv_ptr: [n_atoms, 3, 2 n_features].
        atom: Which atoms, int64 [atoms, 1].
        f: Which features [1, features].
        real: Which of the atoms there are [atoms, 1].
    """
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    u = uv_ptr + atom * (6 * N_FEATURES) + f
    g_a_mu = x * tl.load(u, mask=real, other=0.0)
    g_a_mu += y * tl.load(u + 2 * N_FEATURES, mask=real, other=0.0)
    g_a_mu += z * tl.load(u + 4 * N_FEATURES, mask=real, other=0.0)
    operand = g_a_mu_ptr + atom * (PIECES * N_FEATURES) + f
    store_operand(operand, g_a_mu, real, N_FEATURES, PRECISION)


@triton.jit(do_not_specialize=["n_atoms"])
def update_bwd_a_mu_kernel(
    g_mu_ptr,  # [n_atoms, 3, n_features]
    uv_ptr,  # [n_atoms, 3, 2 n_features]
    g_a_mu_ptr,  # operand [n_atoms, PIECES, n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    ATOMS: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * ATOMS, end_ptr, OVERLAP):
        return
    let_next_begin(OVERLAP)
    atom = (tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)).to(tl.int64)[:, None]
    f = tl.arange(0, N_FEATURES)[None, :]
    real = atom < n_atoms
    g_mu = g_mu_ptr + atom * (3 * N_FEATURES) + f
    x = tl.load(g_mu, mask=real, other=0.0)
    y = tl.load(g_mu + N_FEATURES, mask=real, other=0.0)
    z = tl.load(g_mu + 2 * N_FEATURES, mask=real, other=0.0)
    g_a_mu_operand(g_a_mu_ptr, x, y, z, uv_ptr, atom, f, real, N_FEATURES, PRECISION)


def gradient_in_a_mu(g_mu: Tensor, saved: UpdateSaved, *, end: Tensor, precision: str) -> Tensor:
    """The inner product of U mu and g_mu as an operand, where the walk has not left it."""
    n_atoms, _, n_features = g_mu.shape
    g_a_mu = new_operand(n_atoms, n_features, precision, g_mu.device)
    update_bwd_a_mu_kernel[(triton.cdiv(n_atoms, ATOMS),)](
        g_mu,
        saved.uv,
        g_a_mu,
        end,
        n_atoms,
        N_FEATURES=n_features,
        ATOMS=ATOMS,
        PRECISION=precision,
        **overlap(n_atoms),
    )
    return g_a_mu


def update_bwd(
    g_q: Tensor,
    g_mu: Tensor | None,
    saved: UpdateSaved,
    weights: UpdateWeights,
    *,
    end: Tensor,
    precision: str,
    first: str,
    g_a_mu: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the q and mu that `update_fwd` was given.

    Args:
        g_q: [n_atoms, n_features].
        g_mu: [n_atoms, 3, n_features]; None where the forward ran without `with_mu`.
        saved: From the forward.
        weights: Of the block.
        end: As in `update_fwd`.
        precision: As in `linear.linear`.
        first: Likewise, of the first of the products, with the second layer.
        g_a_mu: What `gradient_in_a_mu` gives, where `message_bwd` has left it already.
    """
    n_atoms, n_features = g_q.shape
    widths = (n_features, n_features, n_features)
    with_mu = g_mu is not None
    g_mu_or_any = saved.uv if g_mu is None else g_mu
    if g_mu is not None and g_a_mu is None:
        g_a_mu = gradient_in_a_mu(g_mu, saved, end=end, precision=first)
    g_hidden = new_operand(n_atoms, n_features, precision, g_q.device)
    groups = groups_of("update_bwd_hidden", first, n_atoms, n_features)
    if groups is not None:
        bwd_hidden_by_warpgroups(
            g_q, g_a_mu, saved.a, saved.hidden, weights.w2_t, g_hidden, end, groups,
            precision=first, operand=precision,
        )  # fmt: skip
    else:
        sizes = tile_options("update_bwd_hidden", first, n_atoms, *widths)
        update_bwd_hidden_kernel[piece_grid(n_atoms, n_features, sizes)](
            g_q,
            g_hidden if g_a_mu is None else g_a_mu,
            saved.a,
            saved.hidden,
            weights.w2_t,
            g_hidden,
            end,
            n_atoms,
            N_FEATURES=n_features,
            PRECISION=first,
            OPERAND=precision,
            WITH_MU=with_mu,
            **sizes,
            **overlap(n_atoms),
        )
    g_q_out = g_q.new_empty(n_atoms, n_features)
    g_uv = new_operand(3 * n_atoms, 2 * n_features, precision, g_q.device)
    if row_class(n_atoms) in APART:
        g_in = linear(g_hidden, weights.w1_t, end=end, precision=precision)
        update_bwd_mix_kernel[(triton.cdiv(n_atoms, ATOMS),)](
            g_in,
            g_q,
            g_mu_or_any,
            saved.uv,
            saved.a,
            g_q_out,
            g_uv,
            end,
            n_atoms,
            N_FEATURES=n_features,
            ATOMS=ATOMS,
            PRECISION=precision,
            WITH_MU=with_mu,
            **overlap(n_atoms),
        )
    else:
        sizes = tile_options("update_bwd_in", precision, n_atoms, *widths)
        update_bwd_in_kernel[piece_grid(n_atoms, n_features, sizes)](
            g_hidden,
            g_q,
            g_mu_or_any,
            saved.uv,
            saved.a,
            weights.w1_t,
            g_q_out,
            g_uv,
            end,
            n_atoms,
            N_FEATURES=n_features,
            PRECISION=precision,
            WITH_MU=with_mu,
            **sizes,
            **overlap(n_atoms),
        )
    flat = None if g_mu is None else g_mu.view(3 * n_atoms, n_features)
    g_mu_out = linear(
        g_uv,
        weights.uv_t,
        add=flat,
        end=end,
        atom_rows=3,
        precision=precision,
    )
    return g_q_out, g_mu_out.view(n_atoms, 3, n_features)
