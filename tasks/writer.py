"""The processes that write tables beside one that drives a card.

What Python does with ten thousand rows keeps an interpreter's lock for seconds. A thread that
launches kernels would wait for it at each of them.
"""

import queue
import threading
from pathlib import Path
from typing import Final

from mlff_core.chem.pool import WorkerProcess
from mlff_core.shard import StepReport, write_shard
from mlff_core.store import Location, Store

#: Processes: one writes a shard in the time in which a card relaxes one by the small model.
WRITERS: Final = 2


class TableWriter:
    """Writes shards as `shard.write_shard` does, elsewhere; all start with the first shard."""

    def __init__(self) -> None:
        #: Those that have nothing to do; None: not started.
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()
        for _ in range(WRITERS):
            self._idle.put(None)
        self._begun = threading.Lock()  # held from the first shard on
        self._starting = threading.Thread(target=self._start_others, daemon=True)

    def run(
        self,
        shard: int,
        embedded_file: Path,
        relaxed_file: Path,
        out: Store | Location,
        metadata: dict[str, str],
    ) -> StepReport:
        """Write the two parts of a shard.

        Raises:
            RuntimeError: The process ended before it was done; the next call starts another.
            Exception: What the writing raised.
        """
        process = self._idle.get()
        if self._begun.acquire(blocking=False):
            # The last shard would wait for the start of a process that is not needed before.
            self._starting.start()
        try:
            if process is None:
                process = _started()
            process.connection.send((shard, embedded_file, relaxed_file, out, metadata))
            answer = process.connection.recv()
        except BaseException as error:  # it may have an answer that nobody waits for any more
            if process is not None:
                process.end()
            process = None
            if isinstance(error, (EOFError, OSError)):
                raise RuntimeError("the process that writes tables ended") from error
            raise
        finally:
            self._idle.put(process)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, StepReport)
        return answer

    def _start_others(self) -> None:
        for _ in range(WRITERS - 1):
            process = self._idle.get()
            try:
                process = process or _started()
            except (EOFError, OSError):  # who needs it tries again, and says it
                process = None
            finally:
                self._idle.put(process)

    def close(self) -> None:
        """End the processes that were started, when they are done."""
        them = [self._idle.get() for _ in range(WRITERS)]
        for process in them:
            if process is not None:
                process.end()
            self._idle.put(None)


def _started() -> WorkerProcess:
    process = WorkerProcess()
    try:
        process.wait_until_ready(write_here, None)
    except BaseException:
        process.end()
        raise
    return process


def write_here(
    shard: int,
    embedded_file: Path,
    relaxed_file: Path,
    out: Store | Location,
    metadata: dict[str, str],
    extra: None,
) -> StepReport | Exception:
    """In such a process: write a shard; what is raised is sent back, and the process lives on."""
    try:
        return write_shard(shard, embedded_file, relaxed_file, out, metadata)
    except Exception as error:
        return error
