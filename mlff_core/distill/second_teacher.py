"""A second teacher: a student that went before, whose labels are mixed with the teacher's.

What a student still gets wrong of its teacher is, batch by batch, noise to one that follows it:
the next student cannot learn it either, yet it is most of the difference between the two. What the
former student says has no such part. So a student of another shape, or one that lost what the
former could, comes back to it in fewer samples by a label between the two. A student without
charges does not know which group has them, so molecules with charged groups are the teacher's.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mlff_core.distill.teacher import Label

#: How far the two may differ in a molecule: in energy, eV, and in the force on an atom, eV/Å.
#: Beyond, one of them is wrong, and it is not the teacher.
MAX_ENERGY, MAX_FORCE = 0.1, 0.5


class SecondTeacher:
    """A student that went before, and its share in labels.

    Attributes:
        says: Energies and forces of padded batches (`evaluation.Evaluate`).
        share: Of it in a label, 0 to 1, where it agrees with the teacher; elsewhere it has none.
    """

    def __init__(
        self, says: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], share: float
    ):
        self.says, self.share = says, share

    def mixed_into(
        self, label: Label, numbers: Tensor, positions: Tensor, charge: Tensor, ionic: Tensor
    ) -> Label:
        """Labels between the teacher's and its own, of molecules without charged groups alone.

        Charges, and how far the teacher's members are apart, stay the teacher's.

        Args:
            label: The teacher's, of several geometries of each molecule
                (`labelling.label_geometries`).
            numbers: Atomic numbers, 0 on padding [n, width].
            positions: Å [n, n_geometries, width, 3].
            charge: e [n].
            ionic: Which molecules have a charge or charged groups, as zwitterions do, bool [n].
        """
        energies, forces = [], []
        for k in range(positions.shape[1]):
            energy, force = self.says(numbers, positions[:, k], charge)
            more, turn = energy - label.energy[:, k], force - label.forces[:, k]
            apart = turn.square().sum(-1).sqrt().amax(-1)
            # A number that is none agrees with nothing.
            agree = ~ionic & (more.abs() < MAX_ENERGY) & (apart < MAX_FORCE)
            share = torch.where(agree, self.share, 0.0)
            energies.append(share * more.nan_to_num())
            forces.append(share[:, None, None].to(turn) * turn.nan_to_num())
        return replace(
            label,
            energy=label.energy + torch.stack(energies, 1),
            forces=label.forces + torch.stack(forces, 1),
        )
