"""Processes that embed slices of a shard on the card, each with cores of its own.

One interpreter would be too few: it would unpack what the cores prepared, pack it for the card and
drive the relaxation at the same time, one of these at a time.
"""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa

from mlff_core.arrow import read_arrow, write_arrow
from mlff_core.chem.constrained import on_a_core
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool, WorkerProcess
from mlff_core.cores import usable_cores
from mlff_core.library.records import Record
from mlff_core.shard import StepReport, embed_shard

#: Processes: what one gets done in a second was measured as some seven hundred molecules.
N_PROCESSES: Final = 4
#: Records that a process embeds at once: enough to fill the card, few enough that all processes
#: have work until the end of a shard.
RECORDS_AT_ONCE: Final = 1250

#: What a process needs to know: settings, device and the number of its cores.
_Setup = tuple[ChemistrySettings, str, int]


class EmbeddingProcesses:
    """Embeds shards on a device; the processes start when there is work for them.

    Args:
        settings: What is accepted and how many conformers are wanted.
        device: Where conformers are embedded.
        workers: Cores that prepare, of all processes together; those of this process if None.
        n_processes: How many.
    """

    def __init__(
        self,
        settings: ChemistrySettings,
        device: str,
        workers: int | None = None,
        n_processes: int = N_PROCESSES,
    ) -> None:
        self.n_processes = n_processes
        cores = workers or usable_cores()
        self._setup: _Setup = settings, device, -(-cores // n_processes)
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()
        for _ in range(n_processes):
            self._idle.put(None)

    def embed(
        self,
        records: Sequence[Record],
        embedded_file: Path,
        progress: Callable[[int], None] | None = None,
    ) -> StepReport:
        """Embed a shard, as `shard.embed_shard` does.

        Raises:
            RuntimeError: A process ended before it was done.
            Exception: What the embedding raised.
        """
        starts = range(0, len(records), RECORDS_AT_ONCE)
        parts = [embedded_file.with_suffix(f".{start}.arrow") for start in starts]
        timings: dict[str, float] = {}
        done = 0
        try:
            with ThreadPoolExecutor(self.n_processes) as threads:
                slices = [records[start : start + RECORDS_AT_ONCE] for start in starts]
                for report in threads.map(self._slice, slices, parts):
                    done += report.n_records
                    for name, seconds in report.timings_s.items():
                        timings[name] = timings.get(name, 0.0) + seconds
                    if progress is not None:
                        progress(done)
            write_arrow(pa.concat_tables([read_arrow(part) for part in parts]), embedded_file)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        return StepReport(n_records=done, timings_s=timings)

    def close(self) -> None:
        """End the processes that have nothing to do."""
        for _ in range(self._idle.qsize()):
            process = self._idle.get()
            if process is not None:
                process.end()

    def _slice(self, records: Sequence[Record], part: Path) -> StepReport:
        process = self._idle.get()
        try:
            if process is None:
                process = WorkerProcess()
                process.wait_until_ready(embed_slice, self._setup)
            process.connection.send((records, part))
            answer = process.connection.recv()
        except (EOFError, OSError) as error:
            if process is not None:
                process.end()
            process = None
            raise RuntimeError("a process that embeds ended; its error is above") from error
        finally:
            self._idle.put(process)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, StepReport)
        return answer


_pools: dict[_Setup, EmbeddingPool] = {}


def embed_slice(records: Sequence[Record], part: Path, setup: _Setup) -> StepReport | Exception:
    """In such a process: embed a slice of a shard; its cores stay with it."""
    settings, device, workers = setup
    try:
        if setup not in _pools:
            _pools[setup] = EmbeddingPool(settings, workers, prepare=on_a_core)
        return embed_shard(records, part, _pools[setup], device)
    except Exception as error:  # the process lives on: what failed is this slice
        return error
