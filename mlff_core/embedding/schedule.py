"""How strongly each term pulls at each step of the minimisation, and how far a step goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

#: Columns of a schedule's table.
COLUMNS: Final = (
    "rate", "near", "far", "fourth", "chiral", "flat", "torsion", "keep", "first", "second",
    "stretch",
)  # fmt: skip
#: Decay of Adam's means of the gradient and of its square (Kingma and Ba, ICLR 2015).
FIRST_DECAY: Final = 0.9
SECOND_DECAY: Final = 0.99
#: Longest gradient of an atom that counts in full.
MAX_GRADIENT: Final = 5.0


@dataclass(frozen=True)
class Stage:
    """Some steps of Adam under the same weights.

    Attributes:
        steps: How many.
        rate: Length of the first step in Å; it falls along half a cosine to `last_rate`.
        last_rate: Length of the last step in Å.
        near: Weight of the bounds of atoms that are bonded or share a neighbour.
        far: Weight of all other bounds.
        fourth: Weight of the squared fourth coordinate.
        chiral: Weight of the volumes of stereocentres.
        flat: Weight of the volumes of flat centres.
        torsion: Weight of the torsion terms.
        four_dimensional: Whether the fourth coordinate is free, or put to 0.
        stretch: Share of `Packed.stretch` by which the lower bounds of all but bonds and angles are
            raised: macrocycles that find their shape under RDKit's own come out too narrow.
    """

    steps: int
    rate: float
    last_rate: float
    near: float = 1.0
    far: float = 1.0
    fourth: float = 0.0
    chiral: float = 0.0
    flat: float = 0.0
    torsion: float = 0.0
    four_dimensional: bool = False
    stretch: float = 0.0


#: Random coordinates in four dimensions to distances within bounds; out of the fourth dimension;
#: then torsions and flat groups as they are in crystals, under stiffer bonds and angles.
STAGES: Final = (
    Stage(450, 0.3, 0.08, fourth=0.1, chiral=1.0, flat=0.2, four_dimensional=True, stretch=1.0),
    Stage(300, 0.08, 0.02, fourth=1.0, chiral=0.3, flat=0.06, four_dimensional=True),
    Stage(1500, 0.04, 0.0005, near=20.0, far=2.0, chiral=0.3, flat=0.6, torsion=0.02),
)


def schedule(stages: Sequence[Stage] = STAGES) -> Tensor:
    """The table of all steps, float32 [n_steps, len(COLUMNS)], on the CPU.

    "first" and "second" undo the bias of Adam's means, which begin at zero with the first step.
    """
    rows: list[tuple[float, ...]] = []
    for stage in stages:
        for k in range(stage.steps):
            wave = 0.5 + 0.5 * np.cos(np.pi * k / max(stage.steps - 1, 1))
            t = len(rows) + 1
            rows.append(
                (
                    stage.last_rate + (stage.rate - stage.last_rate) * wave,
                    stage.near,
                    stage.far,
                    stage.fourth,
                    stage.chiral,
                    stage.flat,
                    stage.torsion,
                    float(stage.four_dimensional),
                    1.0 / (1.0 - FIRST_DECAY**t),
                    1.0 / (1.0 - SECOND_DECAY**t),
                    stage.stretch,
                )
            )
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, len(COLUMNS))
