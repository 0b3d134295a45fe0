"""What a person at a terminal sees of a run: what will be done, a bar, and nothing when quiet."""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from flows.watch import Watcher
from mlff_core.shard import StepReport
from mlff_core.tables import Manifest

#: Without a terminal, a line so often: a log that grows by minutes, not by shards.
SECONDS_BETWEEN_LINES = 30.0


class Terminal(Watcher):
    """Shows a run on standard error.

    Attributes:
        begun: Whether the computation has begun: until then, what goes wrong is the call's fault.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.begun = False
        self._quiet = quiet
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._n_records, self._done, self._began_with = 0, 0, 0
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def tell(self, sentence: str) -> None:
        """Print it."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def begin(self, n_records: int, done: int) -> None:
        """Draw the bar, where there is a terminal."""
        self.begun = True
        self._n_records, self._done, self._began_with = n_records, done, done
        self._started = self._told = time.monotonic()
        if self._console.is_terminal and not self._quiet:
            self._bar = Progress(
                TextColumn("screening"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("records, {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=n_records, completed=done, rate="")
            self._bar.start()

    def advance(self, stage: str, report: StepReport) -> None:
        """Count records that are finished, written and all."""
        if stage != "write":
            return
        self._done += report.n_records
        now = time.monotonic()
        rate = (self._done - self._began_with) / max(now - self._started, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f}/s")
        elif now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            left = (self._n_records - self._done) / rate
            self.tell(
                f"{self._done:,} of {self._n_records:,} records, {rate:.1f}/s, {left:,.0f} s left"
            )

    def end(self, manifest: Manifest, out: Path) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
