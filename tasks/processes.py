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
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from mlff_core.arrow import read_arrow, write_arrow
from mlff_core.chem.constrained import SIDE_BY_SIDE, constraining, on_a_core
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool, WorkerProcess
from mlff_core.cores import hand_over_quickly, usable_cores
from mlff_core.library.records import Record
from mlff_core.shard import StepReport, embed_shard, write_stragglers
from mlff_core.shipped import drugs

if TYPE_CHECKING:
    from mlff_core.embedding.on_device import Straggler

#: Most processes, and cores of the machine for each of them: one interpreter keeps up with a few,
#: and contexts take turns on a card, the one that relaxes among them.
MOST_PROCESSES: Final = 8
CORES_EACH: Final = 4
#: Memory of the device in bytes for each: its context, and what it works on at once.
MEMORY_EACH: Final = 6 * 2**30
#: Slices that a process has at once: its cores prepare the one while it embeds the other.
LANES: Final = 2
#: Cores of the machine for each molecule that takes seconds: two in a thousand do. A shard is not
#: relaxed before its last one is there.
CORES_A_STRAGGLER: Final = 2
#: By how much these processes are nicer than the one that relaxes, and their cores than they: what
#: drives the card never waits for a core, nor does an import of torch for those of RDKit.
NICER: Final = 5
#: And those that have the stragglers, for which a whole shard waits.
STRAGGLERS_NICER: Final = 2
#: Records that a process embeds at once: many, because the card takes as long for half of them, and
#: few enough that all processes have work until the end of a shard.
RECORDS_AT_ONCE: Final = 2500
#: Molecules for each core of a process that is made ready: at least what travels to one together.
ETHANE: Final = 16
#: Drugs that each core prepares then, and forgets: which patterns can match what is around an atom
#: is learnt from them, which doubles the time of each of the first hundred.
FAMILIAR: Final = 128

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
        self._setup: _Setup = settings, device, math.ceil(cores / n_processes)
        self._processes = [_Process(self._setup) for _ in range(n_processes)]
        self._idle = [_Lane(process, n) for n in range(LANES) for process in self._processes]
        self._free = threading.Condition()
        self._waiting: list[tuple[int, int]] = []  # heap: who came first is served first
        self._shards = itertools.count()
        self._beginning: list[threading.Thread] = []
        self._stragglers = EmbeddingPool(
            settings, max(1, cores // CORES_A_STRAGGLER), prepare=on_a_core, nicer=STRAGGLERS_NICER
        )

    def begin(self) -> None:
        """Start all processes beside the caller, who has other things to make ready.

        Each embeds some ethane, which starts its cores and its context, while the cores get to know
        some drugs. What goes wrong here is met again by the first shard, which says it.
        """
        familiar = drugs()[:FAMILIAR]

        def start(number: int) -> None:
            some = [Record(k, None, "CC", None) for k in range(self._setup[2] * ETHANE)]
            lane = self._take((-1, number))
            try:
                with tempfile.TemporaryDirectory() as folder, suppress(Exception):
                    lane.ask(learn, familiar)
                    lane.ask(some, Path(folder) / "start.arrow")
            finally:
                self._give(lane)

        def start_stragglers() -> None:
            some = ((k, None, "C") for k in range(self._stragglers.n_workers))
            with suppress(Exception):
                list(constraining(some, self._stragglers, together=1))

        tasks: list[Callable[[], None]] = [partial(start, k) for k in range(self.n_processes)]
        for task in (*tasks, start_stragglers):
            thread = threading.Thread(target=task, daemon=True)
            self._beginning.append(thread)
            thread.start()

    def wait_until_begun(self) -> None:
        """Return when what `begin` started is there."""
        for thread in self._beginning:
            thread.join()

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
        self.wait_until_begun()
        self._stragglers.close()
        for process in self._processes:
            process.end()

    def _take(self, turn: tuple[int, int]) -> "_Lane":
        """A lane of the process that has least to do.

        A shard that came earlier is served first: what follows begins with it.
        """
        with self._free:
            heapq.heappush(self._waiting, turn)
            self._free.wait_for(lambda: self._idle and self._waiting[0] == turn)
            heapq.heappop(self._waiting)
            self._free.notify_all()
            idle = Counter(id(lane.process) for lane in self._idle)
            lane = max(self._idle, key=lambda lane: idle[id(lane.process)])
            self._idle.remove(lane)
            return lane

    def _give(self, lane: "_Lane") -> None:
        with self._free:
            self._idle.append(lane)
            self._free.notify_all()

    def _slice(self, turn: tuple[int, int], records: Sequence[Record], part: Path) -> StepReport:
        lane = self._take(turn)
        try:
            answer = lane.ask(records, part)
        finally:
            self._give(lane)
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


class _Process:
    """A process that embeds, started when it is asked for something."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self.worker: WorkerProcess | None = None
        self._ready: set[int] = set()

    def open(self, lane: int) -> tuple[WorkerProcess, Connection]:
        """The process, and the socket of a lane on which it takes slices.

        Raises:
            EOFError, OSError: It could not be started.
        """
        with self._lock:
            if self.worker is None:
                self.worker, self._ready = WorkerProcess(LANES), set()
            worker = self.worker
            if lane not in self._ready:
                worker.wait_until_ready(embed_slice, self._setup, lane)
                self._ready.add(lane)
        return worker, worker.connections[lane]

    def end(self) -> None:
        """End the process, which has nothing to do."""
        with self._lock:
            if self.worker is not None:
                self.worker.end()
                self.worker = None

    def give_up(self, worker: WorkerProcess | None) -> None:
        """Have done with a process that failed; None: with whichever it is."""
        with self._lock:
            failed = worker or self.worker
            if failed is None:
                return
            # Its other lanes hear of it; the sockets are closed when the last has let go of them.
            failed.process.kill()
            failed.process.wait()
            if failed is self.worker:
                self.worker = None


class _Lane(NamedTuple):
    """One of the sockets to a process: its slices come one after the other."""

    process: _Process
    number: int

    def ask(self, *task: Any) -> Any:
        """What `embed_slice` answers there, or another function that stands first.

        Raises:
            RuntimeError: The process ended; the next who asks starts another.
        """
        worker = None
        try:
            worker, connection = self.process.open(self.number)
            connection.send(task)
            return connection.recv()
        except (EOFError, OSError) as error:
            self.process.give_up(worker)
            raise RuntimeError("a process that embeds ended; its error is above") from error


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
_opening = threading.Lock()
_thread = threading.local()


def embed_slice(
    records: Sequence[Record], part: Path, setup: _Setup
) -> tuple[StepReport, "list[Straggler]"] | Exception:
    """In such a process: embed a slice of a shard but its stragglers; its cores stay with it."""
    device = setup[1]
    stragglers: list[Straggler] = []
    try:
        if not hasattr(_thread, "nicer"):  # a thread's own affair, and of those that it starts
            _thread.nicer = os.nice(NICER)
            hand_over_quickly()
        report = embed_shard(records, part, _pool(setup), device, stragglers=stragglers)
    except Exception as error:  # the process lives on: what failed is this slice
        return error
    return report, stragglers


def _pool(setup: _Setup) -> EmbeddingPool:
    """The cores of such a process."""
    settings, _, workers = setup
    with _opening:
        if setup not in _pools:
            _pools[setup] = EmbeddingPool(settings, workers, prepare=on_a_core, nicer=NICER)
        return _pools[setup]


def learn(smiles: Sequence[str], setup: _Setup) -> None:
    """In such a process: let each core prepare the same molecules, for nobody; does not wait."""
    pool = _pool(setup)
    some = [
        (0, None, one)
        for start in range(0, len(smiles), SIDE_BY_SIDE)
        for one in [*smiles[start : start + SIDE_BY_SIDE]] * pool.n_workers
    ]
    answers = constraining(some, pool)

    def forget() -> None:
        with suppress(RuntimeError):  # the pool is closed
            deque(answers, maxlen=0)

    threading.Thread(target=forget, daemon=True).start()
