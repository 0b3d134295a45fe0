"""Partial charges of the atoms of a PaiNN, in plain PyTorch: read, made to add up, fed back.

The equilibration is that of AIMNet2 (D. Anstine, R. Zubatyuk, O. Isayev, Chem. Sci. 2025), and so
is the way in which the Coulomb energy fades in.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mlff_core.ops.charges import COULOMB_ONSET, WEIGHT_FLOOR
from mlff_core.units import COULOMB_EV_ANGSTROM


class PartialCharges(nn.Module):
    """Charges of atoms that add up to the molecule's, and what they do.

    What they do begins at nothing: the direction of the feedback and the strength of the Coulomb
    energy are zero until they are trained, and a model that these parts are added to computes what
    it did.

    Attributes:
        network: Scalar features -> the charge that an atom sees, and its weight.
        feedback: What a charge of one adds to the scalar features [n_features]; None for nothing.
        strength: Share of the Coulomb energy that is counted [1]; None for none.
    """

    def __init__(self, n_features: int, *, feedback: bool, coulomb: bool):
        super().__init__()
        half = max(1, n_features // 2)
        self.network = nn.Sequential(nn.Linear(n_features, half), nn.SiLU(), nn.Linear(half, 2))
        self.feedback = nn.Parameter(torch.zeros(n_features)) if feedback else None
        self.strength = nn.Parameter(torch.zeros(1)) if coulomb else None

    def forward(self, q: Tensor, charge: Tensor, mol_idx: Tensor) -> Tensor:
        """Charge of each atom in e [n_atoms].

        Args:
            q: Scalar features [n_atoms, n_features].
            charge: Total charge of the molecule that each atom belongs to, int64 [n_atoms].
            mol_idx: Which molecule that is, int64 [n_atoms].
        """
        own, before = self.network(q).double().unbind(-1)
        weight = softplus(before) + WEIGHT_FLOOR

        def over_the_molecule(x: Tensor) -> Tensor:
            # No more molecules than atoms.
            return torch.zeros_like(x).index_add(0, mol_idx, x)[mol_idx]

        missing = charge - over_the_molecule(own)
        return (own + weight * missing / over_the_molecule(weight)).to(q.dtype)

    def fed_back(self, q: Tensor, charges: Tensor) -> Tensor:
        """Scalar features with what the charges add [n_atoms, n_features]."""
        return q if self.feedback is None else q + charges[:, None] * self.feedback

    def coulomb(self, charges: Tensor, positions: Tensor, mol_idx: Tensor) -> Tensor:
        """Coulomb energy of each atom with all others of its molecule in eV [n_atoms].

        Half of each pair's energy, which fades in up to `COULOMB_ONSET`. All pairs of atoms at
        once: for reference, not for large batches.
        """
        if self.strength is None:
            return torch.zeros_like(charges)
        i, j = (mol_idx[:, None] == mol_idx).fill_diagonal_(False).nonzero(as_tuple=True)
        distance = (positions[j] - positions[i]).square().sum(-1).sqrt()
        x2 = (distance / COULOMB_ONSET).square()
        near = x2 < 1.0
        # What is not near must not make the gradient NaN.
        fades = torch.exp(1.0 - 1.0 / (1.0 - torch.where(near, x2, 0.0)))
        share = 1.0 - torch.where(near, fades, 0.0)
        pair = self.strength * COULOMB_EV_ANGSTROM * charges[i] * charges[j] * share / distance
        return torch.zeros_like(charges).index_add(0, i, 0.5 * pair)
