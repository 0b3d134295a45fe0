"""The shards of a run in ranges: so few that a server can keep a task run for each.

A range is done when its shards are; those behind it are under way by then, so no card waits where
one range ends and the next begins.
"""

from collections.abc import Callable, Sequence
from typing import Final

#: Most ranges of a run, whatever the length of the library. A server takes some milliseconds and
#: 20 kB for each task run, and falls behind at some thousand.
MOST_RANGES: Final = 200

#: Runs what finishes a range, plainly or as a task run; is given the range's shards.
RunRange = Callable[[Sequence[int], Callable[[], int]], int]


def ranges(shards: Sequence[int]) -> list[Sequence[int]]:
    """Cut shards into ranges of equal length, but for the last; at most `MOST_RANGES` of them."""
    length = max(-(-len(shards) // MOST_RANGES), 1)
    return [shards[first : first + length] for first in range(0, len(shards), length)]


def plainly(shards: Sequence[int], finish: Callable[[], int]) -> int:
    """Finish a range, and tell nobody."""
    return finish()
