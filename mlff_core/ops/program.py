"""The order of the operators, and energy and forces by it from exchangeable operators.

`forward_and_back` is the order, which every engine follows. `energy_and_forces` follows it in one
pass without an autograd graph, with the operators of `plain` or with those of `numba`;
`triton.engine` follows it with kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.charges import PLAIN_CHARGE_OPS, ChargeOps, ChargeStep, Layout
from mlff_core.ops.plain import Edges

if TYPE_CHECKING:
    from mlff_core.models.painn import Message, PaiNN, Update


class Steps(Protocol):
    """What an engine does at each step; what a step keeps for its way back is its own affair.

    Blocks are numbered from 0. There are no vector features before the first block, and nothing
    asks for gradients beyond it.
    """

    def phi_fwd(self, k: int, q: Tensor) -> tuple[Tensor, Any]:
        """What the atoms say as senders, and what `phi_bwd` needs."""

    def message_fwd(
        self, k: int, phi: Tensor, q: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scalars and vectors with what the neighbours add."""

    def update_fwd(self, k: int, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """Scalars and vectors, mixed, and what `update_bwd` needs."""

    def readout(self, q: Tensor) -> Tensor:
        """The gradient of the sum of all energies in q; the energies are kept."""

    def update_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor | None, kept: Any
    ) -> tuple[Tensor, Tensor]:
        """Gradients in what `update_fwd` was given; after the last block there is no g_mu."""

    def message_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor, phi: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Gradients in phi and mu, None for the first block; those in the geometry are kept."""

    def phi_bwd(self, k: int, g_phi: Tensor, hidden: Any, g_q: Tensor) -> Tensor:
        """g_q with what comes through phi added."""


def forward_and_back(
    steps: Steps, n_blocks: int, q: Tensor, charges: "ChargeStep | None" = None
) -> None:
    """PaiNN from the first scalar features to the energies, and back to the geometry.

    Args:
        steps: The operators; they keep what came out.
        n_blocks: Number of interaction blocks.
        q: Scalar features of each atom's kind [n_atoms, n_features].
        charges: What partial charges do after a block; None for a model without.
    """
    after = 0 if charges is None else charges.after
    mu: Tensor | None = None
    saved = []
    for k in range(n_blocks):
        phi, hidden = steps.phi_fwd(k, q)
        q, mixed = steps.message_fwd(k, phi, q, mu)
        mu_in = mu
        q, mu, kept = steps.update_fwd(k, q, mixed)
        saved.append((phi, hidden, mu_in, kept))
        if charges is not None and k + 1 == after:
            q = charges.forward(q)
    g_q = steps.readout(q)
    g_mu: Tensor | None = None
    for k in reversed(range(n_blocks)):
        if charges is not None and k + 1 == after:
            g_q = charges.backward(g_q)
        phi, hidden, mu_in, kept = saved[k]
        g_q, g_mixed = steps.update_bwd(k, g_q, g_mu, kept)
        gradients = steps.message_bwd(k, g_q, g_mixed, phi, mu_in)
        if gradients is not None:
            g_phi, g_mu = gradients
            g_q = steps.phi_bwd(k, g_phi, hidden, g_q)


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


class Computed(NamedTuple):
    """What a pass gives.

    Attributes:
        energy: eV, float64 [n_mols].
        forces: eV/Å [n_atoms, 3].
        charges: Partial charges in e [n_atoms]; None where the model has none.
    """

    energy: Tensor
    forces: Tensor
    charges: Tensor | None


class AnalyticEngine:
    """PaiNN in plain PyTorch operators, forces by the hand-derived backward pass."""

    def __init__(
        self,
        model: "PaiNN",
        ops: EdgeOps = PLAIN_OPS,
        atom_ops: AtomOps = PLAIN_ATOM_OPS,
        charge_ops: ChargeOps = PLAIN_CHARGE_OPS,
    ):
        self.model = model
        self.ops, self.atom_ops, self.charge_ops = ops, atom_ops, charge_ops

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]; and charges in e
        [n_atoms] where the model has some."""
        model, ops = self.model, self.ops
        with torch.no_grad():
            if ops.find_edges is None:
                i, j = neighbor_pairs(positions, ptr, model.config.cutoff)
                edges = plain.edge_geometry(
                    positions, i, j, model.config.n_rbf, model.config.cutoff
                )
            else:
                edges = ops.find_edges(positions, mol_idx, ptr, model.config.n_rbf)
            more = (edges, ops, self.atom_ops, self.charge_ops)
            found = _computed(model, numbers, positions, mol_idx, charge, *more)
        return tuple(x for x in found if x is not None)


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
    """The first two of what `energy_forces_and_charges` gives, for the same arguments."""
    return energy_forces_and_charges(
        model, numbers, positions, mol_idx, charge, i, j, ops, atom_ops
    )[:2]


def energy_forces_and_charges(
    model: "PaiNN",
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    charge: Tensor,
    i: Tensor,
    j: Tensor,
    ops: EdgeOps = PLAIN_OPS,
    atom_ops: AtomOps = PLAIN_ATOM_OPS,
    layout: Layout | None = None,
    charge_ops: ChargeOps = PLAIN_CHARGE_OPS,
    edge_geometry: Callable[..., Edges] = plain.edge_geometry,
) -> Computed:
    """What a model says of every molecule; with `PLAIN_OPS` differentiable in the weights.

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
        layout: Where the atoms of each molecule that has charges are; None finds it.
        charge_ops: The operators over molecules.
        edge_geometry: `plain.edge_geometry`.
    """
    edges = edge_geometry(positions, i, j, model.config.n_rbf, model.config.cutoff)
    more = (edges, ops, atom_ops, charge_ops, layout)
    return _computed(model, numbers, positions, mol_idx, charge, *more)


def _computed(
    model: "PaiNN",
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    charge: Tensor,
    edges: Edges,
    ops: EdgeOps,
    atom_ops: AtomOps,
    charge_ops: ChargeOps,
    layout: Layout | None = None,
) -> Computed:
    config, i, j = model.config, edges.i, edges.j
    species = model.atom_index[numbers]
    nuclear, radius = model.nuclear_charge[species], model.radius[species]
    steps = ExchangeableSteps(model, edges, ops, atom_ops)
    q = model.element(species) + model.charge(charge[mol_idx] - config.min_charge)
    # Each pair is listed twice, so half of its energy and of its slope goes to each listing.
    if ops.repulsion is not None:
        repulsion, steps.g_distance = ops.repulsion(edges, nuclear, radius)
    else:
        pair, pair_slope = plain.repulsion_fwd_bwd(
            edges.distance, nuclear[i], nuclear[j], radius[i] + radius[j]
        )
        repulsion, steps.g_distance = None, 0.5 * pair_slope
    read = ChargeStep.of(model, positions, mol_idx, charge, charge_ops, layout)
    forward_and_back(steps, config.n_interactions, q, read)
    if repulsion is not None:
        atomic = steps.atomic + repulsion
    else:
        atomic = steps.atomic.index_add(0, i, 0.5 * pair)
    gradient = ops.position_gradient(edges, steps.g_distance, steps.g_unit, len(positions))

    if read is not None:
        atomic, gradient = read.added(atomic, gradient)
    # An atom at NaN has no neighbours, hence an energy and forces around it: finite, and wrong.
    atomic = torch.where(positions.isfinite().all(-1), atomic, torch.nan)
    energy = torch.zeros(len(charge), dtype=torch.float64, device=positions.device).index_add(
        0, mol_idx, atomic.double() + model.reference_energy[species]
    )
    forces = torch.where(energy.isnan()[mol_idx][:, None], torch.nan, -gradient)
    return Computed(energy, forces, None if read is None else read.known(energy, mol_idx))


class ExchangeableSteps:
    """The steps by `EdgeOps` and `AtomOps`, functional throughout.

    Attributes:
        atomic: After the readout, the energy of each atom without repulsion in eV [n_atoms].
        g_distance: Gradient in the distance of each pair, eV/Å [n_edges].
        g_unit: Gradient in the unit vector of each pair, eV [n_edges, 3].
    """

    def __init__(self, model: "PaiNN", edges: Edges, ops: EdgeOps, atom_ops: AtomOps):
        self.model, self.edges, self.ops, self.atom_ops = model, edges, ops, atom_ops
        self.blocks = blocks(model)
        self._filters: dict[int, Tensor] = {}
        self.atomic = edges.distance.new_zeros(0)
        self.g_distance = torch.zeros_like(edges.distance)
        self.g_unit = torch.zeros_like(edges.unit)

    def phi_fwd(self, k: int, q: Tensor) -> tuple[Tensor, Any]:
        """As in `Steps`."""
        message, _ = self.blocks[k]
        w1, b1, w2, b2 = mlp_weights(message.phi)
        if k == 0 and self.ops.scalar_fwd is not None:
            n_used = 2 * q.shape[1]
            w2, b2 = w2[:n_used], b2[:n_used]
        return self.atom_ops.mlp_fwd(q, w1, b1, w2, b2)

    def filters(self, k: int) -> Tensor:
        """Filter weights of a block; what no vectors multiply is left out."""
        if k not in self._filters:
            filters = filter_matrix(self.blocks[k][0])
            scalar = k == 0 and self.ops.scalar_fwd is not None
            self._filters[k] = filters[: len(filters) // 3 * 2] if scalar else filters
        return self._filters[k]

    def message_fwd(
        self, k: int, phi: Tensor, q: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        if mu is None:
            mu = q.new_zeros(len(q), 3, q.shape[1])
        if k == 0 and self.ops.scalar_fwd is not None:
            dq, dmu = self.ops.scalar_fwd(phi, self.edges, self.filters(k))
        else:
            dq, dmu = self.ops.message_fwd(phi, mu, self.edges, self.filters(k))
        return q + dq, mu + dmu

    def update_fwd(self, k: int, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Any]:
        """As in `Steps`."""
        _, update = self.blocks[k]
        return self.atom_ops.update_fwd(q, mu, update.uv.weight, *mlp_weights(update.a))

    def readout(self, q: Tensor) -> Tensor:
        """As in `Steps`."""
        w1, b1, w2, b2 = mlp_weights(self.model.readout)
        scale = self.model.energy_scale
        self.atomic, hidden = self.atom_ops.readout_fwd(q, w1, b1, w2, b2, scale)
        return self.atom_ops.readout_bwd(hidden, w1, w2, scale)

    def update_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor | None, kept: Any
    ) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        _, update = self.blocks[k]
        w1, _, w2, _ = mlp_weights(update.a)
        if g_mu is None:
            g_mu = g_q.new_zeros(len(g_q), 3, g_q.shape[1])
        return self.atom_ops.update_bwd(g_q, g_mu, kept, update.uv.weight, w1, w2)

    def message_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor, phi: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """As in `Steps`."""
        if k == 0 and self.ops.scalar_bwd is not None:
            g_d, g_u = self.ops.scalar_bwd(g_q, g_mu, phi, self.edges, self.filters(k))
            self.g_distance, self.g_unit = self.g_distance + g_d, self.g_unit + g_u
            return None
        given = torch.zeros_like(g_mu) if mu is None else mu
        g_phi, g_mu_in, g_d, g_u = self.ops.message_bwd(
            g_q, g_mu, phi, given, self.edges, self.filters(k)
        )
        self.g_distance, self.g_unit = self.g_distance + g_d, self.g_unit + g_u
        return None if k == 0 else (g_phi, g_mu + g_mu_in)

    def phi_bwd(self, k: int, g_phi: Tensor, hidden: Any, g_q: Tensor) -> Tensor:
        """As in `Steps`."""
        message, _ = self.blocks[k]
        w1, _, w2, _ = mlp_weights(message.phi)
        return g_q + self.atom_ops.mlp_bwd(g_phi, hidden, w1, w2)


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
