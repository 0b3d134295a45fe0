"""Two walks side by side on one card: while the host looks after one, the card is at the other.

A molecule that walks with a cheaper force field first makes two walks. One after the other, each
would have to fill its slots, and would wait for its slowest molecules in an all but empty batch.
Side by side, each on a stream of its own, the second takes what the first leaves of the card. One
thread drives both in turn: two would share an interpreter, and wait for its lock.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from mlff_core.moves.ended import HandedOver, Relaxed
from mlff_core.moves.legs import Leg, is_out_of_memory


def in_turns(first: Sequence[Leg], last: Sequence[Leg]) -> Iterator[Relaxed | HandedOver]:
    """What ends in first walks, one after the other, and in second ones beside them.

    A walk that runs out of memory puts its molecules back and leaves the rest of its line to the
    caller; the other line goes on.

    Args:
        first: Walks whose molecules go on in those of `last`.
        last: The walks after them, in the same order.
    """
    device = last[0].potential.device
    for leg in last:
        leg.waiting.open = True
    lines = [
        _Line(legs, stream) for legs, stream in zip((first, last), _streams(device), strict=True)
    ]
    try:
        while lines:
            for line in lines:
                yield from line.turn()
            lines = [line for line in lines if not line.over]
    finally:
        for leg in last:
            leg.waiting.open = False


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream | None, torch.cuda.Stream | None]:
    """Always the same two: what PyTorch keeps of freed memory is of a stream."""
    if device.type != "cuda":
        return None, None
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


class _Line:
    """Walks, one after the other.

    Attributes:
        over: They have ended.
    """

    def __init__(self, legs: Sequence[Leg], stream: torch.cuda.Stream | None):
        self.over = False
        self._stream = stream
        self._walks = _one_by_one(legs)
        if stream is not None:
            # Where the weights were laid out.
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def turn(self) -> Iterator[Relaxed | HandedOver]:
        """What ends until the host would wait for the device."""
        while True:
            # Not around the yield: what the caller does meanwhile is on the caller's stream.
            with self._on_stream():
                try:
                    ended = next(self._walks)
                except StopIteration:
                    self.over = True
                    return
            if ended is None:
                return
            yield ended

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _one_by_one(legs: Sequence[Leg]) -> Iterator[Relaxed | HandedOver | None]:
    """As `InFlight.turns`, leg after leg, as long as there is memory."""
    try:
        for leg in legs:
            while leg.waiting.open and not leg.waiting:
                yield None
            if leg.waiting:
                batch = leg.in_flight(min(leg.n_slots, len(leg.waiting.sizes)))
                try:
                    yield from batch.turns()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    leg.waiting.put_back(batch.unfinished)
                    return
            if leg.into is not None:
                leg.into.open = False
    finally:
        # Nothing more comes from here.
        for leg in legs:
            if leg.into is not None:
                leg.into.open = False
