"""Batches in flight, one after the other or side by side, within the memory there is."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue

import torch

from mlff_core.models.force_field import ForceField
from mlff_core.moves.ended import HandedOver, Keeps, Relaxed, not_relaxed
from mlff_core.moves.legs import Leg, is_out_of_memory, legs_of
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule

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
    pre_relax: ForceField | None = None,
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
        pre_relax: A cheaper force field to walk with first, see `relax_conformers`.

    Raises:
        ValueError: `n_threads` is less than 1, or more than 1 on CUDA.
    """
    for ended in relax_groups([(molecules, n_slots)], potential, settings, n_threads, pre_relax):
        if isinstance(ended, Relaxed):
            yield ended


def relax_groups(
    groups: Sequence[tuple[Sequence[Molecule], int]],
    potential: ForceField,
    settings: RelaxSettings,
    n_threads: int | None,
    pre_relax: ForceField | None = None,
    keeps: Keeps | None = None,
) -> Iterator[Relaxed | HandedOver]:
    """As `relax_molecules`, one group of molecules after the other, each with its `n_slots`.

    Yields too who has been handed over from the cheaper force field to the other.
    """
    on_cpu = potential.device.type == "cpu"
    if n_threads is None:
        n_threads = min(torch.get_num_threads(), MAX_THREADS) if on_cpu else 1
    if n_threads < 1 or (n_threads > 1 and not on_cpu):
        most = "at least 1" if on_cpu else f"1 on {potential.device.type}"
        raise ValueError(f"n_threads: expected {most}, found {n_threads!r}")
    groups = [(molecules, n_slots) for molecules, n_slots in groups if molecules]
    n_threads = min(n_threads, sum(len(molecules) for molecules, _ in groups))
    legs = legs_of(groups, potential, settings, pre_relax, keeps)
    if n_threads > 1:
        yield from _side_by_side([leg.shared(n_threads) for leg in legs.all], n_threads)
    # Nobody, or those for whom there was no memory beside others.
    for leg in legs.all:
        yield from _relax_alone(leg)


def _relax_alone(leg: Leg) -> Iterator[Relaxed | HandedOver]:
    """What ends in one batch, and in others with fewer slots after it if memory runs out."""
    waiting, n_slots = leg.waiting, min(leg.n_slots, len(leg.waiting))
    while waiting:
        batch = leg.in_flight(n_slots)
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
        if leg.potential.device.type == "cuda":
            torch.cuda.empty_cache()
        if n_slots == 1:
            alone = interrupted.pop()
            if leg.into is None:
                yield not_relaxed(alone)
            else:
                leg.into.add(alone)
        waiting.put_back(interrupted)
        n_slots = max(n_slots // 2, 1)


def _side_by_side(legs: Sequence[Leg], n_threads: int) -> Iterator[Relaxed | HandedOver]:
    """What ends in batches side by side: threads, each with one core, that walk leg after leg.

    A batch that runs out of memory puts its molecules back and ends its thread, and leaves the
    others alone; all else that goes wrong in one is raised here. However this ends, all threads
    have ended when it has.
    """
    # Bounded, so that batches wait for a slow consumer.
    ended: Queue[Relaxed | HandedOver | BaseException | None] = Queue(
        n_threads * max(leg.n_slots for leg in legs)
    )
    prepared = threading.Semaphore(0)

    def work() -> None:
        try:
            # Of this thread, and of all that begin before the caller sets it right again. To be
            # asked for its number settles a thread's; one that is first set is lost at the first
            # operation.
            torch.get_num_threads()
            torch.set_num_threads(1)
            prepared.release()
            for leg in legs:
                if not leg.waiting:
                    continue
                batch = leg.in_flight(leg.n_slots)
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

    n_before = torch.get_num_threads()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(n_threads)]
    n_running = len(threads)
    try:
        for thread in threads:
            thread.start()
            prepared.acquire()
        torch.set_num_threads(n_before)
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
        for leg in legs:
            leg.waiting.closed = n_running > 0
        while n_running and any(thread.is_alive() for thread in threads):
            # Some may wait to hand over what nobody wants any more.
            with suppress(Empty):
                ended.get(timeout=0.01)
        torch.set_num_threads(n_before)
