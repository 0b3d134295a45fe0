"""Partial charges that add up, and their Coulomb energy: the plain meaning, backward included.

After one of the blocks a network of two layers gives each atom two numbers of its scalar features:
a charge as the atom sees it, and a weight. What the charges of a molecule lack of its total charge
is shared out by weight (`equilibrate_fwd`), so that they add up. They may be fed back to the
features, one direction in feature space times the charge, and have a Coulomb energy with every atom
of the molecule, however far (`coulomb`). The formulas are derived in docs/theory.md. Names as in
`plain`; c are the charges.

Everything works on molecules padded to one width (`Layout`), whose sums are taken in float64. It is
functional and out of place, so that autograd can differentiate it once more by the weights.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mlff_core.ops.plain import mlp_bwd, mlp_fwd
from mlff_core.units import COULOMB_EV_ANGSTROM

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from mlff_core.models.painn import PaiNN
    from mlff_core.models.partial_charges import PartialCharges

#: Added to every weight: what is missing has somewhere to go, whatever the network says.
WEIGHT_FLOOR = 0.01

#: Å from which on two charges have their whole Coulomb energy; nearer, the network knows. The form
#: and the number are those of AIMNet2, so that farther apart student and teacher mean the same.
COULOMB_ONSET = 4.6

#: Pairs that are worked on at a time.
MAX_PAIRS = 4_000_000


class Layout(NamedTuple):
    """Where the atoms of each molecule are in an array padded to one width, and back.

    Attributes:
        place: Row of each atom, n_atoms where there is none, int64 [n_mols, width].
        slot: Place of each atom in that array, flat; n_mols * width for an atom of no molecule,
            int64 [n_atoms].
    """

    place: Tensor
    slot: Tensor

    def padded(self, x: Tensor) -> Tensor:
        """Rows of atoms as [n_mols, width, ...], zeros where there is no atom."""
        rows = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return rows.index_select(0, self.place.flatten()).view(*self.place.shape, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """The inverse of `padded`; zeros for atoms of no molecule."""
        rows = torch.cat([x.flatten(0, 1), x.new_zeros(1, *x.shape[2:])])
        return rows.index_select(0, self.slot)


def layout_of(mol_idx: Tensor, n_mols: int) -> Layout:
    """Of molecules whose atoms follow each other, in order; waits for the device.

    Args:
        mol_idx: Molecule of each atom, ascending, int64 [n_atoms].
        n_mols: How many molecules there are.
    """
    n_atoms = len(mol_idx)
    sizes = torch.bincount(mol_idx, minlength=n_mols)
    width = int(sizes.max()) if n_atoms else 0
    atoms = torch.arange(n_atoms, device=mol_idx.device)
    slot = mol_idx * width + atoms - (sizes.cumsum(0) - sizes)[mol_idx]
    place = torch.full((n_mols * width,), n_atoms, dtype=torch.int64, device=mol_idx.device)
    return Layout(place.index_copy(0, slot, atoms).view(n_mols, width), slot)


class EquilibrateSaved(NamedTuple):
    """What the way back needs.

    Attributes:
        y: What the network said [n_atoms, 2].
        weight: Padded, float64 [n_mols, width].
        total: Sum of a molecule's weights, float64 [n_mols, 1].
        share: What is missing, for each unit of weight, float64 [n_mols, 1].
    """

    y: Tensor
    weight: Tensor
    total: Tensor
    share: Tensor


def equilibrate_fwd(y: Tensor, charge: Tensor, layout: Layout) -> tuple[Tensor, EquilibrateSaved]:
    """Charges that add up to those of the molecules, in e [n_atoms], and what the way back needs.

    c_i = y_i1 + w_i (Q - Σ y_j1) / Σ w_j with w_i = softplus(y_i2) + WEIGHT_FLOOR.

    Args:
        y: A charge in e and a weight, before it is made positive, of each atom [n_atoms, 2].
        charge: Total charges in e [n_mols].
        layout: Of the molecules.
    """
    own = layout.padded(y[:, 0]).double()
    weight = layout.padded(softplus(y[:, 1]) + WEIGHT_FLOOR).double()
    total = weight.sum(1, keepdim=True)
    share = (charge.double()[:, None] - own.sum(1, keepdim=True)) / total
    return layout.flat(own + weight * share).to(y.dtype), EquilibrateSaved(y, weight, total, share)


def equilibrate_bwd(g_c: Tensor, saved: EquilibrateSaved, layout: Layout) -> Tensor:
    """Gradient with respect to the y that `equilibrate_fwd` was given [n_atoms, 2]."""
    y, weight, total, share = saved
    g = layout.padded(g_c).double()
    # Whatever is given to one atom is taken from all, by weight.
    g_own = g - (g * weight).sum(1, keepdim=True) / total
    found = layout.flat(torch.stack([g_own, share * g_own], -1)).to(y.dtype)
    return torch.stack([found[:, 0], found[:, 1] * torch.sigmoid(y[:, 1])], -1)


def damped(distance: Tensor) -> tuple[Tensor, Tensor]:
    """f(d) / d in 1/Å and its slope in 1/Å², where f is what is left of a Coulomb energy.

    f = 1 - exp(1 - 1 / (1 - x²)) of x = d / COULOMB_ONSET; 1 from there on, where all derivatives
    are continuous.
    """
    x2 = (distance / COULOMB_ONSET).square()
    left = (1.0 - x2).clamp(min=1e-3)  # There the exponential is nothing in any precision.
    exponent = torch.where(x2 < 1.0 - 1e-3, -x2 / left, -torch.inf)
    f = -torch.expm1(exponent)
    slope = torch.exp(exponent) * 2.0 * distance / (COULOMB_ONSET * left).square()
    value = f / distance
    return value, (slope - value) / distance


def coulomb(
    c: Tensor, positions: Tensor, strength: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Coulomb energy of all pairs of atoms of a molecule, half of a pair's for each of its atoms.

    Args:
        c: Charges in e [n_atoms].
        positions: Å [n_atoms, 3].
        strength: Share of the Coulomb energy that is counted [1].
        layout: Of the molecules.

    Returns:
        Energy of each atom in eV [n_atoms]; the gradients of their sum with respect to the charges
        in eV/e [n_atoms] and to the positions in eV/Å [n_atoms, 3].
    """
    charges, x = layout.padded(c), layout.padded(positions)
    real = layout.place < len(c)
    unit = strength * COULOMB_EV_ANGSTROM
    n_mols, width = layout.place.shape
    potentials, gradients = [charges.new_zeros(0, width)], [x.new_zeros(0, width, 3)]
    # Bounds the memory of what is padded where one molecule is much larger than all others.
    at_a_time = max(1, MAX_PAIRS // max(1, width * width))
    itself = torch.eye(width, dtype=torch.bool, device=c.device)
    for k in range(0, n_mols, at_a_time):
        some = slice(k, k + at_a_time)
        pair = real[some, :, None] & real[some, None, :] & ~itself
        r = x[some, :, None] - x[some, None, :]
        distance = torch.where(pair, r.square().sum(-1), 1.0).sqrt()
        value, slope = damped(distance)
        q = charges[some]
        to_all = torch.where(pair, value * q[:, None, :], 0.0)
        potentials.append(to_all.sum(2, dtype=torch.float64).to(c.dtype) * unit)
        pull = torch.where(pair, slope * q[:, None, :] / distance, 0.0)
        field = (pull[..., None] * r).sum(2)
        gradients.append(field * (q * unit)[..., None])
    potential = layout.flat(torch.cat(potentials))
    return 0.5 * c * potential, potential, layout.flat(torch.cat(gradients))


class ChargeOps(NamedTuple):
    """The operators over molecules: those above, or what means the same and takes less time."""

    equilibrate_fwd: "Callable[..., tuple[Tensor, Any]]" = equilibrate_fwd
    equilibrate_bwd: "Callable[..., Tensor]" = equilibrate_bwd
    coulomb: "Callable[..., tuple[Tensor, Tensor, Tensor]]" = coulomb


PLAIN_CHARGE_OPS = ChargeOps()


class ChargeStep:
    """What `program.forward_and_back` does with charges, once on either way.

    Attributes:
        after: The block after which it comes, from 1.
        charges: After `forward`, in e [n_atoms].
        energy: After `forward`, the Coulomb energy of each atom in eV [n_atoms]; None without.
        gradient: Likewise its gradient in the positions, eV/Å [n_atoms, 3].
    """

    def __init__(
        self,
        module: "PartialCharges",
        after: int,
        positions: Tensor,
        charge: Tensor,
        layout: Any,
        ops: ChargeOps = PLAIN_CHARGE_OPS,
    ):
        """Get ready.

        Args:
            module: The weights.
            after: The block after which the charges are read, from 1.
            positions: Å [n_atoms, 3].
            charge: Total charges in e [n_mols].
            layout: Of the molecules, as the operators take it.
            ops: The operators over molecules.
        """
        self.module, self.after, self.ops = module, after, ops
        self.positions, self.charge, self.layout = positions, charge, layout
        self.charges = positions.new_zeros(0)
        self.energy: Tensor | None = None
        self.gradient: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: "PaiNN",
        positions: Tensor,
        mol_idx: Tensor,
        charge: Tensor,
        ops: ChargeOps,
        layout: Layout | None = None,
    ) -> "ChargeStep | None":
        """That of a model; None where it has no charges.

        Args:
            model: The network.
            positions: Å [n_atoms, 3].
            mol_idx: Molecule of each atom, int64 [n_atoms].
            charge: Total charges in e [n_mols]; those that the layout does not have are padding.
            ops: The operators over molecules.
            layout: Of the molecules; None finds it, and waits for the device.
        """
        if model.partial_charges is None:
            return None
        layout = layout_of(mol_idx, len(charge)) if layout is None else layout
        known = charge[: len(layout.place)]
        after = model.config.charges_after
        return cls(model.partial_charges, after, positions, known, layout, ops)

    def known(self, energy: Tensor, mol_idx: Tensor) -> Tensor:
        """Charges in e [n_atoms]; NaN where the energy of the molecule is no number."""
        return torch.where(energy.isnan()[mol_idx], torch.nan, self.charges)

    def added(self, atomic: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of atoms, and their gradient in the positions, with the Coulomb energy added."""
        if self.energy is None or self.gradient is None:
            return atomic, gradient
        return atomic + self.energy, gradient + self.gradient

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = cast("nn.Linear", self.module.network[0])
        second = cast("nn.Linear", self.module.network[2])
        return first.weight, first.bias, second.weight, second.bias

    def forward(self, q: Tensor) -> Tensor:
        """Finds the charges; returns the scalar features with what the charges add."""
        y, self._hidden = mlp_fwd(q, *self._weights())
        self.charges, self._saved = self.ops.equilibrate_fwd(y, self.charge, self.layout)
        self._potential: Tensor | None = None
        if self.module.strength is not None:
            self.energy, self._potential, self.gradient = self.ops.coulomb(
                self.charges, self.positions, self.module.strength, self.layout
            )
        if self.module.feedback is None:
            return q
        return q + self.charges[:, None] * self.module.feedback

    def backward(self, g_q: Tensor) -> Tensor:
        """Gradient in what `forward` was given, from the gradient in what it returned."""
        # A product of a matrix and a vector would round an atom by what else is in the batch.
        g_c = None if self.module.feedback is None else (g_q * self.module.feedback).sum(-1)
        if self._potential is not None:
            g_c = self._potential if g_c is None else g_c + self._potential
        if g_c is None:  # Nobody hears of the charges.
            return g_q
        g_y = self.ops.equilibrate_bwd(g_c, self._saved, self.layout)
        w1, _, w2, _ = self._weights()
        return g_q + mlp_bwd(g_y, self._hidden, w1, w2)
