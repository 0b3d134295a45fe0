"""Errors on the batches that are trained on, added up on the device."""

import math

import torch
from torch import Tensor

from mlff_core.units import E_ANGSTROM_DEBYE


class Metrics:
    """Sums of errors on the device, read once in a while."""

    def __init__(self, device: torch.device | str):
        self.sums = torch.zeros(6, dtype=torch.float64, device=device)
        self.charge_sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, force_error: Tensor, atoms: Tensor, pair_error: Tensor, pairs: Tensor) -> None:
        """Count the errors of a batch; `atoms` and `pairs` say with 1 or 0 which count.

        A batch with an error that is not finite is left out whole, as its step is: it would make
        the means of all others unreadable.
        """
        found = torch.stack(
            [
                (force_error.abs().sum(-1) * atoms).sum().double(),
                (force_error.square().sum(-1) * atoms).sum().double(),
                3 * atoms.sum().double(),
                (pair_error.abs() * pairs).sum().double(),
                pairs.sum().double(),
                torch.ones((), dtype=torch.float64, device=atoms.device),
            ]
        )
        self.sums += torch.where(found.isfinite().all(), found, 0.0)

    def add_charges(self, error: Tensor, atoms: Tensor, dipole_error: Tensor, mols: Tensor) -> None:
        """Count likewise errors of charges in e, and lengths of those of dipoles in e·Å."""
        found = torch.stack(
            [
                (error.abs() * atoms).sum().double(),
                atoms.sum().double(),
                (dipole_error * mols).sum().double(),
                mols.sum().double(),
            ]
        )
        self.charge_sums += torch.where(found.isfinite().all(), found, 0.0)

    def read(self) -> dict[str, float]:
        """Means since the last reading, of charges in e and dipoles in debye if there were any;
        waits for the device."""
        mae, mse, components, pair, pairs, batches = self.sums.tolist()
        charge, atoms, dipole, mols = self.charge_sums.tolist()
        self.sums.zero_()
        self.charge_sums.zero_()
        of_charges = {
            "charge_mae": charge / max(1.0, atoms),
            "dipole_mae": E_ANGSTROM_DEBYE * dipole / max(1.0, mols),
        }
        return (of_charges if atoms else {}) | {
            "force_mae": mae / max(1.0, components),
            "force_rmse": math.sqrt(mse / max(1.0, components)),
            "pair_mae": pair / max(1.0, pairs),
            "batches": batches,
        }
