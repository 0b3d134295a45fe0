"""Labels on the device, and batches of fixed shape drawn from them.

Nothing here waits for the device once the pool is filled, and every shape is fixed, so that a whole
training step can be captured as one CUDA graph.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlff_core.ops.charges import Layout


@dataclass(frozen=True)
class FixedBatch:
    """Molecules in a flat batch of fixed size; what does not fit is left out, the rest is padding.

    The last `n_padding` atoms belong to an extra molecule, and padding pairs join two of them.

    Attributes:
        numbers: Atomic numbers, int64 [n_atoms].
        positions: Å [n_atoms, 3].
        mol_idx: Molecule of each atom, int64 [n_atoms]; n_mols for padding.
        charge: e, int64 [n_mols + 1].
        i: Destinations, ascending, int64 [n_edges].
        j: Sources, int64 [n_edges].
        row: First pair of each atom, padding pairs left out, int64 [n_atoms + 1].
        reverse: Row of the opposite direction of each pair, int64 [n_edges].
        energy: Labels in eV, float64 [n_mols].
        forces: Labels in eV/Å [n_atoms, 3].
        weight: 1 for a molecule that is here, 0 for one left out [n_mols].
        left_out: How many molecules did not fit [].
        charges: Labels in e [n_atoms]; None in a pool without.
        layout: Where the atoms of each molecule are, padding left out; None likewise.
    """

    numbers: Tensor
    positions: Tensor
    mol_idx: Tensor
    charge: Tensor
    i: Tensor
    j: Tensor
    row: Tensor
    reverse: Tensor
    energy: Tensor
    forces: Tensor
    weight: Tensor
    left_out: Tensor
    charges: Tensor | None = None
    layout: Layout | None = None


class LabelPool:
    """A ring of molecules, each with a few labelled geometries.

    Attributes:
        numbers: Atomic numbers, 0 on padding, uint8 [capacity, width].
        charge: Total charges, int64 [capacity].
        positions: Å [capacity, n_labels, width, 3].
        forces: eV/Å [capacity, n_labels, width, 3].
        energy: eV, float64 [capacity, n_labels].
        charges: Partial charges in e [capacity, n_labels, width]; None if nobody learns them.
        n_valid: How many labels of each molecule count; they come first, int64 [capacity].
        n_filled: How many molecules are here [], on the device.
        n_stored: How many molecules have come in all, those overwritten included.
    """

    def __init__(
        self,
        capacity: int,
        n_labels: int,
        width: int,
        device: torch.device | str,
        *,
        with_charges: bool = False,
    ):
        self.capacity, self.width = capacity, width
        self.numbers = torch.zeros(capacity, width, dtype=torch.uint8, device=device)
        self.charge = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.positions = torch.zeros(capacity, n_labels, width, 3, device=device)
        self.forces = torch.zeros(capacity, n_labels, width, 3, device=device)
        self.energy = torch.zeros(capacity, n_labels, dtype=torch.float64, device=device)
        self.charges: Tensor | None = None
        if with_charges:
            self.charges = torch.zeros(capacity, n_labels, width, device=device)
        self.n_valid = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.n_filled = torch.zeros((), dtype=torch.int64, device=device)
        self.n_stored = 0

    def add(
        self,
        numbers: Tensor,
        charge: Tensor,
        positions: Tensor,
        energy: Tensor,
        forces: Tensor,
        valid: Tensor,
        charges: Tensor | None = None,
    ) -> int:
        """Store molecules that have at least two valid labels; returns how many that were.

        Args:
            numbers: Atomic numbers, 0 on padding [n, width or less].
            charge: e [n].
            positions: Å [n, n_labels, width or less, 3].
            energy: eV [n, n_labels].
            forces: eV/Å [n, n_labels, width or less, 3].
            valid: Which labels count, bool [n, n_labels].
            charges: e [n, n_labels, width or less].

        Raises:
            ValueError: The pool is for charges, and there are none.
        """
        if self.charges is not None and charges is None:
            raise ValueError(
                "a student with partial charges learns them from a teacher that has some"
            )
        count = valid.sum(1)
        chosen = (count >= 2).nonzero().squeeze(1)[: self.capacity]
        first = torch.sort(valid[chosen].byte(), dim=1, descending=True, stable=True).indices
        width = numbers.shape[1]
        slots = (torch.arange(len(chosen), device=chosen.device) + self.n_stored) % self.capacity
        wide = first[:, :, None, None].expand(-1, -1, width, 3)
        self.numbers[slots] = 0
        self.numbers[slots, :width] = numbers[chosen].to(torch.uint8)
        self.charge[slots] = charge[chosen].long()
        self.positions[slots, :, :width] = positions[chosen].gather(1, wide)
        self.forces[slots, :, :width] = forces[chosen].gather(1, wide)
        self.energy[slots] = energy[chosen].gather(1, first)
        if self.charges is not None and charges is not None:
            ordered = charges[chosen].gather(1, first[:, :, None].expand(-1, -1, width))
            self.charges[slots, :, :width] = ordered
        self.n_valid[slots] = count[chosen]
        self.n_stored += len(chosen)
        self.n_filled.fill_(min(self.n_stored, self.capacity))
        return len(chosen)

    def draw(
        self, n_mols: int, n_atoms: int, n_edges: int, cutoff: float, n_padding: int = 256
    ) -> FixedBatch:
        """Random molecules, two geometries of each: that of m is followed by m + n_mols / 2.

        Args:
            n_mols: Number of geometries, even.
            n_atoms: Size of the flat batch, padding included.
            n_edges: Number of pairs, padding included.
            cutoff: Å.
            n_padding: Number of padding atoms, even.
        """
        u = torch.rand(3, n_mols // 2, device=self.energy.device)
        row = (u[0] * self.n_filled).long()
        valid = self.n_valid[row]
        slot = (u[1] * valid).long()
        other = (slot + 1 + (u[2] * (valid - 1)).long()) % valid.clamp(min=1)
        return self.batch(
            torch.cat([row, row]), torch.cat([slot, other]), n_atoms, n_edges, cutoff, n_padding
        )

    def batch(
        self,
        row: Tensor,
        slot: Tensor,
        n_atoms: int,
        n_edges: int,
        cutoff: float,
        n_padding: int = 256,
    ) -> FixedBatch:
        """A batch of given labels.

        Args:
            row: Which molecules, int64 [n_mols].
            slot: Which label of each, int64 [n_mols].
            n_atoms: Size of the flat batch, padding included.
            n_edges: Number of pairs, padding included.
            cutoff: Å.
            n_padding: Number of padding atoms, even.
        """
        device, n_mols, width = row.device, len(row), self.width
        numbers, x = self.numbers[row].long(), self.positions[row, slot]
        real = numbers > 0  # [n_mols, width]
        distance2 = (x[:, :, None] - x[:, None]).square().sum(-1)
        inside = (distance2 < cutoff * cutoff) & real[:, :, None] & real[:, None, :]
        inside &= ~torch.eye(width, dtype=torch.bool, device=device)
        # A molecule comes whole or not at all: half of its pairs would be another molecule.
        fits = real.sum(1).cumsum(0) <= n_atoms - n_padding
        fits &= inside.sum((1, 2)).cumsum(0) <= n_edges
        real, inside = real & fits[:, None], inside & fits[:, None, None]
        sizes = real.sum(1)
        end = sizes.cumsum(0)
        start = end - sizes

        atom = torch.arange(n_atoms, device=device)
        mol_idx = torch.searchsorted(end, atom, right=True)  # n_mols beyond the last
        padding = mol_idx == n_mols
        mol = mol_idx.clamp(max=n_mols - 1)
        within = torch.where(padding, 0, atom - start[mol])
        # Only listed pairs meet: all that matters is that partners are not in one place.
        place = torch.zeros(n_atoms, 3, device=device)
        place[:, 0] = 1.5 * (atom % 2)
        positions = torch.where(padding[:, None], place, x[mol, within])
        forces = torch.where(padding[:, None], 0.0, self.forces[row, slot][mol, within])

        charges, layout = None, None
        if self.charges is not None:
            of_atom = self.charges[row, slot][mol, within]
            charges = torch.where(padding, 0.0, of_atom)
            row_of = torch.where(real, start[:, None] + real.cumsum(1) - 1, n_atoms)
            layout = Layout(row_of, torch.where(padding, n_mols * width, mol * width + within))
        flat = inside.flatten()
        place_of = flat.cumsum(0) - 1  # row of each pair in the list, [n_mols * width * width]
        total = place_of[-1] + 1
        target = torch.where(flat, place_of, n_edges)
        pair = torch.arange(len(flat), device=device)
        # One row more than there is: what is not a pair is written there.
        listed = torch.zeros(n_edges + 1, dtype=torch.int64, device=device)
        listed = listed.scatter_(0, target, pair)[:n_edges]
        m, a, b = listed // (width * width), (listed // width) % width, listed % width
        edge = torch.arange(n_edges, device=device)
        spare = edge >= total
        # Padding pairs are spread over the padding atoms, ascending as all rows are.
        left = (n_edges - total).clamp(min=1)
        host = n_atoms - n_padding + 2 * ((edge - total) * (n_padding // 2) // left)
        i = torch.where(spare, host, start[m] + a)
        j = torch.where(spare, host + 1, start[m] + b)
        backwards = place_of.view(n_mols, width, width)[m, b, a]
        reverse = torch.where(spare, edge, backwards)

        neighbours = torch.where(padding, 0, inside.sum(2)[mol, within])
        row_end = neighbours.cumsum(0)
        return FixedBatch(
            numbers=torch.where(padding, 1, numbers[mol, within]),
            positions=positions,
            mol_idx=mol_idx,
            charge=torch.cat([self.charge[row], self.charge.new_zeros(1)]),
            i=i,
            j=j,
            row=torch.cat([row_end.new_zeros(1), row_end]),
            reverse=reverse,
            energy=self.energy[row, slot],
            forces=forces,
            weight=fits.float(),
            left_out=(~fits).sum(),
            charges=charges,
            layout=layout,
        )
