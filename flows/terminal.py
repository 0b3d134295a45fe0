"""What a person at a terminal sees of a run: what will be done, a bar, and nothing when quiet."""

import io
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from flows.text import duration, printable, rate
from flows.watch import Watcher

if TYPE_CHECKING:  # what is said first does not wait for RDKit and Arrow
    from mlff_core.shard import StepReport
    from mlff_core.store import Location
    from mlff_core.tables import Manifest

#: Without a terminal, a line so often: a log that grows by minutes, not by shards.
SECONDS_BETWEEN_LINES = 30.0


class Terminal(Watcher):
    """Shows a run on standard error.

    Attributes:
        begun: Whether the computation has begun: until then, what goes wrong is the call's fault.
        ended: Whether every record is in the tables: what goes wrong after that costs none.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.begun = self.ended = False
        self._quiet = quiet
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._n_records, self._written, self._began_with = 0, 0, 0
        self._counts = Counter[str]()
        # Molecules of the shards under way that are through a stage.
        self._inside: dict[str, dict[int, int]] = {"embed": {}, "relax": {}}
        self._told = time.monotonic()
        # When the first molecules ended, and how many: what went before was start and compilation.
        self._first: tuple[float, int] | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def tell(self, sentence: str) -> None:
        """Print it."""
        # A library's column or a model's card may come from anyone.
        self._console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)

    def begin(self, n_records: int, done: int) -> None:
        """Draw the bar, where there is a terminal."""
        self.begun = True
        self._n_records, self._written, self._began_with = n_records, done, done
        self._told, self._first = time.monotonic(), None
        if self._console.is_terminal and not self._quiet:
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
                speed_estimate_period=600.0,  # molecules end in bursts: half a minute says nothing
            )
            self._task = self._bar.add_task("molecules", total=n_records, completed=done)
            self._bar.start()

    def inside(self, stage: str, shard: int, n_molecules: int) -> None:
        """Count molecules that are relaxed: what is left to do with them takes no time."""
        if stage in self._inside:
            self._inside[stage][shard] = n_molecules
            self._show()

    def advance(self, stage: str, shard: int, report: "StepReport") -> None:
        """Count records that are written."""
        if stage == "write":
            for shards in self._inside.values():
                shards.pop(shard, None)
            self._written += report.n_records
            self._counts.update(report.counts)
            self._show()

    def _show(self) -> None:
        embedded, done = (
            self._written + sum(list(self._inside[stage].values())) for stage in ("embed", "relax")
        )
        now = time.monotonic()
        if self._first is None and done > self._began_with:
            self._first = now, done
        since, before = self._first or (now, done)
        per_s = (done - before) / (now - since) if now - since > 1 else 0.0
        words = ["molecules" + (f", {rate(per_s)}/s" if per_s else "")]
        if embedded > done:
            words.append(f"{embedded:,} embedded")
        words += [f"{n:,} {status}" for status, n in self._counts.items() if status != "ok"]
        text = ", ".join(words)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            n_left = self._n_records - done
            left = f", {duration(n_left / per_s)} left" if per_s and n_left else ""
            self.tell(f"{done:,} of {self._n_records:,} {text}{left}")

    def end(self, manifest: "Manifest", out: "Location") -> None:
        """Take the bar away."""
        self.ended = True
        self.close()

    def hush(self) -> None:
        """Say no more: what the bar's thread may still draw goes nowhere. Waits for no lock."""
        self._console.file = io.StringIO()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
