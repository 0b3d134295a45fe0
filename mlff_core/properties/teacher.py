"""Single points of the teacher at relaxed geometries, with the spread of its members.

The only honest size of a model's error is the teacher's own energy. How far the teacher's members
are apart says how sure it is itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlff_core.units import EV_KCAL_MOL

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Conformers of a molecule, the lowest, that the teacher sees at most.
MOST_CONFORMERS: Final = 10
#: Atoms, padding counted, in one call: some hundred MB.
_ATOMS_A_CALL: Final = {"cpu": 512, "cuda": 16384}


class Opinion(Protocol):
    """What a member says of a padded batch."""

    @property
    def energy(self) -> "Tensor":
        """eV [n_mols]."""


class HasMembers(Protocol):
    """The teacher, or whatever else is several networks.

    Attributes:
        n_members: How many.
        device: Where they compute.
    """

    n_members: int
    device: "torch.device"

    def member(
        self, index: int, numbers: "Tensor", positions: "Tensor", charge: "Tensor"
    ) -> Opinion:
        """What one says: atomic numbers [n_mols, width], Å [n_mols, width, 3], e [n_mols]."""


@dataclass(frozen=True)
class Rescored:
    """What the teacher says of a geometry.

    Attributes:
        energy_ev: Mean over its members.
        spread_kcal_mol: Their standard deviation.
    """

    energy_ev: float
    spread_kcal_mol: float


def rescore(
    geometries: Sequence[tuple[NDArray[np.integer], NDArray[np.floating], int]],
    teacher: HasMembers,
) -> list[Rescored]:
    """Ask all members about geometries: atomic numbers [n], Å [n, 3], total charge in e."""
    import torch  # takes seconds

    order = sorted(range(len(geometries)), key=lambda k: len(geometries[k][0]))
    answers: dict[int, Rescored] = {}
    while order:
        width = len(geometries[order[-1]][0])  # the largest first: it says how many fit
        n_mols = max(1, _ATOMS_A_CALL[teacher.device.type] // width)
        chosen, order = order[-n_mols:], order[:-n_mols]
        numbers = torch.zeros(len(chosen), width, dtype=torch.int64)
        positions = torch.zeros(len(chosen), width, 3)
        for row, k in enumerate(chosen):
            z, x, _ = geometries[k]
            numbers[row, : len(z)] = torch.from_numpy(np.asarray(z, np.int64))
            positions[row, : len(z)] = torch.from_numpy(np.asarray(x - x.mean(0), np.float32))
        charge = torch.tensor([geometries[k][2] for k in chosen])
        batch = [tensor.to(teacher.device) for tensor in (numbers, positions, charge)]
        said = [teacher.member(k, *batch).energy.double().cpu() for k in range(teacher.n_members)]
        energy = torch.stack(said)
        spread = energy.std(0, correction=0) * EV_KCAL_MOL
        for k, mean, width_of in zip(chosen, energy.mean(0).tolist(), spread.tolist(), strict=True):
            answers[k] = Rescored(mean, width_of)
    return [answers[k] for k in range(len(geometries))]
