"""Ctrl-C goes to every process of a terminal, and is one process's to handle."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Processes that this thread starts meanwhile never see SIGINT.

    They inherit that it is blocked, from their first instruction and in all their threads. To
    ignore it would not do: RDKit puts a handler of its own in place while it works, which cuts
    short what it is at (a substructure search, an embedding) and returns a part as if it were all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
