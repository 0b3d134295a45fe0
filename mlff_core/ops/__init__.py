"""PaiNN's operators: their plain meaning and analytic backward, and the fast ones beside it.

plain.py     every operator in plain PyTorch, forward and backward (formulas: docs/theory.md)
charges.py   partial charges of molecules and their Coulomb energy, likewise
filters.py   the radial filters, tabulated over the distance
program.py   the order of the operators; energy and forces by it, the operators exchangeable
case.py      what an operator is tried with, to be compared or timed
numba/       the operators compiled for CPUs
triton/      the operators as kernels for CUDA devices, and the engine made of them

`OPERATORS` says where each version of each operator is. One test holds them to one meaning
(tests/mlff_core/ops/test_contract.py), one benchmark times them (benchmarks/engine).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Operator:
    """Where the versions of an operator are, as module:name below mlff_core.ops.

    Attributes:
        plain: In plain PyTorch, and differentiable once more: what it means.
        numba: For a CPU; None where the plain one serves.
        triton: For a CUDA device; None where no kernel has it.
        twice: For a CUDA device with derivatives in the weights; None where the plain one serves.
    """

    plain: str
    numba: str | None = None
    triton: str | None = None
    twice: str | None = None


#: Operator -> where its versions are, in the order in which a step meets them.
OPERATORS: Final[dict[str, Operator]] = {
    "pairs": Operator("plain:edge_geometry", "numba.pairs:find_pairs", "triton.pairs:pairs"),
    "repulsion": Operator("plain:repulsion_fwd_bwd", "numba.pairs:repulsion", "triton.pairs:pairs"),
    "first_message_fwd": Operator(
        "plain:message_fwd",
        "numba.message:MessageOps.scalar_fwd",
        "triton.message:message_fwd",
        "triton.message_twice:triton_edge_ops",
    ),
    "phi_fwd": Operator("plain:mlp_fwd", "numba.atoms:mlp_fwd", "triton.linear:linear"),
    "message_fwd": Operator(
        "plain:message_fwd",
        "numba.message:MessageOps.message_fwd",
        "triton.message:message_fwd",
        "triton.message_twice:triton_edge_ops",
    ),
    "update_fwd": Operator(
        "plain:update_fwd", "numba.atoms:update_fwd", "triton.update:update_fwd"
    ),
    # Those of models with partial charges alone, after one of the blocks.
    "equilibrate_fwd": Operator(
        "charges:equilibrate_fwd",
        "numba.charges:equilibrate_fwd",
        "triton.charges:equilibrate_fwd",
    ),
    "coulomb": Operator("charges:coulomb", "numba.charges:coulomb", "triton.charges:coulomb"),
    "readout": Operator("plain:readout_fwd", None, "triton.readout:readout"),
    "equilibrate_bwd": Operator(
        "charges:equilibrate_bwd",
        "numba.charges:equilibrate_bwd",
        "triton.charges:equilibrate_bwd",
    ),
    "update_bwd": Operator(
        "plain:update_bwd", "numba.atoms:update_bwd", "triton.update_bwd:update_bwd"
    ),
    "message_bwd": Operator(
        "plain:message_bwd",
        "numba.message:MessageOps.message_bwd",
        "triton.message_bwd:message_bwd",
        "triton.message_twice:triton_edge_ops",
    ),
    "phi_bwd": Operator("plain:mlp_bwd", "numba.atoms:mlp_bwd", "triton.linear:mlp_bwd"),
    "first_message_bwd": Operator(
        "plain:message_bwd",
        "numba.message:MessageOps.scalar_bwd",
        "triton.message_bwd:message_bwd",
        "triton.message_twice:triton_edge_ops",
    ),
    "position_gradient": Operator(
        "plain:position_gradient", "numba.pairs:position_gradient", "triton.readout:molecules"
    ),
}
