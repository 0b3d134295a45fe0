"""Runs a step over and over on the same tensors: as it stands, or from a CUDA graph."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mlff_core.moves.state import each
from mlff_core.ops.triton.capture import no_collection

State = TypeVar("State", bound=tuple[Any, ...])


class Stepper(Generic[State]):
    """Runs a step over and over on the same tensors.

    Attributes:
        state: The present state. Its tensors stay where they are, so the caller may overwrite rows
            in place between two runs.
    """

    def __init__(
        self,
        step: Callable[[State], State],
        state: State,
        *,
        graph: bool = False,
        shares_memory: bool = False,
    ):
        """Hold a step.

        Args:
            step: From a state to the next, which may be the same, changed in place; it must not
                wait for the device if it is to be captured.
            state: What to begin with; no two tensors may share memory.
            graph: Capture steps and replay them.
            shares_memory: With all others that do and run on the same stream of the same thread,
                for what a step needs between its beginning and its end.
        """
        self.step, self.state, self.graph = step, state, graph
        self.shares_memory = shares_memory
        self._warm = False
        self._captured: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, n_steps: int, *, per_launch: int = 1) -> None:
        """Advance by a number of steps, of which a captured launch holds `per_launch`."""
        for held, n_launches in ((per_launch, n_steps // per_launch), (1, n_steps % per_launch)):
            for _ in range(n_launches):
                if self.graph and self._warm:
                    if held not in self._captured:
                        self._captured[held] = self._capture(held)
                    self._captured[held].replay()
                    continue
                # What compiles kernels and fills caches cannot be captured: the first steps are
                # taken as they stand.
                for _ in range(held):
                    self._advance()
                self._warm = True

    def _advance(self) -> None:
        new = self.step(self.state)
        if new is not self.state:
            each(_keep, self.state, new)

    def _capture(self, n_steps: int) -> torch.cuda.CUDAGraph:
        def steps() -> None:
            for _ in range(n_steps):
                self._advance()

        place = _place() if self.shares_memory else _Place(torch.cuda.Stream())
        return place.capture(steps)


class _Place:
    """Where steps are captured: a stream, and memory.

    What one graph has reserved another one can use only if both were captured on the same stream,
    and as long as a graph of that memory is alive. Otherwise each reserves its own anew, which
    takes longer than to capture it, and gives it back when the device has no more.
    """

    def __init__(self, stream: torch.cuda.Stream):
        self.stream = stream
        self._first: torch.cuda.CUDAGraph | None = None

    def keep(self) -> "_Place":
        """Let all graphs from now on share memory."""
        self._first = self.capture(lambda: torch.zeros(1, device=self.stream.device))
        return self

    def capture(self, launch: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """What is launched, as a graph."""
        graph = torch.cuda.CUDAGraph()
        pool = None if self._first is None else self._first.pool()
        self.stream.wait_stream(torch.cuda.current_stream())
        with no_collection(), torch.cuda.stream(self.stream):
            # Not by `recording`, whose `torch.cuda.graph` collects garbage and gives cached memory
            # back first: that takes longer than all the rest. Other threads of the process may use
            # the device meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        return graph


_PLACES = threading.local()


def _place() -> _Place:
    """That of the current stream in this thread: what runs there runs one after the other."""
    stream = torch.cuda.current_stream()
    places = vars(_PLACES).setdefault("of", {})
    key = stream.device_index, stream.cuda_stream
    if key not in places:
        places[key] = _Place(torch.cuda.Stream()).keep()
    place: _Place = places[key]
    return place


def _keep(place: Tensor, new: Tensor) -> Tensor:
    return place if new is place else place.copy_(new)
