"""Work in stages: molecules go through each of them side by side, or one through all at once.

What a molecule needs is more code than a core keeps near: one stage of many molecules after the
other takes three quarters of the time of one molecule after the other.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Something that is computed in stages; what it returns is the result.
Stages = Generator[None, None, T]


def at_once(stages: Stages[T]) -> T:
    """Go through all stages; what comes of them, or what they raise."""
    while True:
        try:
            next(stages)
        except StopIteration as end:
            result: T = end.value
            return result


def side_by_side(several: Sequence[Stages[None]]) -> None:
    """Go through the stages of all of them, a stage of all at a time."""
    under_way = [*several]
    while under_way:
        under_way = [stages for stages in under_way if next(stages, _ENDED) is not _ENDED]


_ENDED = object()
