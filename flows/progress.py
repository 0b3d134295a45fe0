"""How far a run is: a bar where a person watches a terminal, an artifact in Prefect's timeline."""

import sys
import time
from types import TracebackType
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

#: An update of the artifact costs some milliseconds and a row in the server's event table.
SECONDS_BETWEEN_UPDATES = 2.0


class Progress:
    """Counts finished records; a context manager."""

    def __init__(self, n_records: int, done: int = 0):
        self.n_records, self.done = n_records, done
        self._updated = 0.0
        # Prefect types the result as perhaps a coroutine; in a flow that is not async it is none.
        self._artifact = cast(
            UUID,
            create_progress_artifact(
                self._percent(), key="screen-progress", description=f"of {n_records} records"
            ),
        )
        self._bar = Bar(
            TextColumn("screening"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("records"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._line = self._bar.add_task("records", total=n_records, completed=done)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def advance(self, n_records: int) -> None:
        """Count records that are finished, written and all."""
        self.done += n_records
        self._bar.advance(self._line, n_records)
        if time.monotonic() - self._updated > SECONDS_BETWEEN_UPDATES:
            self._report()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is None:
            self._report()

    def _report(self) -> None:
        self._updated = time.monotonic()
        update_progress_artifact(self._artifact, self._percent())

    def _percent(self) -> float:
        return 100.0 * self.done / max(self.n_records, 1)
