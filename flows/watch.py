"""Who watches a run. The run says what it does; a terminal, a log or Prefect's page shows it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is said first does not wait for RDKit and Arrow
    from mlff_core.shard import StepReport
    from mlff_core.store import Location
    from mlff_core.tables import Manifest


class Watcher:
    """Nobody: says nothing."""

    def tell(self, sentence: str) -> None:
        """Hear what will be done, what was guessed, what `auto` came to."""

    def begin(self, n_records: int, done: int) -> None:
        """The computation begins; so many records are there from an earlier run."""

    def advance(self, stage: str, shard: int, report: "StepReport") -> None:
        """A stage of a shard has ended."""

    def inside(self, stage: str, shard: int, n_molecules: int) -> None:
        """So many molecules of a shard are through a stage; said by any thread, at any rate."""

    def end(self, manifest: "Manifest", out: "Location") -> None:
        """Every record is in the tables."""


class Watchers(Watcher):
    """Several."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def tell(self, sentence: str) -> None:
        """Tell each."""
        for watcher in self.watchers:
            watcher.tell(sentence)

    def begin(self, n_records: int, done: int) -> None:
        """Tell each."""
        for watcher in self.watchers:
            watcher.begin(n_records, done)

    def advance(self, stage: str, shard: int, report: "StepReport") -> None:
        """Tell each."""
        for watcher in self.watchers:
            watcher.advance(stage, shard, report)

    def inside(self, stage: str, shard: int, n_molecules: int) -> None:
        """Tell each."""
        for watcher in self.watchers:
            watcher.inside(stage, shard, n_molecules)

    def end(self, manifest: "Manifest", out: "Location") -> None:
        """Tell each."""
        for watcher in self.watchers:
            watcher.end(manifest, out)


_current: ContextVar[Watcher] = ContextVar("watcher")


def current_watcher() -> Watcher:
    """Who watches besides Prefect's page: the terminal of a command, nobody under a worker."""
    return _current.get(Watcher())


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Runs that are started meanwhile are watched."""
    token = _current.set(watcher)
    try:
        yield
    finally:
        _current.reset(token)
