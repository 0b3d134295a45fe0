# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Gradients of the update block that are elementwise, for kernels that have what they take."""

import triton
import triton.language as tl

from mlff_core.ops.plain import NORM_FLOOR
from mlff_core.ops.triton.operand import store_operand

_NORM_FLOOR = tl.constexpr(NORM_FLOOR)


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
