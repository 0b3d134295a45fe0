"""What a step of training is made of, and what `torch.compile` makes of it.

Between two products of matrices a step is a chain of small operators, each of which reads and
writes memory once more; fused, they do so once. Over pairs there are kernels instead.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlff_core.ops import plain
from mlff_core.ops.charges import PLAIN_CHARGE_OPS, ChargeOps, coulomb
from mlff_core.ops.plain import Edges
from mlff_core.ops.program import PLAIN_ATOM_OPS, PLAIN_OPS, AtomOps, EdgeOps


def edge_ops(row: Tensor, reverse: Tensor) -> EdgeOps:
    """Triton kernels on CUDA, plain PyTorch elsewhere."""
    if row.device.type != "cuda":
        return PLAIN_OPS
    from mlff_core.ops.triton.message_twice import triton_edge_ops

    return triton_edge_ops(row, reverse)


def repulsion(edges: Edges, Z: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """What `EdgeOps.repulsion` means, in one function."""
    i, j = edges.i, edges.j
    pair, slope = plain.repulsion_fwd_bwd(edges.distance, Z[i], Z[j], radius[i] + radius[j])
    return torch.zeros_like(Z).index_add(0, i, 0.5 * pair), 0.5 * slope


class Fused(NamedTuple):
    """What a step is made of beside the operators over pairs.

    Attributes:
        atom_ops: The operators over atoms.
        charge_ops: Those over molecules.
        edge_geometry: Distances, unit vectors and basis of the pairs.
        repulsion: As in `EdgeOps`; None for what they have.
    """

    atom_ops: AtomOps = PLAIN_ATOM_OPS
    charge_ops: ChargeOps = PLAIN_CHARGE_OPS
    edge_geometry: Callable[..., Edges] = plain.edge_geometry
    repulsion: Callable[[Edges, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def compiled(backend: str = "inductor") -> Fused:
    """The same, each of which `torch.compile` fuses for the sizes it meets."""

    def fused(op: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(op, dynamic=False, backend=backend)

    return Fused(
        AtomOps(*map(fused, PLAIN_ATOM_OPS)),
        PLAIN_CHARGE_OPS._replace(coulomb=fused(coulomb)),
        fused(plain.edge_geometry),
        fused(repulsion),
    )
