"""The operators over atoms for a CPU: products of matrices by PyTorch, all between them compiled.

The functions mean what those of the same names in `plain` mean, without derivatives. There each
operation writes a tensor to memory and the next reads it back; here all that lies between two
products is one pass. Exponentials stay with PyTorch, which has them in vector registers.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor
from torch.nn.functional import linear

from mlff_core.ops.numba.compile import FASTMATH, kernel, run
from mlff_core.ops.plain import NORM_FLOOR
from mlff_core.ops.program import AtomOps


class Hidden(NamedTuple):
    """A hidden layer [n_atoms, n_features].

    Attributes:
        before: Before silu.
        gate: Its logistic function.
    """

    before: Tensor
    gate: Tensor


class UpdateSaved(NamedTuple):
    """What the backward of the update block needs from its forward.

    Attributes:
        UV_mu: Both mixings of the vectors, beside each other [n_atoms, 3, 2 n_features].
        seen: What the network saw: q, and the norm of the second mixing [n_atoms, 2 n_features].
        product: Scalar product of the two mixings [n_atoms, n_features].
        a: What the network returned: a_mu, a_q_mu, a_q [n_atoms, 3 n_features].
        hidden: Its hidden layer.
    """

    UV_mu: Tensor
    seen: Tensor
    product: Tensor
    a: Tensor
    hidden: Hidden


@kernel(fastmath=FASTMATH, error_model="numpy")
def _mix(
    q: np.ndarray,  # [n_atoms, n_features]
    UV_mu: np.ndarray,  # [n_atoms, 3, 2 n_features]
    floor: float,
    seen: np.ndarray,  # [n_atoms, 2 n_features], out
    product: np.ndarray,  # [n_atoms, n_features], out
) -> None:
    # Unsigned, or each index would be asked whether it counts from the end.
    n = np.uint64(q.shape[1])
    least = q.dtype.type(floor)
    for a in prange(len(q)):
        for f in range(n):
            g = n + f
            Ux, Uy, Uz = UV_mu[a, 0, f], UV_mu[a, 1, f], UV_mu[a, 2, f]
            Vx, Vy, Vz = UV_mu[a, 0, g], UV_mu[a, 1, g], UV_mu[a, 2, g]
            seen[a, f] = q[a, f]
            seen[a, g] = np.sqrt(Vx * Vx + Vy * Vy + Vz * Vz + least)
            product[a, f] = Ux * Vx + Uy * Vy + Uz * Vz


@kernel(fastmath=FASTMATH, error_model="numpy")
def _add_update(
    q: np.ndarray,  # [n_atoms, n_features]
    mu: np.ndarray,  # [n_atoms, 3, n_features]
    UV_mu: np.ndarray,  # [n_atoms, 3, 2 n_features]
    product: np.ndarray,  # [n_atoms, n_features]
    a_all: np.ndarray,  # [n_atoms, 3 n_features]
    q_new: np.ndarray,  # [n_atoms, n_features], out
    mu_new: np.ndarray,  # [n_atoms, 3, n_features], out
) -> None:
    n = np.uint64(q.shape[1])
    for a in prange(len(q)):
        for f in range(n):
            a_mu, a_q_mu, a_q = a_all[a, f], a_all[a, n + f], a_all[a, n + n + f]
            q_new[a, f] = q[a, f] + a_q + a_q_mu * product[a, f]
            mu_new[a, 0, f] = mu[a, 0, f] + a_mu * UV_mu[a, 0, f]
            mu_new[a, 1, f] = mu[a, 1, f] + a_mu * UV_mu[a, 1, f]
            mu_new[a, 2, f] = mu[a, 2, f] + a_mu * UV_mu[a, 2, f]


@kernel(fastmath=FASTMATH, error_model="numpy")
def _network_gradient(
    g_q: np.ndarray,  # [n_atoms, n_features]
    g_mu: np.ndarray,  # [n_atoms, 3, n_features]
    UV_mu: np.ndarray,  # [n_atoms, 3, 2 n_features]
    product: np.ndarray,  # [n_atoms, n_features]
    g_a: np.ndarray,  # [n_atoms, 3 n_features], out
) -> None:
    n = np.uint64(g_q.shape[1])
    for a in prange(len(g_q)):
        for f in range(n):
            g_a[a, f] = (
                g_mu[a, 0, f] * UV_mu[a, 0, f]
                + g_mu[a, 1, f] * UV_mu[a, 1, f]
                + g_mu[a, 2, f] * UV_mu[a, 2, f]
            )
            g_a[a, n + f] = g_q[a, f] * product[a, f]
            g_a[a, n + n + f] = g_q[a, f]


@kernel(fastmath=FASTMATH, error_model="numpy")
def _mixing_gradient(
    g_q: np.ndarray,  # [n_atoms, n_features]
    g_mu: np.ndarray,  # [n_atoms, 3, n_features]
    UV_mu: np.ndarray,  # [n_atoms, 3, 2 n_features]
    seen: np.ndarray,  # [n_atoms, 2 n_features]
    a_all: np.ndarray,  # [n_atoms, 3 n_features]
    g_seen: np.ndarray,  # [n_atoms, 2 n_features]
    g_q_in: np.ndarray,  # [n_atoms, n_features], out
    g_UV: np.ndarray,  # [n_atoms, 3, 2 n_features], out
) -> None:
    n = np.uint64(g_q.shape[1])
    for a in prange(len(g_q)):
        for f in range(n):
            g = n + f
            a_mu, g_product = a_all[a, f], g_q[a, f] * a_all[a, g]
            along = g_seen[a, g] / seen[a, g]
            g_q_in[a, f] = g_q[a, f] + g_seen[a, f]
            Ux, Uy, Uz = UV_mu[a, 0, f], UV_mu[a, 1, f], UV_mu[a, 2, f]
            Vx, Vy, Vz = UV_mu[a, 0, g], UV_mu[a, 1, g], UV_mu[a, 2, g]
            g_UV[a, 0, f] = a_mu * g_mu[a, 0, f] + g_product * Vx
            g_UV[a, 1, f] = a_mu * g_mu[a, 1, f] + g_product * Vy
            g_UV[a, 2, f] = a_mu * g_mu[a, 2, f] + g_product * Vz
            g_UV[a, 0, g] = g_product * Ux + along * Vx
            g_UV[a, 1, g] = g_product * Uy + along * Vy
            g_UV[a, 2, g] = g_product * Uz + along * Vz


@kernel(fastmath=FASTMATH)
def _through_silu(
    g: np.ndarray,  # [n_atoms, n_features], in place
    before: np.ndarray,  # [n_atoms, n_features]
    gate: np.ndarray,  # [n_atoms, n_features]
) -> None:
    n, one = np.uint64(g.shape[1]), g.dtype.type(1)
    for a in prange(len(g)):
        for f in range(n):
            s = gate[a, f]
            g[a, f] *= s * (one + before[a, f] * (one - s))


def mlp_fwd(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Hidden]:
    """`plain.mlp_fwd`, but for what is kept."""
    before = linear(x, w1, b1)
    gate = torch.sigmoid(before)
    return linear(before * gate, w2, b2), Hidden(before, gate)


def mlp_bwd(g_y: Tensor, hidden: Hidden, w1: Tensor, w2: Tensor) -> Tensor:
    """`plain.mlp_bwd`."""
    g = g_y @ w2
    run(_through_silu, g, *hidden)
    return g @ w1


def update_fwd(
    q: Tensor, mu: Tensor, uv: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor, UpdateSaved]:
    """`plain.update_fwd`, but for what is kept."""
    UV_mu = linear(mu, uv)
    seen, product = q.new_empty(len(q), 2 * q.shape[1]), torch.empty_like(q)
    run(_mix, q, UV_mu, NORM_FLOOR, seen, product)
    a, hidden = mlp_fwd(seen, w1, b1, w2, b2)
    q_new, mu_new = torch.empty_like(q), torch.empty_like(mu)
    run(_add_update, q, mu, UV_mu, product, a, q_new, mu_new)
    return q_new, mu_new, UpdateSaved(UV_mu, seen, product, a, hidden)


def update_bwd(
    g_q: Tensor, g_mu: Tensor, saved: UpdateSaved, uv: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    """`plain.update_bwd`."""
    UV_mu, seen, product, a, hidden = saved
    g_a = torch.empty_like(a)
    run(_network_gradient, g_q, g_mu, UV_mu, product, g_a)
    g_seen = mlp_bwd(g_a, hidden, w1, w2)
    g_q_in, g_UV = torch.empty_like(g_q), torch.empty_like(UV_mu)
    run(_mixing_gradient, g_q, g_mu, UV_mu, seen, a, g_seen, g_q_in, g_UV)
    return g_q_in, torch.addmm(g_mu.flatten(0, 1), g_UV.flatten(0, 1), uv).view_as(g_mu)


#: For `AnalyticEngine`; the readout, which there is once, as it is.
ATOM_OPS = AtomOps(mlp_fwd=mlp_fwd, mlp_bwd=mlp_bwd, update_fwd=update_fwd, update_bwd=update_bwd)
