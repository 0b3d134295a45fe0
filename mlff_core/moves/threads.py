"""Batches in flight, one after the other or side by side, within the memory there is."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue

import torch

from mlff_core.models.force_field import ForceField
from mlff_core.moves.in_flight import InFlight, Relaxed, not_relaxed
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule
from mlff_core.moves.waiting import WaitingQueue

#: Most batches side by side on a CPU: all share one interpreter, for which more would wait. What
#: they gain has been measured on two cores.
MAX_THREADS = 16


def relax_molecules(
    molecules: Sequence[Molecule],
    potential: ForceField,
    settings: RelaxSettings,
    n_slots: int,
    *,
    n_threads: int | None = None,
) -> Iterator[Relaxed]:
    """Relax molecules, `n_slots` at a time; each is yielded as it ends, in no particular order.

    On a CPU several batches are under way side by side, each with a thread, `n_slots` and a core of
    its own, and take from the same queue: one batch is a chain of operations too small to share out
    among cores.

    Out of memory halves the number of slots: the molecules that were under way begin again, and
    because a molecule's path does not depend on who is beside it, only time is lost. A molecule
    that does not fit alone is yielded without a status.

    Args:
        molecules: What to relax.
        potential: What computes energies and forces.
        settings: What is asked for.
        n_slots: Most molecules in a force call.
        n_threads: None for as many as PyTorch would use threads here, at most MAX_THREADS; 1 on
            CUDA.

    Raises:
        ValueError: `n_threads` is less than 1, or more than 1 on CUDA.
    """
    return relax_groups([(molecules, n_slots)], potential, settings, n_threads)


def relax_groups(
    groups: Sequence[tuple[Sequence[Molecule], int]],
    potential: ForceField,
    settings: RelaxSettings,
    n_threads: int | None,
) -> Iterator[Relaxed]:
    """As `relax_molecules`, one group of molecules after the other, each with its `n_slots`."""
    on_cpu = potential.device.type == "cpu"
    if n_threads is None:
        n_threads = min(torch.get_num_threads(), MAX_THREADS) if on_cpu else 1
    if n_threads < 1 or (n_threads > 1 and not on_cpu):
        most = "at least 1" if on_cpu else f"1 on {potential.device.type}"
        raise ValueError(f"n_threads: expected {most}, found {n_threads!r}")
    queues = [(WaitingQueue(molecules), n_slots) for molecules, n_slots in groups if molecules]
    n_threads = min(n_threads, sum(len(waiting) for waiting, _ in queues))
    if n_threads > 1:
        yield from _side_by_side(
            [
                [
                    InFlight(
                        waiting, potential, settings, min(n_slots, -(-len(waiting) // n_threads))
                    )
                    for waiting, n_slots in queues
                ]
                for _ in range(n_threads)
            ]
        )
    # Nobody, or those for whom there was no memory beside others.
    for waiting, n_slots in queues:
        yield from _relax_alone(waiting, potential, settings, min(n_slots, len(waiting)))


def _relax_alone(
    waiting: "WaitingQueue", potential: ForceField, settings: RelaxSettings, n_slots: int
) -> Iterator[Relaxed]:
    """What ends in one batch, and in others with fewer slots after it if memory runs out."""
    while waiting:
        batch = InFlight(waiting, potential, settings, n_slots)
        try:
            yield from batch
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            interrupted = batch.unfinished
        else:
            return
        # Outside the except clause, whose traceback would keep the tensors alive.
        del batch
        if potential.device.type == "cuda":
            torch.cuda.empty_cache()
        if n_slots == 1:
            yield not_relaxed(interrupted.pop())
        waiting.put_back(interrupted)
        n_slots = max(n_slots // 2, 1)


def _side_by_side(rounds: Sequence[Sequence["InFlight"]]) -> Iterator[Relaxed]:
    """What ends in rounds of batches, each round in a thread of its own with one core.

    A batch that runs out of memory puts its molecules back and ends its round, and leaves the
    others alone; all else that goes wrong in one is raised here. However this ends, all threads
    have ended when it has.
    """
    # Bounded, so that batches wait for a slow consumer.
    ended: Queue[Relaxed | BaseException | None] = Queue(
        sum(max(batch.n_slots for batch in batches) for batches in rounds)
    )
    prepared = threading.Semaphore(0)

    def work(batches: Sequence[InFlight]) -> None:
        try:
            # Of this thread, and of all that begin before the caller sets it right again. To be
            # asked for its number settles a thread's; one that is first set is lost at the first
            # operation.
            torch.get_num_threads()
            torch.set_num_threads(1)
            prepared.release()
            for batch in batches:
                if not batch.waiting:
                    continue
                try:
                    for relaxed in batch:
                        ended.put(relaxed)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    batch.waiting.put_back(batch.unfinished)
                    return
        except BaseException as error:
            ended.put(error)
        finally:
            ended.put(None)

    n_threads = torch.get_num_threads()
    threads = [threading.Thread(target=work, args=(batches,), daemon=True) for batches in rounds]
    n_running = len(threads)
    try:
        for thread in threads:
            thread.start()
            prepared.acquire()
        torch.set_num_threads(n_threads)
        while n_running:
            relaxed = ended.get()
            if relaxed is None:
                n_running -= 1
            elif isinstance(relaxed, BaseException):
                raise relaxed
            else:
                yield relaxed
        for thread in threads:
            thread.join()
    finally:
        for batch in rounds[0]:
            batch.waiting.closed = n_running > 0
        while n_running and any(thread.is_alive() for thread in threads):
            # Some may wait to hand over what nobody wants any more.
            with suppress(Empty):
                ended.get(timeout=0.01)
        torch.set_num_threads(n_threads)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the card or on the host."""
    # PyTorch has no class of its own for the host's memory.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )
