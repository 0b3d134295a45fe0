"""Partial charges for a student whose weights stay as they are: only what reads them is learnt.

Energies and forces are then those of before, to the last bit: nothing hears of the charges. The
features that the charges are read from never change either, so they are worked out once for all
labels, and a step of training is a small network on a table.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mlff_core.distill.losses import huber
from mlff_core.distill.pool import LabelPool
from mlff_core.models.painn import PaiNN
from mlff_core.models.partial_charges import PartialCharges
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.charges import WEIGHT_FLOOR
from mlff_core.ops.program import PLAIN_ATOM_OPS, PLAIN_OPS, ExchangeableSteps

#: Geometries whose features are worked out at once.
_AT_ONCE = 128


@dataclass(frozen=True)
class ReadoutConfig:
    """How charges are learnt.

    Attributes:
        after: The block after which they are read, from 1.
        n_mols: Geometries in a batch.
        learning_rate: Of AdamW, at its height; a cosine in time takes it to zero.
        warmup_steps: Steps until the highest.
        ema_decay: Of the weights that are kept.
        charge_weight: Of the errors of charges, per e.
        charge_delta: Where their Huber loss turns from square to linear, in e.
        dipole_weight: Of the length of the error of the dipole moment, per e·Å.
        seed: Of everything random.
    """

    after: int = 3
    n_mols: int = 512
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    ema_decay: float = 0.998
    charge_weight: float = 2.0
    charge_delta: float = 0.005
    dipole_weight: float = 0.3
    seed: int = 1


@dataclass(frozen=True)
class Labelled:
    """Geometries with the teacher's charges and a student's features, padded to one width.

    Attributes:
        features: Of all atoms, and a row of zeros for places without one [n_atoms + 1, n_features].
        place: Row of each place, int64 [n, width].
        real: Where there is an atom, bool [n, width].
        positions: Å [n, width, 3].
        charges: The teacher's, in e [n, width].
        total: Total charges in e [n].
    """

    features: Tensor
    place: Tensor
    real: Tensor
    positions: Tensor
    charges: Tensor
    total: Tensor


@torch.no_grad()
def labelled(network: PaiNN, pool: LabelPool, after: int) -> Labelled:
    """All labels that count of a pool, with the features after one of a network's blocks."""
    assert pool.charges is not None
    n_filled = int(pool.n_filled)
    slots = torch.arange(pool.energy.shape[1], device=pool.energy.device)
    row, slot = (slots < pool.n_valid[:n_filled, None]).nonzero(as_tuple=True)
    real = pool.numbers[row] > 0
    rows = real.flatten().cumsum(0).view(real.shape) - 1
    n_atoms = int(real.sum())
    features = torch.zeros(n_atoms + 1, network.config.n_features, device=real.device)
    first = 0
    for k in range(0, len(row), _AT_ONCE):
        some = slice(k, k + _AT_ONCE)
        here = real[some]
        found = features_after(
            network,
            pool.numbers[row[some]][here].long(),
            pool.positions[row[some], slot[some]][here],
            here.sum(1),
            pool.charge[row[some]],
            after,
        )
        features[first : first + len(found)] = found
        first += len(found)
    return Labelled(
        features,
        torch.where(real, rows, n_atoms),
        real,
        pool.positions[row, slot],
        pool.charges[row, slot],
        pool.charge[row],
    )


def features_after(
    network: PaiNN, numbers: Tensor, positions: Tensor, sizes: Tensor, charge: Tensor, after: int
) -> Tensor:
    """Scalar features after some of the blocks [n_atoms, n_features].

    Args:
        network: The student.
        numbers: Atomic numbers, int64 [n_atoms].
        positions: Å [n_atoms, 3].
        sizes: Atoms of each molecule, int64 [n_mols].
        charge: Total charges in e, int64 [n_mols].
        after: How many blocks.
    """
    config = network.config
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    i, j = neighbor_pairs(positions, ptr, config.cutoff)
    edges = plain.edge_geometry(positions, i, j, config.n_rbf, config.cutoff)
    steps = ExchangeableSteps(network, edges, PLAIN_OPS, PLAIN_ATOM_OPS)
    of_atom = charge.long().repeat_interleave(sizes) - config.min_charge
    q = network.element(network.atom_index[numbers]) + network.charge(of_atom)
    mu: Tensor | None = None
    for k in range(after):
        phi, _ = steps.phi_fwd(k, q)
        q, mixed = steps.message_fwd(k, phi, q, mu)
        q, mu, _ = steps.update_fwd(k, q, mixed)
    return q


def charges_of(read: PartialCharges, known: Labelled, chosen: Tensor) -> Tensor:
    """Charges of some of the geometries in e [n, width]; `PartialCharges.forward`, padded."""
    real = known.real[chosen]
    own, before = read.network(known.features[known.place[chosen]]).double().unbind(-1)
    own = torch.where(real, own, 0.0)
    weight = torch.where(real, softplus(before) + WEIGHT_FLOOR, 0.0)
    missing = known.total[chosen] - own.sum(1)
    return (own + weight * (missing / weight.sum(1))[:, None]).float()


class ReadoutTrainer:
    """What reads charges, in training.

    Attributes:
        read: Being trained.
        averaged: Its moving average, which is kept.
        n_steps: Steps done.
    """

    def __init__(self, network: PaiNN, known: Labelled, config: ReadoutConfig):
        torch.manual_seed(config.seed)
        self.known, self.config = known, config
        width = network.config.n_features
        read = PartialCharges(width, feedback=False, coulomb=False)
        self.read = read.to(known.features.device)
        self.averaged = copy.deepcopy(self.read).requires_grad_(False)
        self.n_steps = 0
        self._optimizer = torch.optim.AdamW(
            self.read.parameters(), lr=config.learning_rate, weight_decay=1e-4
        )

    def step(self, progress: float) -> Tensor:
        """One step at a point of the schedule, 0 to 1; returns the loss."""
        config, known = self.config, self.known
        warm = min(1.0, (self.n_steps + 1) / config.warmup_steps)
        rate = config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(known.total), (config.n_mols,), device=known.total.device)
        error = charges_of(self.read, known, chosen) - known.charges[chosen]
        error = torch.where(known.real[chosen], error, 0.0)
        cost = huber(error, config.charge_delta).sum() / known.real[chosen].sum()
        dipole = (error[..., None] * known.positions[chosen]).sum(1)
        length = (dipole.square().sum(-1) + 1e-6).sqrt().mean()
        loss = config.charge_weight * cost + config.dipole_weight * length
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self.n_steps += 1
        # A short memory at first: random weights are worth nothing.
        decay = min(config.ema_decay, self.n_steps / (self.n_steps + 10.0))
        with torch.no_grad():
            for average, weights in zip(
                self.averaged.parameters(), self.read.parameters(), strict=True
            ):
                average.lerp_(weights, 1.0 - decay)
        return loss.detach()


@torch.no_grad()
def errors(read: PartialCharges, known: Labelled) -> tuple[Tensor, Tensor]:
    """Of each geometry: mean error of its charges in e, and that of its dipole in e·Å, as sizes."""
    parts: list[tuple[Tensor, Tensor]] = []
    for chosen in _pieces(len(known.total), known.total.device):
        error = charges_of(read, known, chosen) - known.charges[chosen]
        error = torch.where(known.real[chosen], error, 0.0)
        dipole = (error[..., None] * known.positions[chosen]).sum(1).norm(dim=1)
        parts.append((error.abs().sum(1) / known.real[chosen].sum(1), dipole))
    charge, dipole = zip(*parts, strict=True)
    return torch.cat(charge), torch.cat(dipole)


def _pieces(n: int, device: torch.device, size: int = 1024) -> Iterator[Tensor]:
    for k in range(0, n, size):
        yield torch.arange(k, min(n, k + size), device=device)
