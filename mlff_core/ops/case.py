"""What an operator is tried with: random features, the pairs of a batch, the weights of a model.

Every version of an operator is tried through the steps of its engine (`program.Steps`), so that all
take the same arguments and their results can be compared or timed.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.charges import PLAIN_CHARGE_OPS, ChargeOps, layout_of
from mlff_core.ops.program import (
    PLAIN_ATOM_OPS,
    PLAIN_OPS,
    AtomOps,
    EdgeOps,
    ExchangeableSteps,
    Steps,
)

if TYPE_CHECKING:
    from mlff_core.models.painn import PaiNN
    from mlff_core.ops.triton.steps import KernelSteps


@dataclass(frozen=True)
class Case:
    """Arguments of every operator; n is the width of the model's features.

    Attributes:
        model: Two blocks at the least.
        batch: The molecules.
        q: [n_atoms, n].
        mu: [n_atoms, 3, n].
        phi: [n_atoms, 3 n].
        g_q: [n_atoms, n].
        g_mu: [n_atoms, 3, n].
        g_phi: [n_atoms, 3 n].
    """

    model: "PaiNN"
    batch: MolBatch
    q: Tensor
    mu: Tensor
    phi: Tensor
    g_q: Tensor
    g_mu: Tensor
    g_phi: Tensor

    @classmethod
    def of(cls, model: "PaiNN", batch: MolBatch, seed: int = 0) -> "Case":
        """Random features and gradients in float32, on the device of the batch."""
        generator = torch.Generator().manual_seed(seed)
        n_atoms, n = batch.n_atoms, model.config.n_features

        def random(*shape: int) -> Tensor:
            return torch.randn(n_atoms, *shape, generator=generator).to(batch.positions.device)

        return cls(
            model, batch, random(n), random(3, n), random(3 * n), random(n), random(3, n),
            random(3 * n),
        )  # fmt: skip

    def in_float64(self) -> "Case":
        """The same numbers, in float64."""
        features = (self.q, self.mu, self.phi, self.g_q, self.g_mu, self.g_phi)
        model = deepcopy(self.model).double()
        return Case(model, self.batch.to(dtype=torch.float64), *(x.double() for x in features))

    @property
    def first_q(self) -> Tensor:
        """Scalar features before the first block, which element and charge decide."""
        batch, model = self.batch, self.model
        charge = batch.charge[batch.mol_idx] - model.config.min_charge
        return model.element(model.atom_index[batch.numbers]) + model.charge(charge)


def calls(steps: Steps, case: Case) -> dict[str, Callable[[], Any]]:
    """Operator -> a call of it, for every operator that is a step; what it needs is ready.

    Of the first block what is said of it, of the last one the rest, but for the update block.
    """
    last, q0 = case.model.config.n_interactions - 1, case.first_q
    _, _, kept = steps.update_fwd(0, case.q, case.mu)
    _, hidden = steps.phi_fwd(last, case.q)
    first_phi, _ = steps.phi_fwd(0, q0)
    steps.readout(case.q)
    return {
        "first_message_fwd": lambda: steps.message_fwd(0, first_phi, q0, None),
        "phi_fwd": lambda: steps.phi_fwd(last, case.q),
        "message_fwd": lambda: steps.message_fwd(last, case.phi, case.q, case.mu),
        "update_fwd": lambda: steps.update_fwd(0, case.q, case.mu),
        "readout": lambda: steps.readout(case.q),
        "update_bwd": lambda: steps.update_bwd(0, case.g_q, case.g_mu, kept),
        "message_bwd": lambda: steps.message_bwd(last, case.g_q, case.g_mu, case.phi, case.mu),
        "phi_bwd": lambda: steps.phi_bwd(last, case.g_phi, hidden, case.g_q),
        "first_message_bwd": lambda: steps.message_bwd(0, case.g_q, case.g_mu, first_phi, None),
    }


def charge_calls(case: Case, ops: ChargeOps, layout: Any) -> dict[str, Callable[[], Any]]:
    """Likewise for the operators of partial charges, which are no steps of their own.

    Args:
        case: Whose features are what a network might say, too.
        ops: The operators.
        layout: Of the molecules, as they take it.
    """
    y, g_c = case.q[:, :2].contiguous(), case.g_q[:, 0].contiguous()
    strength = case.q.new_full((1,), 0.8)
    _, saved = ops.equilibrate_fwd(y, case.batch.charge, layout)
    c, positions = case.q[:, 2].contiguous(), case.batch.positions
    return {
        "equilibrate_fwd": lambda: ops.equilibrate_fwd(y, case.batch.charge, layout)[:1],
        "equilibrate_bwd": lambda: (ops.equilibrate_bwd(g_c, saved, layout),),
        "coulomb": lambda: ops.coulomb(c, positions, strength, layout),
    }


def plain_charge_calls(case: Case) -> dict[str, Callable[[], Any]]:
    """By plain operators."""
    layout = layout_of(case.batch.mol_idx, case.batch.n_mols)
    return charge_calls(case, PLAIN_CHARGE_OPS, layout)


def numba_charge_calls(case: Case) -> dict[str, Callable[[], Any]]:
    """By the operators compiled for a CPU."""
    from mlff_core.ops.numba.charges import CHARGE_OPS

    layout = layout_of(case.batch.mol_idx, case.batch.n_mols)
    return charge_calls(case, CHARGE_OPS, layout)


def triton_charge_calls(case: Case) -> dict[str, Callable[[], Any]]:
    """By kernels."""
    from mlff_core.ops.triton.charges import CHARGE_OPS, Spans

    return charge_calls(case, CHARGE_OPS, Spans(case.batch.ptr, case.batch.mol_idx))


def plain_steps(
    case: Case, ops: EdgeOps = PLAIN_OPS, atom_ops: AtomOps = PLAIN_ATOM_OPS
) -> ExchangeableSteps:
    """The steps by plain operators, or by others over the pairs that plain ones find."""
    config, batch = case.model.config, case.batch
    if ops.find_edges is not None:
        edges = ops.find_edges(batch.positions, batch.mol_idx, batch.ptr, config.n_rbf)
    else:
        i, j = neighbor_pairs(batch.positions, batch.ptr, config.cutoff)
        edges = plain.edge_geometry(batch.positions, i, j, config.n_rbf, config.cutoff)
    return ExchangeableSteps(case.model, edges, ops, atom_ops)


def numba_steps(case: Case) -> ExchangeableSteps:
    """The steps by the operators compiled for a CPU."""
    from mlff_core.ops.numba.atoms import ATOM_OPS
    from mlff_core.ops.numba.message import MessageOps

    return plain_steps(case, MessageOps(case.model.config.cutoff).edge_ops, ATOM_OPS)


def twice_steps(case: Case) -> ExchangeableSteps:
    """The steps by the kernels that force training differentiates."""
    from mlff_core.ops.triton.message_twice import reverse_rows, triton_edge_ops

    i, j = neighbor_pairs(case.batch.positions, case.batch.ptr, case.model.config.cutoff)
    row = torch.searchsorted(i, torch.arange(case.batch.n_atoms + 1, device=i.device))
    return plain_steps(case, triton_edge_ops(row, reverse_rows(j)))


def triton_steps(case: Case, precision: str = "float32") -> "KernelSteps":
    """The steps by kernels, with what pairs add to the energies left out."""
    from mlff_core.ops.triton.pairs import pairs
    from mlff_core.ops.triton.steps import KernelSteps, Weights

    batch, weights = case.batch, Weights.lay_out(case.model, precision)
    rows, _, repulsion, _ = pairs(
        batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge,
        weights.tables, case.model.config.cutoff,
    )  # fmt: skip
    return KernelSteps(weights, rows, torch.zeros_like(repulsion))
