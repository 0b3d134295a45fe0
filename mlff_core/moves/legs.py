"""The walks that molecules make, one after the other, each in its own batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from mlff_core.models.force_field import ForceField
from mlff_core.moves.ended import Keeps
from mlff_core.moves.in_flight import InFlight
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule
from mlff_core.moves.waiting import WaitingQueue

#: Moves that a molecule makes with a cheaper force field at most. Nine of ten need fewer; slow ones
#: would keep all others waiting for the next walk, in which they go on from where they are.
MOST_BEFORE = 100


@dataclass(frozen=True)
class Leg:
    """A walk that molecules of one size class make; all that `InFlight` is told of it.

    Attributes:
        waiting: Those whose turn it is.
        potential: What they walk with.
        settings: What is asked for.
        n_slots: Most molecules in a force call.
        near: Another force field has led them near to a minimum.
        into: Where they wait for the next leg; None: this is the last.
        keeps: Which ends of it are of the molecules asked for; the others begin again in it.
    """

    waiting: WaitingQueue
    potential: ForceField
    settings: RelaxSettings
    n_slots: int
    near: bool = False
    into: WaitingQueue | None = None
    keeps: Keeps | None = None

    def in_flight(self, n_slots: int) -> InFlight:
        """Begin it in so many slots."""
        return InFlight(
            self.waiting, self.potential, self.settings, n_slots, near=self.near, into=self.into,
            keeps=self.keeps,
        )  # fmt: skip

    def shared(self, n_threads: int) -> "Leg":
        """The share of a thread, as long as nobody has begun."""
        expected = len(self.waiting.sizes)
        if not expected:
            return self
        return replace(self, n_slots=min(self.n_slots, -(-expected // n_threads)))


class Legs(NamedTuple):
    """All walks of a relaxation.

    Attributes:
        first: With a cheaper force field, if there is one, one for each size class.
        last: What follows, in the same order.
    """

    first: list[Leg]
    last: list[Leg]

    @property
    def all(self) -> list[Leg]:
        """One after the other."""
        return [*self.first, *self.last]


def legs_of(
    groups: Sequence[tuple[Sequence[Molecule], int]],
    potential: ForceField,
    settings: RelaxSettings,
    pre_relax: ForceField | None,
    keeps: Keeps | None,
) -> Legs:
    """The walks of all groups, in their order."""
    if pre_relax is None or settings.max_steps == 0:
        only = [
            Leg(WaitingQueue(molecules), potential, settings, n_slots)
            for molecules, n_slots in groups
        ]
        return Legs([], only)
    begin = replace(
        settings, fmax=settings.fmax_before, max_steps=min(settings.max_steps, MOST_BEFORE)
    )
    first, last = [], []
    for molecules, n_slots in groups:
        between = WaitingQueue([], expected=molecules)
        first.append(Leg(WaitingQueue(molecules), pre_relax, begin, n_slots, into=between))
        last.append(Leg(between, potential, settings, n_slots, near=True, keeps=keeps))
    return Legs(first, last)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the card or on the host."""
    # PyTorch has no class of its own for the host's memory.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )
