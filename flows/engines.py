"""Shards through their stages, and who runs a stage. `local`: threads of this process."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Literal, Protocol, Self

from flows.stage import Stage, run_stage
from mlff_core.shard import StepReport

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Who runs the stages; a context manager that waits for what it began."""

    @property
    def lanes(self) -> int:
        """Devices that work side by side: each has its own shards under way."""

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"] | None:
        """The type of the devices that will work; None where it is this process's own.

        Raises:
            DeviceError: What is wanted is not there.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, stage: Stage, shard: int) -> Future[StepReport]:
        """Run a stage of a shard when there is room in it."""


def pipeline(
    shards: Iterator[int], stages: Sequence[Stage], engine: Engine, in_flight: int
) -> Iterator[tuple[Stage, int, StepReport]]:
    """Move every shard through the stages; yields what each did, as it comes.

    A bounded number of shards is between the first stage and the last, so memory and intermediate
    files stay bounded.

    Raises:
        Exception: What a stage raised at its last try.
    """
    under_way: dict[Future[StepReport], tuple[int, int]] = {}
    while True:
        while len(under_way) < in_flight and (shard := next(shards, None)) is not None:
            under_way[engine.submit(stages[0], shard)] = 0, shard
        if not under_way:
            return
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        ended = [(*under_way.pop(future), future.result()) for future in done]
        for stage, shard, _ in ended:
            if stage + 1 < len(stages):
                under_way[engine.submit(stages[stage + 1], shard)] = stage + 1, shard
        for stage, shard, report in ended:
            yield stages[stage], shard, report


class LocalEngine:
    """Threads of this process, as many a stage as it is wide.

    A stage sees the context variables of who submits it.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}

    @property
    def lanes(self) -> int:
        """One: the device of this process."""
        return 1

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> None:
        """This process's own, which the model knows when it is loaded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

    def submit(self, stage: Stage, shard: int) -> Future[StepReport]:
        """Run a stage of a shard when there is room in it."""
        if stage.name not in self._threads:
            self._threads[stage.name] = ThreadPoolExecutor(stage.width, stage.name)
        return self._threads[stage.name].submit(copy_context().run, run_stage, stage, shard)


def engine_of(name: Literal["local", "ray"], address: str | None, cores: int | None) -> Engine:
    """The engine of a call.

    Args:
        name: Which.
        address: Of a Ray cluster.
        cores: Of a lane.

    Raises:
        ValueError: Ray is not installed.
        DeviceError: There is no such cluster.
    """
    if name == "local":
        return LocalEngine()
    from flows.ray_engine import RayEngine

    return RayEngine(address, cores)
