"""A pool of processes that prepare molecules: every core busy, and no molecule can stop the others.

Each worker process has its own socket and its own thread here, which keeps a few molecules on
their way to it. A worker answers in order, so the oldest molecule on the way is the one that it
works on, and that one alone is to blame when the time is over or the process dies. Nothing is
shared between workers: no lock that a killed process could take with it.

The processes are started as plain interpreters rather than by `multiprocessing`, whose spawn would
first import the main script (and with it torch and Prefect) in each of them. POSIX only.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from itertools import count, islice
from multiprocessing.connection import Connection
from typing import Any, Final, Self

from mlff_core.chem.job import Job
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.cores import usable_cores
from mlff_core.interrupts import interrupts_kept_from_children
from mlff_core.status import MoleculeStatus, Reason

#: Messages on their way to a worker, so that it finds the next when it has sent the last.
_AHEAD: Final = 4
#: Records in these, but for the second message: what is urgent waits for all of them.
_RECORDS_AHEAD: Final = 32
#: Longest that several molecules of one message may take: then each is on its own.
_TOGETHER_S: Final = 10.0
#: Records that one `map` may be ahead of its consumer, a worker: what the others can go on with
#: while one is busy for long, and what bounds the memory.
_WINDOW: Final = 1024
#: Longest start of a worker process: it imports RDKit, on a busy machine from a cold disk.
_START_LIMIT_S: Final = 300.0
#: Starts that may end by a signal, one after the other: a system that is short of memory kills what
#: it finds, and goes on when it has some.
_KILLED_STARTS: Final = 5
#: Seconds before the next of them, the first time; twice as many each time.
_START_AGAIN_S: Final = 0.25
#: A worker whose socket is closed has this long to be gone before it is killed.
_EXIT_LIMIT_S: Final = 5.0

_BOOTSTRAP: Final = (
    "import os, sys; fds, parent, nicer, *sys.path = sys.argv[1:]; os.nice(int(nicer)); "
    "from mlff_core.chem.worker import serve; serve([int(fd) for fd in fds.split()], int(parent))"
)

#: What a worker runs: takes what `map` was given, and the settings.
Prepare = Callable[..., PreparedMolecule | None]


class WorkerProcess:
    """One process, and the sockets to it.

    Args:
        lanes: Sockets; each has a thread of its own in the process, which answers in order.
        nicer: By how much it is nicer than the thread that starts it.
    """

    def __init__(self, lanes: int = 1, nicer: int = 0) -> None:
        with ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(lanes)]
            fds = [stack.enter_context(theirs).fileno() for _, theirs in pairs]
            stack.enter_context(interrupts_kept_from_children())
            arguments = [" ".join(map(str, fds)), str(os.getpid()), str(nicer), *sys.path]
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", _BOOTSTRAP, *arguments],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.connections = [Connection(ours.detach()) for ours, _ in pairs]
        self.connection = self.connections[0]

    def wait_until_ready(
        self, function: Callable[..., object], settings: object, lane: int = 0
    ) -> None:
        """Hand over what a lane is to run; returns when the process has imported it.

        Raises:
            EOFError, OSError: The process ended instead, or took too long.
        """
        connection = self.connections[lane]
        connection.send((function, settings))
        if not connection.poll(_START_LIMIT_S):
            raise EOFError
        connection.recv()

    def end(self) -> int:
        """Close the sockets and wait for the process, which is killed if late; its exit status."""
        for connection in self.connections:
            connection.close()
        try:
            return self.process.wait(_EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _ending(exit_status: int) -> str:
    if exit_status < 0:
        return f"killed by {signal.Signals(-exit_status).name}"
    return f"exit status {exit_status}"


class EmbeddingPool:
    """Prepares molecules on every core, in processes that no bad molecule outlives.

    A molecule that takes longer than `settings.hard_timeout_s` has its worker killed and fails with
    `embedding_timeout`. One whose worker dies is tried once more, alone; then it fails with
    `out_of_memory` if the process was killed from outside, or with `internal_error`.

    Args:
        settings: What is accepted and how it is embedded.
        n_workers: Processes; by default the cores that this process may use. They start when there
            is work for them.
        prepare: What the processes run; must be importable by name.
        nicer: By how much they are nicer than who asks them for something.
    """

    def __init__(
        self,
        settings: ChemistrySettings,
        n_workers: int | None = None,
        *,
        prepare: Prepare = prepare,
        nicer: int = 0,
    ) -> None:
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers: expected 1 or more, found {n_workers}")
        self.settings = settings
        self.n_workers = n_workers or usable_cores()
        self._prepare = prepare
        self._nicer = nicer
        # Class, record, number, job; the lower class goes first, then the earlier record. None:
        # closed.
        self._jobs: queue.PriorityQueue[tuple[int, int, int, Job | None]] = queue.PriorityQueue()
        self._number = count()
        self._lock = threading.Lock()  # guards the three below
        self._threads: list[threading.Thread] = []
        self._workers: set[WorkerProcess] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(
        self,
        records: Iterable[tuple[Any, ...]],
        do: Callable[..., Any] | None = None,
        *,
        together: int = 1,
        as_one: bool = False,
        urgent: bool = False,
        at_once: bool = False,
        ahead: int | None = None,
    ) -> Iterator[Any]:
        """Prepare `(record, input_id, smiles)` one after the other; results in the same order.

        What stands behind these three is handed to `prepare` as well. Where another function is to
        do it, that is `do`; it must be importable by name. What it never answered is a
        `PreparedMolecule` that failed.

        Reads `records` a bounded number ahead of what was taken from it. Several threads may each
        be in a `map` of their own: earlier records go first, whoever asked for them, so that what
        follows on a shard begins while the next one is prepared.

        Args:
            records: See above.
            do: See above.
            together: Records that travel in one message, where each takes a few milliseconds: to
                send and receive them one by one costs a tenth of that.
            as_one: `do` is given a list of those that travel together, and answers by one.
            urgent: These go before what other `map`s have asked for.
            at_once: Begin now, not when the first result is asked for.
            ahead: Records, a worker, that it is ahead at most; None for as many as the conformers
                of all of them have room in memory.

        Raises:
            RuntimeError: The pool is closed, or no worker process could be started.
        """
        # As many conformers ahead whatever their number a molecule: that is what fills the memory.
        window = self.n_workers * (ahead or max(_AHEAD, _WINDOW // self.settings.most_conformers))
        source = iter(records)
        waiting: deque[Future[list[Any]]] = deque()

        def fill() -> None:
            while len(waiting) * together < window and (some := [*islice(source, together)]):
                waiting.append(self._submit(Job(some, do, as_one), urgent=urgent))

        if at_once:
            fill()
        return self._answers(waiting, fill)

    def _answers(self, ahead: deque[Future[list[Any]]], fill: Callable[[], None]) -> Iterator[Any]:
        """What comes of jobs that are under way, and of those that `fill` adds to them."""
        try:
            fill()
            while ahead:
                answers = ahead.popleft().result()
                fill()
                yield from answers
        except CancelledError:
            raise RuntimeError("the embedding pool was closed") from None
        finally:
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        """End the processes. Whoever still waits in a `map` gets a RuntimeError."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.kill()
        self._jobs.put(self._end_of_jobs())
        for thread in self._threads:
            thread.join()
        while not self._jobs.empty():
            if (job := self._jobs.get()[-1]) is not None:
                job.future.cancel()
        self._jobs.put(self._end_of_jobs())

    def _submit(self, job: Job, *, urgent: bool) -> Future[list[Any]]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the embedding pool was closed")
            self._jobs.put((0 if urgent else 1, job.records[0][0], next(self._number), job))
            if len(self._threads) < self.n_workers:
                thread = threading.Thread(
                    target=self._supervise, name=f"embedding-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        return job.future

    def _end_of_jobs(self) -> tuple[int, int, int, None]:
        """Before all jobs; no two are the same, for a queue compares what it holds."""
        return -1, 0, next(self._number), None

    def _supervise(self) -> None:
        """Keep one worker process fed, and replace it when it is gone, until the pool closes."""
        backlog: deque[Job] = deque()  # taken from the queue, not yet with a worker
        while not self._closed:
            if not backlog:
                job = self._take(wait=True)
                if job is None:
                    break
                backlog.append(job)
            worker = self._start_worker(backlog)
            if worker is not None:
                self._feed(worker, backlog)
        for job in backlog:
            job.future.cancel()

    def _take(self, *, wait: bool) -> Job | None:
        """The next job; None if the pool is closed, or if there is none to take without waiting."""
        while True:
            # The last few are left for workers that have nothing to do.
            if not wait and self._jobs.qsize() <= self.n_workers:
                return None
            try:
                *_, job = self._jobs.get(block=wait)
            except queue.Empty:
                return None
            if job is None:
                self._jobs.put(self._end_of_jobs())  # for the other threads
                return None
            if not job.future.cancelled():
                return job

    def _start_worker(self, backlog: deque[Job]) -> WorkerProcess | None:
        """A worker that is ready; None if none can be started, and the backlog's jobs say so."""
        for attempt in range(_KILLED_STARTS):
            with self._lock:
                if self._closed:
                    return None
                worker = WorkerProcess(nicer=self._nicer)
                self._workers.add(worker)
            began = time.monotonic()
            try:
                worker.wait_until_ready(self._prepare, self.settings)
                return worker
            except (EOFError, OSError):
                late = time.monotonic() - began > _START_LIMIT_S
                exit_status = self._end(worker)
            if late or exit_status >= 0:  # it ended by itself, and will again
                break
            time.sleep(_START_AGAIN_S * 2**attempt)
        message = (
            f"an embedding worker could not start ({_ending(exit_status)}); its error is above"
        )
        while backlog and not self._closed:
            backlog.popleft().resolve(RuntimeError(message))
        return None

    def _end(self, worker: WorkerProcess) -> int:
        exit_status = worker.end()
        with self._lock:
            self._workers.discard(worker)
        return exit_status

    def _feed(self, worker: WorkerProcess, backlog: deque[Job]) -> None:
        """Feed a worker until it is gone or the pool closes; unfinished jobs go to the backlog."""
        on_the_way: deque[Job] = deque()
        head: Job | None = None  # what the worker works on: it answers in order
        timed_out = False
        try:
            while self._top_up(worker, on_the_way, backlog):
                if head is not on_the_way[0]:
                    head = on_the_way[0]
                    limit = self.settings.hard_timeout_s
                    if len(head.records) > 1:
                        limit = min(limit, _TOGETHER_S)
                    deadline = time.monotonic() + limit
                if not worker.connection.poll(max(0.0, deadline - time.monotonic())):
                    timed_out = True
                    worker.process.kill()
                    break
                answer = worker.connection.recv()
                on_the_way.popleft().answer(answer)
        except (EOFError, OSError):
            pass
        exit_status = self._end(worker)
        backlog.extendleft(reversed(on_the_way))
        if not on_the_way or self._closed:
            return
        culprit = backlog[0]
        if len(culprit.records) > 1:
            backlog.extendleft(reversed(backlog.popleft().apart(suspect=not timed_out)))
        elif timed_out:
            backlog.popleft().resolve([_timed_out(culprit, self.settings)])
        elif culprit.suspect:
            backlog.popleft().resolve([_died(culprit, exit_status)])
        else:
            culprit.suspect = True

    def _top_up(self, worker: WorkerProcess, on_the_way: deque[Job], backlog: deque[Job]) -> bool:
        """Send the worker what it should have; False if there is nothing: the pool is closed."""
        while not (on_the_way and on_the_way[0].suspect):
            n_records = sum(len(job.records) for job in on_the_way)
            if len(on_the_way) > 1 and (len(on_the_way) == _AHEAD or n_records >= _RECORDS_AHEAD):
                break
            job = backlog.popleft() if backlog else self._take(wait=not on_the_way)
            if job is None:
                break
            on_the_way.append(job)
            worker.connection.send(job.message())
        return bool(on_the_way)


def _timed_out(job: Job, settings: ChemistrySettings) -> PreparedMolecule:
    return PreparedMolecule.of(
        *job.records[0][:3],
        status=MoleculeStatus.FAILED,
        reason=Reason.EMBEDDING_TIMEOUT,
        message=f"not done after {settings.hard_timeout_s:g} s, its process was killed",
        timings_s=settings.hard_timeout_s,
    )


def _died(job: Job, exit_status: int) -> PreparedMolecule:
    message = f"its process died twice ({_ending(exit_status)})"
    reason = Reason.INTERNAL_ERROR
    if exit_status == -signal.SIGKILL:  # nothing in the process sends this one to itself
        reason = Reason.OUT_OF_MEMORY
        message += ", which is what the system does when memory runs out"
    return PreparedMolecule.of(
        *job.records[0][:3], status=MoleculeStatus.FAILED, reason=reason, message=message
    )
