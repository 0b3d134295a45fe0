"""How far a step of a shard is: heard by who watches in the same process, elsewhere by nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Called with a step's name, the shard and the number of its molecules that are through.
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def teller(step: str, shard: int) -> Callable[[int], None]:
    """A function that tells how many molecules of a shard are through a step."""
    listener = _listener.get()
    if listener is None:
        return lambda n_molecules: None
    return lambda n_molecules: listener(step, shard, n_molecules)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Steps that are started meanwhile, in this context or in a copy of it, are heard."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
