"""Processes that embed slices of a shard on the card, each with cores of its own.

One interpreter would be too few: it would unpack what the cores prepared, pack it for the card and
drive the relaxation at the same time, one of these at a time.
"""

import heapq
import itertools
import math
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from mlff_core.arrow import read_arrow, write_arrow
from mlff_core.chem.constrained import on_a_core
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool, WorkerProcess
from mlff_core.cores import usable_cores
from mlff_core.library.records import Record
from mlff_core.shard import StepReport, embed_shard, write_stragglers

if TYPE_CHECKING:
    from mlff_core.embedding.on_device import Straggler

#: Most processes, and cores of the machine for each of them: one interpreter keeps up with a few,
#: and contexts take turns on a card, the one that relaxes among them.
MOST_PROCESSES: Final = 8
CORES_EACH: Final = 4
#: Memory of the device in bytes for each: its context, and what it works on at once.
MEMORY_EACH: Final = 6 * 2**30
#: Cores that prepare, for each of the machine's. While a process embeds, those that prepare for it
#: have nothing to do.
CROWDING: Final = 1.5
#: Cores of the machine for each molecule that takes seconds: two in a thousand do.
CORES_A_STRAGGLER: Final = 4
#: By how much these processes are nicer than the one that relaxes: what drives the card never waits
#: for a core.
NICER: Final = 5
#: Records that a process embeds at once: many, because the card takes as long for half of them, and
#: few enough that all processes have work until the end of a shard.
RECORDS_AT_ONCE: Final = 2500

#: What a process needs to know: settings, device and the number of its cores.
_Setup = tuple[ChemistrySettings, str, int]


class EmbeddingProcesses:
    """Embeds shards on a device; the processes start when there is work for them.

    Args:
        settings: What is accepted and how many conformers are wanted.
        device: Where conformers are embedded.
        workers: Cores for all processes together; those of this process if None.
        n_processes: How many; None for what suits the cores and the device.
    """

    def __init__(
        self,
        settings: ChemistrySettings,
        device: str,
        workers: int | None = None,
        n_processes: int | None = None,
    ) -> None:
        cores = workers or usable_cores()
        if n_processes is None:
            n_processes = min(MOST_PROCESSES, cores // CORES_EACH, _room(device))
        self.n_processes = n_processes = max(n_processes, 1)
        self._setup: _Setup = settings, device, math.ceil(CROWDING * cores / n_processes)
        self._idle: list[WorkerProcess | None] = [None] * n_processes
        self._free = threading.Condition()
        self._waiting: list[tuple[int, int]] = []  # heap: who came first is served first
        self._shards = itertools.count()
        self._beginning: list[threading.Thread] = []
        self._stragglers = EmbeddingPool(
            settings, max(1, cores // CORES_A_STRAGGLER), prepare=on_a_core
        )

    def begin(self) -> None:
        """Start all processes beside the caller, who has other things to make ready.

        Each embeds some ethane, which starts its cores and its context. What goes wrong here is met
        again by the first shard, which says it.
        """

        def start(number: int) -> None:
            some = [Record(k, None, "CC", None) for k in range(self._setup[2])]
            with tempfile.TemporaryDirectory() as folder, suppress(Exception):
                self._slice((-1, number), some, Path(folder) / "start.arrow")

        for number in range(self.n_processes):
            thread = threading.Thread(target=start, args=(number,), daemon=True)
            self._beginning.append(thread)
            thread.start()

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
        turn = next(self._shards)
        starts = range(0, len(records), RECORDS_AT_ONCE)
        parts = [embedded_file.with_suffix(f".{start}.arrow") for start in starts]
        timings: dict[str, float] = {}
        slowest: dict[int, float] = {}
        done = 0
        try:
            # A thread for each slice, because one that waits for stragglers keeps nobody waiting.
            with ThreadPoolExecutor(max(len(starts), 1)) as threads:
                slices = [records[start : start + RECORDS_AT_ONCE] for start in starts]
                turns = [(turn, start) for start in starts]
                for report in threads.map(self._slice, turns, slices, parts):
                    done += report.n_records
                    slowest |= report.slowest
                    for name, seconds in report.timings_s.items():
                        timings[name] = timings.get(name, 0.0) + seconds
                    if progress is not None:
                        progress(done)
            files = [file for part in parts for file in (part, _late(part)) if file.exists()]
            tables = [read_arrow(file) for file in files]
            write_arrow(_in_order(pa.concat_tables(tables)), embedded_file)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
                _late(part).unlink(missing_ok=True)
        return StepReport(n_records=done, timings_s=timings, slowest=slowest)

    def close(self) -> None:
        """End the processes that have nothing to do."""
        for thread in self._beginning:
            thread.join()
        self._stragglers.close()
        with self._free:
            idle, self._idle = self._idle, []
        for process in idle:
            if process is not None:
                process.end()

    def _take(self, turn: tuple[int, int]) -> WorkerProcess | None:
        """A process that has nothing to do, or None where one is to be started.

        A shard that came earlier has the processes first: what follows begins with it.
        """
        with self._free:
            heapq.heappush(self._waiting, turn)
            self._free.wait_for(lambda: self._idle and self._waiting[0] == turn)
            heapq.heappop(self._waiting)
            self._free.notify_all()
            return self._idle.pop()

    def _give(self, process: WorkerProcess | None) -> None:
        with self._free:
            self._idle.append(process)
            self._free.notify_all()

    def _slice(self, turn: tuple[int, int], records: Sequence[Record], part: Path) -> StepReport:
        process = self._take(turn)
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
            self._give(process)
        if isinstance(answer, Exception):
            raise answer
        report, stragglers = answer
        assert isinstance(report, StepReport)
        if not stragglers:
            return report
        # The process is at the next slice meanwhile.
        late = write_stragglers(stragglers, records, _late(part), self._stragglers)
        timings = dict(report.timings_s)
        for name, seconds in late.timings_s.items():
            timings[name] = timings.get(name, 0.0) + seconds
        return StepReport(report.n_records, timings, slowest=report.slowest | late.slowest)


def _late(part: Path) -> Path:
    """Where the stragglers of a part of a shard lie."""
    return part.with_suffix(".late.arrow")


def _in_order(table: pa.Table) -> pa.Table:
    """Molecules in the order of their records and variants."""
    order = np.lexsort((table["variant"].to_numpy(), table["record"].to_numpy()))
    if (order == np.arange(len(order))).all():
        return table
    return table.take(pa.array(order))


def _room(device: str) -> int:
    """Processes that a device has memory for."""
    if not device.startswith("cuda"):
        return MOST_PROCESSES
    import torch  # takes seconds, and is there where a model is on the device

    return torch.cuda.get_device_properties(device).total_memory // MEMORY_EACH


_pools: dict[_Setup, EmbeddingPool] = {}


def embed_slice(
    records: Sequence[Record], part: Path, setup: _Setup
) -> tuple[StepReport, "list[Straggler]"] | Exception:
    """In such a process: embed a slice of a shard but its stragglers; its cores stay with it."""
    settings, device, workers = setup
    stragglers: list[Straggler] = []
    try:
        if setup not in _pools:
            os.nice(NICER)
            _pools[setup] = EmbeddingPool(settings, workers, prepare=on_a_core)
        report = embed_shard(records, part, _pools[setup], device, stragglers=stragglers)
    except Exception as error:  # the process lives on: what failed is this slice
        return error
    return report, stragglers
