"""The process that writes tables beside one that drives a card.

What Python does with ten thousand rows keeps an interpreter's lock for seconds. A thread that
launches kernels would wait for it at each of them.
"""

import threading
from pathlib import Path

from mlff_core.chem.pool import WorkerProcess
from mlff_core.shard import StepReport, write_shard
from mlff_core.store import Location, Store


class TableWriter:
    """Writes shards as `shard.write_shard` does, elsewhere; the process starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None

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
        with self._lock:
            try:
                if self._process is None:
                    self._process = WorkerProcess()
                    self._process.wait_until_ready(write_here, None)
                connection = self._process.connection
                connection.send((shard, embedded_file, relaxed_file, out, metadata))
                answer = connection.recv()
            except (EOFError, OSError) as error:
                self._end()
                raise RuntimeError("the process that writes tables ended") from error
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, StepReport)
        return answer

    def close(self) -> None:
        """End the process, if it was started."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None


def write_here(
    shard: int,
    embedded_file: Path,
    relaxed_file: Path,
    out: Store | Location,
    metadata: dict[str, str],
    extra: None,
) -> StepReport | Exception:
    """In that process: write a shard; what is raised is sent back, and the process lives on."""
    try:
        return write_shard(shard, embedded_file, relaxed_file, out, metadata)
    except Exception as error:
        return error
