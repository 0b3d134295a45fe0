"""Energies of single atoms, which a network only has to add to."""

import torch
from torch import Tensor


def fit_reference_energy(numbers: Tensor, energy: Tensor, elements: tuple[int, ...]) -> Tensor:
    """Energy of an atom of each element by least squares in eV, float64 [n_elements].

    Elements that do not occur get zero.

    Args:
        numbers: Atomic numbers, 0 on padding [n_mols, width].
        energy: eV, float64 [n_mols].
        elements: Atomic numbers of the table.
    """
    counts = torch.stack([(numbers == z).sum(1) for z in elements], 1).double().cpu()
    # A little ridge: elements that are rare or always come together must not run away.
    gram = counts.T @ counts + 1e-6 * torch.eye(len(elements), dtype=torch.float64)
    return torch.linalg.solve(gram, counts.T @ energy.double().cpu())
