"""The pool's work without its processes: what a few molecules do not earn the start of."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import prepare


class _ThisProcess(EmbeddingPool):
    """A pool of no processes."""

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
        """Prepare one after the other, or `do` it; nothing travels, and nothing waits."""
        work: Callable[..., Any] = do or prepare
        if not as_one:
            return (work(*record, self.settings) for record in records)
        source = iter(records)
        groups = iter(lambda: [*islice(source, together)], [])
        return (answer for some in groups for answer in work(some, self.settings))


@contextmanager
def pool_of(settings: ChemistrySettings, workers: int) -> Iterator[EmbeddingPool]:
    """A pool of so many processes; of none, this one does the work.

    Args:
        settings: Of the chemistry.
        workers: Processes.
    """
    if workers:
        with EmbeddingPool(settings, workers) as pool:
            yield pool
    else:
        yield _ThisProcess(settings, 1)
