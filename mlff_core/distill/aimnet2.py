"""AIMNet2's networks in a few large tensor operations, with the weights of their TorchScript.

D. Anstine, R. Zubatyuk, O. Isayev, Chem. Sci. 2025; what each line means is said by the TorchScript
itself, whose numbers these are up to rounding. There every member finds distances, basis and
dispersion for itself, in tensors whose layout every product has to change first. Here they are
found once for all members, in the layout in which a convolution is one batched product, and the
members' forces differ only in what flows back into that geometry.

Shapes: b molecules of n atoms, padded; m the atoms again, as neighbours; g radial functions; a
feature channels; h combinations of radial functions.
"""

import math
from typing import Any

import torch
from torch import Tensor

#: Å to bohr, and half a hartree in eV, as the TorchScript has them.
BOHR, HALF_HARTREE = 1.8897261258369282, 13.605693012183622
#: Half of Coulomb's constant, eV Å / e².
HALF_COULOMB = 7.19982260


class Member:
    """The weights of one network."""

    def __init__(self, script: Any):
        """Read them.

        Args:
            script: The TorchScript of an AIMNet2 without its wrapper for forces.
        """
        self.embedding: Tensor = script.afv.weight
        # Features and, from the second pass on, charges as one channel more [a + 1, g, h].
        self.mix = torch.cat([script.conv_a.agh, script.conv_q.agh])
        n_a, n_g, n_h = script.conv_a.agh.shape
        self.passes = [linear_layers(mlp) for mlp in script.mlps.children()]
        for layers in self.passes[1:]:
            weight, bias, bent = layers[0]
            # There: features, their sums and lengths, then charge, its sums and lengths.
            own, sums, lengths, charge, charge_sums, charge_lengths = weight.split(
                [n_a * n_g, n_a * n_g, n_a * n_h, 1, n_g, n_h], 1
            )
            order = [own, sums, charge_sums, lengths, charge_lengths, charge]
            layers[0] = torch.cat(order, 1), bias, bent
        outputs = script.outputs
        self.energy = linear_layers(outputs.energy_mlp.mlp)
        self.shift = outputs.atomic_shift.shifts.weight.squeeze(1).double()
        self.coulomb_cutoff = float(outputs.lrcoulomb.rc)


def linear_layers(sequence: Any) -> list[tuple[Tensor, Tensor, bool]]:
    """Weight, bias, and whether a GELU follows, of each linear layer of a sequence."""
    modules = list(sequence.children())
    return [
        (module.weight, module.bias, k + 1 < len(modules))
        for k, module in enumerate(modules)
        if hasattr(module, "weight")
    ]


def mlp(layers: list[tuple[Tensor, Tensor, bool]], x: Tensor) -> Tensor:
    """A multilayer perceptron with GELUs."""
    for weight, bias, bent in layers:
        x = torch.nn.functional.linear(x, weight, bias)
        if bent:
            x = torch.nn.functional.gelu(x)
    return x


def self_or_padding(padding: Tensor) -> Tensor:
    """Which pairs of places are none of two atoms, bool [b, n, m], from what is padding [b, n]."""
    itself = torch.eye(padding.shape[1], dtype=torch.bool, device=padding.device)
    return padding[:, :, None] | padding[:, None, :] | itself


class AIMNet2:
    """Several networks that share the basis of their geometry."""

    def __init__(self, scripts: list[Any]):
        """Read the weights.

        Args:
            scripts: A TorchScript of each network, without its wrapper for forces.

        Raises:
            ValueError: These are not AIMNet2s that share basis and dispersion.
        """
        try:
            self.members = [Member(script) for script in scripts]
            first = scripts[0]
            for script in scripts:
                same = (
                    torch.equal(script.aev.shifts_s, first.aev.shifts_s)
                    and float(script.aev.eta_s) == float(first.aev.eta_s)
                    and float(script.aev.rc_s) == float(first.aev.rc_s)
                    and torch.equal(script.outputs.d3bj.c6ab, first.outputs.d3bj.c6ab)
                    and script.d2features
                    and not script.aev._dual_basis
                )
                if not same:
                    raise ValueError("the networks differ in their basis or dispersion")
        except AttributeError as error:
            raise ValueError(f"not an AIMNet2: {error}") from error
        self.shifts: Tensor = first.aev.shifts_s
        self.eta, self.cutoff = float(first.aev.eta_s), float(first.aev.rc_s)
        self.dispersion = first.outputs.d3bj
        of_i = self.dispersion.c6ab[..., 1]  # coordination of the references [z, z', r, r']
        #: Coordination of each element's reference systems [z, r].
        self.references: Tensor = of_i[:, 0, :, 0]
        if not (of_i == self.references[:, None, :, None]).all():
            raise ValueError("the references of an element depend on its partner")

    def __call__(
        self, numbers: Tensor, positions: Tensor, charge: Tensor, chosen: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies in eV, float64 [k, b], forces in eV/Å [k, b, n, 3], and partial charges in e, 0
        on padding [k, b, n], of the chosen members.

        Args:
            numbers: Atomic numbers, 0 on padding, int64 [b, n].
            positions: Å [b, n, 3].
            charge: Total charges in e [b].
            chosen: Which k members.
        """
        padding = numbers == 0
        masked = self_or_padding(padding)
        with torch.enable_grad():
            x = positions.detach().float().requires_grad_(True)
            distance, basis = self._geometry(x, masked)
            leaves = distance.detach().requires_grad_(True), basis.detach().requires_grad_(True)
            dispersion = self._dispersion(numbers, leaves[0], masked)
            (slope,) = torch.autograd.grad(dispersion.sum(), leaves[0])
            energies, forces, charges = [], [], []
            for k in chosen:
                member = self.members[k]
                energy, found = self._energy(
                    member, numbers, charge.float(), padding, masked, *leaves
                )
                by_distance, by_basis = torch.autograd.grad(energy.sum(), leaves)
                (gradient,) = torch.autograd.grad(
                    (distance, basis), x, (by_distance + slope, by_basis), retain_graph=True
                )
                energies.append((energy + dispersion).detach())
                forces.append(-gradient)
                charges.append(found.detach())
        return torch.stack(energies), torch.stack(forces), torch.stack(charges)

    @torch.no_grad()
    def charges(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Tensor:
        """Partial charges of the atoms in e, the mean over the members, 0 on padding [b, n]; of
        what `charges_of_members` is told."""
        return self.charges_of_members(numbers, positions, charge).mean(0)

    def charges_of_members(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Tensor:
        """Partial charges of the atoms in e by each member, 0 on padding [n_members, b, n].

        Args:
            numbers: Atomic numbers, 0 on padding, int64 [b, n].
            positions: Å [b, n, 3].
            charge: Total charges in e [b].
        """
        padding = numbers == 0
        _, basis = self._geometry(positions.float(), self_or_padding(padding))
        found = [
            self._passes(member, numbers, charge.float(), padding, basis)[1]
            for member in self.members
        ]
        return torch.stack(found)

    def _geometry(self, x: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Distances [b, n, m], and basis: radial functions, and these times a direction
        [b, g, 4, n, m]. Masked pairs are at the cutoff, where all of it is zero."""
        to_neighbour = x.mT[:, :, None, :] - x.mT[:, :, :, None]  # [b, 3, n, m]
        square = to_neighbour.square().sum(1).masked_fill(masked, self.cutoff**2)
        distance = square.sqrt()
        share = (distance / self.cutoff).clamp(0.0, 1.0)
        envelope = 0.5 * torch.cos(math.pi * share) + 0.5
        shifts = self.shifts[:, None, None]
        radial = torch.exp(-self.eta * (distance[:, None] - shifts).square()) * envelope[:, None]
        direction = to_neighbour / distance[:, None]
        scaled = torch.cat([torch.ones_like(distance)[:, None], direction], 1)
        return distance, radial[:, :, None] * scaled[:, None]

    def _energy(
        self,
        member: Member,
        numbers: Tensor,
        charge: Tensor,
        padding: Tensor,
        masked: Tensor,
        distance: Tensor,
        basis: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All but dispersion, eV, float64 [b], and the charges in e [b, n]."""
        out, charges = self._passes(member, numbers, charge, padding, basis)
        atomic = mlp(member.energy, out).squeeze(2) * ~padding + member.shift[numbers]  # float64
        product = charges[:, :, None] * charges[:, None, :]
        share = (distance / member.coulomb_cutoff).clamp(0.0, 0.999999)
        short = torch.exp(1.0 - (1.0 - share.square()).reciprocal())
        pairs = HALF_COULOMB * (1.0 - short) * product.masked_fill(masked, 0.0) / distance
        return atomic.sum(1) + pairs.flatten(1).sum(1, dtype=torch.float64), charges

    def _passes(
        self, member: Member, numbers: Tensor, charge: Tensor, padding: Tensor, basis: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the last pass over the neighbours gives [b, n, width], and charges in e [b, n]."""
        n_g, (b, n) = len(self.shifts), numbers.shape
        real = (~padding).unsqueeze(-1)
        features = torch.nn.functional.embedding(numbers, member.embedding)  # [b, n, a g]
        features = features.view(b, n, -1, n_g)
        charges = features.new_zeros(b, n)
        for k, layers in enumerate(member.passes):
            if k:
                charge_channel = charges[:, :, None, None].expand(-1, -1, 1, n_g)
                sent = torch.cat([features, charge_channel], 2)
                row = [features.flatten(2), *self._gather(member.mix, sent, basis)]
                row.append(charges.unsqueeze(2))
            else:
                sent = features
                row = [features.flatten(2), *self._gather(member.mix[:-1], sent, basis)]
            out = mlp(layers, torch.cat(row, 2)) * real
            if k == len(member.passes) - 1:
                break
            change, weight, step = out[..., 0], out[..., 1].square(), out[..., 2:]
            charges = charges + change
            missing = charge - charges.sum(1)
            total = weight.sum(1) + 1e-6
            charges = charges + weight * (missing / total).unsqueeze(1)
            features = features + step.view_as(features)
        return out, charges

    def _gather(self, mix: Tensor, features: Tensor, basis: Tensor) -> list[Tensor]:
        """What the neighbours' features amount to: a sum for each radial function [b, n, a g], and
        squared lengths of vectors [b, n, a h].

        Args:
            mix: Of radial functions into vectors [a, g, h].
            features: [b, m, a, g].
            basis: [b, g, 4, n, m].
        """
        b, g, _, n, m = basis.shape
        a = features.shape[2]
        left = features.permute(0, 3, 2, 1).reshape(b * g, a, m)
        sums = torch.bmm(left, basis.view(b * g, 4 * n, m).mT).view(b, g, a, 4, n)
        scalar = sums[:, :, :, 0].permute(0, 3, 2, 1).flatten(2)  # [b, n, a g]
        vector = sums[:, :, :, 1:].permute(2, 1, 0, 3, 4).reshape(a, g, b * 3 * n)
        length = torch.bmm(mix.mT, vector).view(a, -1, b, 3, n).square().sum(3)  # [a, h, b, n]
        return [scalar, length.permute(2, 3, 0, 1).flatten(2)]

    def _dispersion(self, numbers: Tensor, distance: Tensor, masked: Tensor) -> Tensor:
        """D3 with Becke and Johnson's damping, eV, float64 [b]."""
        d3 = self.dispersion
        d = (distance * BOHR).masked_fill(masked, 10.0)
        radius = d3.rcov[numbers]
        ratio = (radius[:, :, None] + radius[:, None, :]) / d
        contact = (torch.exp((ratio - 1.0) * d3.k1) + 1.0).reciprocal()
        coordination = contact.masked_fill(masked, 0.0).sum(2)
        # A pair's C6 is a mean over the reference systems of either atom, weighted by how near the
        # coordination is to the reference's: one factor for each atom.
        weight = torch.exp(d3.k3 * (coordination[..., None] - self.references[numbers]).square())
        known = d3.c6ab[..., 0][numbers[:, :, None], numbers[:, None, :]]  # [b, n, m, 5, 5]
        of_pair = weight[:, :, None, :, None] * weight[:, None, :, None, :]
        total = weight.sum(2)[:, :, None] * weight.sum(2)[:, None, :]
        c6 = (known * of_pair).flatten(3).sum(3) / total.clamp(min=1e-5)
        c6 = torch.where((total >= 1e-5) & ~masked, c6, 0.0)
        r4r2 = d3.r4r2[numbers]
        rr = 3.0 * r4r2[:, :, None] * r4r2[:, None, :]
        r0 = d3.a1 * rr.sqrt() + d3.a2
        damped = d3.s6 / (d**6 + r0**6) + d3.s8 * rr / (d**8 + r0**8)
        return -HALF_HARTREE * (c6 * damped).flatten(1).sum(1, dtype=torch.float64)
