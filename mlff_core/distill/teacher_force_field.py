"""The teacher behind the port: the same relaxation and dynamics serve it and its student."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.buckets import BYTES_PER_EDGE_AND_FEATURE
from mlff_core.distill.teacher import Label
from mlff_core.elements import KNOWN_ELEMENTS
from mlff_core.models.force_field import Domain, Outputs

#: Å. Its networks see no farther; beyond that only charges feel each other.
CUTOFF = 5.0


class TeacherForceField:
    """Whatever labels padded batches, as a `ForceField`."""

    name = "teacher"
    dtype = torch.float32
    domain = Domain(elements=KNOWN_ELEMENTS)
    cutoff = CUTOFF
    bytes_per_edge = 128 * BYTES_PER_EDGE_AND_FEATURE["plain"]
    bare_step: Callable[[MolBatch], Outputs] | None = None

    def __init__(
        self,
        label: Callable[[Tensor, Tensor, Tensor], Label],
        device: torch.device,
        sha256: str = "",
    ):
        """Take a teacher.

        Args:
            label: A `LabelsMolecules`, or one of its members.
            device: Where it labels.
            sha256: Of the teacher's file.
        """
        self.label, self.device, self.sha256 = label, device, sha256

    def evaluate(self, batch: MolBatch) -> Outputs:
        """As `ForceField.evaluate`; waits for the device."""
        numbers, positions, mol_idx = batch.numbers, batch.positions, batch.mol_idx
        sizes, device = batch.sizes, numbers.device
        place = torch.arange(len(numbers), device=device) - batch.ptr[mol_idx]
        energy = torch.zeros(len(sizes), dtype=torch.float64, device=device)
        forces = torch.zeros_like(positions)
        for rows in _chunks(sizes):
            row = torch.full_like(sizes, -1)
            row[rows] = torch.arange(len(rows), device=device)
            atoms = row[mol_idx] >= 0
            at = row[mol_idx[atoms]], place[atoms]
            z = numbers.new_zeros(len(rows), int(sizes[rows].max()))
            x = positions.new_zeros(*z.shape, 3)
            z[at], x[at] = numbers[atoms], positions[atoms]
            label = self.label(z, x, batch.charge[rows])
            energy[rows], forces[atoms] = label.energy, label.forces[at].to(forces.dtype)
        return Outputs(energy, forces)


def _chunks(sizes: Tensor, atoms_a_call: int = 65536) -> Iterator[Tensor]:
    """Molecules that are padded to one width: the smaller half and the larger one."""
    order = sizes.argsort()
    order = order[sizes[order] > 0]
    for half in order.tensor_split(2) if len(order) > 32 else [order]:
        if len(half):
            yield from half.split(max(1, atoms_a_call // int(sizes[half].max())))
