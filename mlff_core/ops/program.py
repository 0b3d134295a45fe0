"""Energy and forces in one pass without an autograd graph, from exchangeable operators."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.plain import Edges

if TYPE_CHECKING:
    from mlff_core.models.painn import Message, PaiNN, Update


@dataclass(frozen=True)
class EdgeOps:
    """The operators that run over pairs, where nearly all the time goes on a CPU.

    Each must mean what the function of the same name in `plain` means; see there for the
    arguments and shapes.

    Attributes:
        message_fwd: (phi, mu, edges, filters) -> dq, dmu.
        message_bwd: (g_dq, g_dmu, phi, mu, edges, filters) -> g_phi, g_mu, g_distance, g_unit.
        scalar_fwd: (phi, edges, filters) -> dq, dmu. What `message_fwd` returns where all vectors
            are zero, as they are in the first block; phi and filters come without their last
            third, which nothing then multiplies. None: `message_fwd` is used.
        scalar_bwd: (g_dq, g_dmu, phi, edges, filters) -> g_distance, g_unit, likewise; nothing asks
            for gradients beyond the first block.
        find_edges: (positions, mol_idx, ptr, n_rbf) -> the pairs and their geometry, of which the
            basis need hold only what the other operators read. None: `neighbor_pairs` and
            `plain.edge_geometry` are used.
        repulsion: (edges, Z, radius) -> the energy of each atom, half of what its pairs have, and
            half of the slope of each pair, from the nuclear charge and covalent radius of each
            atom. None: `plain.repulsion_fwd_bwd` is used.
        position_gradient: As that of `plain`.
    """

    message_fwd: Callable[[Tensor, Tensor, Edges, Tensor], tuple[Tensor, Tensor]]
    message_bwd: Callable[
        [Tensor, Tensor, Tensor, Tensor, Edges, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]
    ]
    scalar_fwd: Callable[[Tensor, Edges, Tensor], tuple[Tensor, Tensor]] | None = None
    scalar_bwd: Callable[[Tensor, Tensor, Tensor, Edges, Tensor], tuple[Tensor, Tensor]] | None = (
        None
    )
    find_edges: Callable[[Tensor, Tensor, Tensor, int], Edges] | None = None
    repulsion: Callable[[Edges, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    position_gradient: Callable[[Edges, Tensor, Tensor, int], Tensor] = plain.position_gradient


#: Plain PyTorch, on any device, differentiable once more.
PLAIN_OPS = EdgeOps(plain.message_fwd, plain.message_bwd)


class AtomOps(NamedTuple):
    """The operators that run over atoms: the functions of `plain` of these names, what
    `torch.compile` makes of them, or those of `numba.atoms`. What a forward keeps for its
    backward is its own affair."""

    mlp_fwd: Callable[..., Any] = plain.mlp_fwd
    mlp_bwd: Callable[..., Any] = plain.mlp_bwd
    update_fwd: Callable[..., Any] = plain.update_fwd
    update_bwd: Callable[..., Any] = plain.update_bwd
    readout_fwd: Callable[..., Any] = plain.readout_fwd
    readout_bwd: Callable[..., Any] = plain.readout_bwd


PLAIN_ATOM_OPS = AtomOps()


class AnalyticEngine:
    """PaiNN in plain PyTorch operators, forces by the hand-derived backward pass."""

    def __init__(
        self, model: "PaiNN", ops: EdgeOps = PLAIN_OPS, atom_ops: AtomOps = PLAIN_ATOM_OPS
    ):
        self.model = model
        self.ops, self.atom_ops = ops, atom_ops

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]."""
        model, ops, atom_ops = self.model, self.ops, self.atom_ops
        with torch.no_grad():
            if ops.find_edges is None:
                i, j = neighbor_pairs(positions, ptr, model.config.cutoff)
                return energy_and_forces(
                    model, numbers, positions, mol_idx, charge, i, j, ops, atom_ops
                )
            edges = ops.find_edges(positions, mol_idx, ptr, model.config.n_rbf)
            return _energy_and_forces(
                model, numbers, positions, mol_idx, charge, edges, ops, atom_ops
            )


def energy_and_forces(
    model: "PaiNN",
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    charge: Tensor,
    i: Tensor,
    j: Tensor,
    ops: EdgeOps = PLAIN_OPS,
    atom_ops: AtomOps = PLAIN_ATOM_OPS,
) -> tuple[Tensor, Tensor]:
    """Energy and forces of every molecule; with `PLAIN_OPS` differentiable in the weights.

    A molecule with a coordinate that is not finite, or with two atoms in one place, gets NaN for
    its energy and all of its forces.

    Args:
        model: The network; its parameters are used as they are, graph and all.
        numbers: Atomic numbers, all of them known to the model, int64 [n_atoms].
        positions: Coordinates in Å [n_atoms, 3].
        mol_idx: Molecule of each atom, int64 [n_atoms].
        charge: Total charges in e, int64 [n_mols].
        i: Destination of each pair within the cutoff, ascending, int64 [n_edges].
        j: Source of each pair, int64 [n_edges]; the list is symmetric.
        ops: The operators that run over pairs.
        atom_ops: The operators that run over atoms.

    Returns:
        Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3].
    """
    config = model.config
    edges = plain.edge_geometry(positions, i, j, config.n_rbf, config.cutoff)
    return _energy_and_forces(model, numbers, positions, mol_idx, charge, edges, ops, atom_ops)


def _energy_and_forces(
    model: "PaiNN",
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    charge: Tensor,
    edges: Edges,
    ops: EdgeOps,
    atom_ops: AtomOps = PLAIN_ATOM_OPS,
) -> tuple[Tensor, Tensor]:
    config, i, j = model.config, edges.i, edges.j
    species = model.atom_index[numbers]

    # Forward. What the backward needs of each block is kept.
    q = model.element(species) + model.charge(charge[mol_idx] - config.min_charge)
    mu = q.new_zeros(len(q), 3, config.n_features)
    saved = []
    for k, (message, update) in enumerate(blocks(model)):
        filters = filter_matrix(message)
        w1, b1, w2, b2 = mlp_weights(message.phi)
        if k == 0 and ops.scalar_fwd is not None:
            said = 2 * config.n_features
            w2, b2, filters = w2[:said], b2[:said], filters[:said]
            phi, hidden = atom_ops.mlp_fwd(q, w1, b1, w2, b2)
            dq, dmu = ops.scalar_fwd(phi, edges, filters)
        else:
            phi, hidden = atom_ops.mlp_fwd(q, w1, b1, w2, b2)
            dq, dmu = ops.message_fwd(phi, mu, edges, filters)
        mu_in = mu
        q, mu, kept = atom_ops.update_fwd(
            q + dq, mu + dmu, update.uv.weight, *mlp_weights(update.a)
        )
        saved.append((message, update, filters, phi, hidden, mu_in, kept))
    atomic, hidden = atom_ops.readout_fwd(q, *mlp_weights(model.readout), model.energy_scale)
    nuclear, radius = model.nuclear_charge[species], model.radius[species]
    if ops.repulsion is not None:
        repulsion, g_distance = ops.repulsion(edges, nuclear, radius)
        atomic = atomic + repulsion
    else:
        pair, pair_slope = plain.repulsion_fwd_bwd(
            edges.distance, nuclear[i], nuclear[j], radius[i] + radius[j]
        )
        # Each pair is listed twice, so half of its energy and of its slope goes to each listing.
        atomic, g_distance = atomic.index_add(0, i, 0.5 * pair), 0.5 * pair_slope

    # Backward, the blocks in reverse.
    w1, _, w2, _ = mlp_weights(model.readout)
    g_q = atom_ops.readout_bwd(hidden, w1, w2, model.energy_scale)
    g_mu = torch.zeros_like(mu)
    g_unit = torch.zeros_like(edges.unit)
    for k, (message, update, filters, phi, hidden, mu_in, kept) in reversed(list(enumerate(saved))):
        w1, _, w2, _ = mlp_weights(update.a)
        g_q, g_mu = atom_ops.update_bwd(g_q, g_mu, kept, update.uv.weight, w1, w2)
        if k == 0 and ops.scalar_bwd is not None:
            g_d, g_u = ops.scalar_bwd(g_q, g_mu, phi, edges, filters)
        else:
            g_phi, g_mu_in, g_d, g_u = ops.message_bwd(g_q, g_mu, phi, mu_in, edges, filters)
        g_distance, g_unit = g_distance + g_d, g_unit + g_u
        if k > 0:
            w1, _, w2, _ = mlp_weights(message.phi)
            g_q = g_q + atom_ops.mlp_bwd(g_phi, hidden, w1, w2)
            g_mu = g_mu + g_mu_in
    gradient = ops.position_gradient(edges, g_distance, g_unit, len(positions))

    # An atom at NaN has no neighbours, hence an energy and forces around it: finite, and wrong.
    atomic = torch.where(positions.isfinite().all(-1), atomic, torch.nan)
    energy = torch.zeros(len(charge), dtype=torch.float64, device=positions.device).index_add(
        0, mol_idx, atomic.double() + model.reference_energy[species]
    )
    return energy, torch.where(energy.isnan()[mol_idx][:, None], torch.nan, -gradient)


def blocks(model: "PaiNN") -> list[tuple["Message", "Update"]]:
    """The model's interaction blocks, in order."""
    pairs = zip(model.message, model.update, strict=True)
    return [(cast("Message", message), cast("Update", update)) for message, update in pairs]


def filter_matrix(message: "Message") -> Tensor:
    """Weights of the filter, the bias as the last column [3 n_features, n_rbf + 1]."""
    return torch.cat([message.filter.weight, message.filter.bias[:, None]], -1)


def mlp_weights(network: nn.Sequential) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight and bias of the first layer, weight and bias of the second."""
    first, second = cast("nn.Linear", network[0]), cast("nn.Linear", network[2])
    return first.weight, first.bias, second.weight, second.bias
