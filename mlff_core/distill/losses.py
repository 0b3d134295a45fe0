"""The losses of energies, forces, charges and dipole moments, and their weights."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.distill.metrics import Metrics
from mlff_core.distill.pool import FixedBatch
from mlff_core.distill.training_config import TrainingConfig


class Weights(NamedTuple):
    """Weights of parts of the loss that change in the course of a stage, on the device [] each."""

    pair: Tensor
    energy: Tensor
    dipole: Tensor

    @classmethod
    def first(cls, config: TrainingConfig, device: torch.device | str) -> "Weights":
        """Those that a stage begins with."""
        return cls(*(torch.tensor(begin, device=device) for begin, _ in cls.ends(config)))

    @staticmethod
    def ends(config: TrainingConfig) -> list[tuple[float, float]]:
        """The first and the last value of each."""
        pairs = (
            (config.pair_weight, config.final_pair_weight),
            (config.energy_weight, config.final_energy_weight),
            (config.dipole_weight, config.final_dipole_weight),
        )
        return [(begin, begin if end is None else end) for begin, end in pairs]

    def set(self, config: TrainingConfig, way: float) -> None:
        """To what they are somewhere on the way from the first to the last, 0 to 1."""
        for weight, (begin, end) in zip(self, self.ends(config), strict=True):
            weight.fill_(begin + (end - begin) * way)


def losses(
    energy: Tensor,
    forces: Tensor,
    batch: FixedBatch,
    weights: Weights,
    config: TrainingConfig,
    metrics: Metrics | None = None,
) -> Tensor:
    """The loss of a batch whose second half are other geometries of the first half's molecules.

    Args:
        energy: eV, float64 [n_mols].
        forces: eV/Å [n_atoms, 3].
        batch: With the labels.
        weights: Of energies and of their differences.
        config: The other weights.
        metrics: Where errors are added up.
    """
    atoms = torch.cat([batch.weight, batch.weight.new_zeros(1)])[batch.mol_idx]
    error = (forces - batch.forces) * atoms[:, None]
    # Lengths before squares: the few atoms with huge forces must not rule. Smooth near zero.
    square = error.square().sum(-1) + 1e-6
    cost = square.sqrt() + config.square_weight * square
    force_loss = (cost * atoms).sum() / atoms.sum()

    energy_error = (energy - batch.energy).float()
    first, second = energy_error.chunk(2)
    both = batch.weight.chunk(2)
    pairs = both[0] * both[1]
    pair_error = first - second
    pair_loss = (huber(pair_error, config.energy_delta) * pairs).sum() / pairs.sum()
    energy_loss = (
        huber(energy_error, config.energy_delta) * batch.weight
    ).sum() / batch.weight.sum()
    if metrics is not None:
        metrics.add(error.detach(), atoms, pair_error.detach(), pairs)
    return force_loss + weights.pair * pair_loss + weights.energy * energy_loss


def charge_losses(
    charges: Tensor,
    batch: FixedBatch,
    weights: Weights,
    config: TrainingConfig,
    metrics: Metrics | None = None,
) -> Tensor:
    """The loss of partial charges, and of the dipole moments that they make.

    Args:
        charges: e [n_atoms]; those of a molecule add up to its charge.
        batch: With the labels.
        weights: Of the dipole moment.
        config: The other weight.
        metrics: Where errors are added up.
    """
    assert batch.charges is not None
    assert batch.layout is not None
    atoms = torch.cat([batch.weight, batch.weight.new_zeros(1)])[batch.mol_idx]
    error = (charges - batch.charges) * atoms
    charge_loss = (huber(error, config.charge_delta) * atoms).sum() / atoms.sum()
    # Errors of a molecule add up to nothing, so no place is special; far from it they would round.
    dipole = batch.layout.padded(error[:, None] * batch.positions).sum(1)
    length = (dipole.square().sum(-1) + 1e-6).sqrt()
    dipole_loss = (length * batch.weight).sum() / batch.weight.sum()
    if metrics is not None:
        metrics.add_charges(error.detach(), atoms, length.detach(), batch.weight)
    return config.charge_weight * charge_loss + weights.dipole * dipole_loss


def huber(error: Tensor, delta: float) -> Tensor:
    """error² / 2 delta near zero, |error| - delta / 2 beyond delta."""
    return torch.nn.functional.smooth_l1_loss(
        error, torch.zeros_like(error), beta=delta, reduction="none"
    )
