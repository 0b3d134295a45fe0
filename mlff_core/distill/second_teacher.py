"""A second teacher: a student that went before, whose labels are mixed with the teacher's.

What a student still gets wrong of its teacher is, batch by batch, noise to one that follows it:
the next student cannot learn it either, yet it is most of the difference between the two. What the
former student says has no such part. So a student of another shape, or one that lost what the
former could, comes back to it in fewer samples by a label between the two.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mlff_core.distill.evaluation import Evaluate
from mlff_core.distill.teacher import Label, LabelsMolecules

#: How far the two may differ in a molecule: in energy, eV, and in the force on an atom, eV/Å.
#: Beyond, one of them is wrong, and it is not the teacher.
MAX_ENERGY, MAX_FORCE = 0.1, 0.5


class TwoTeachers:
    """Labels between those of a teacher and those of a student, of uncharged molecules alone.

    Attributes:
        sha256: Of the teacher's file.
        device: Where it labels.
        first: The teacher.
        second: What the former student says of padded batches.
        share: Of the second in a label, 0 to 1, where the two agree; elsewhere it has none.
    """

    def __init__(self, first: LabelsMolecules, second: Evaluate, share: float):
        self.sha256, self.device = first.sha256, first.device
        self.first, self.second, self.share = first, second, share

    def member(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """What one member of the teacher says."""
        return self.first.member(index, numbers, positions, charge)

    def __call__(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """The label; charges, and how far the teacher's members are apart, are the teacher's."""
        label = self.first(numbers, positions, charge)
        energy, forces = self.second(numbers, positions, charge)
        more, turn = energy - label.energy, forces - label.forces
        apart = turn.square().sum(-1).sqrt().amax(-1)
        # A number that is none agrees with nothing.
        agree = (charge == 0) & (more.abs() < MAX_ENERGY) & (apart < MAX_FORCE)
        share = torch.where(agree, self.share, 0.0)
        return replace(
            label,
            energy=label.energy + share * more.nan_to_num(),
            forces=label.forces + share[:, None, None].to(turn) * turn.nan_to_num(),
        )
