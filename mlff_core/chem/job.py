"""What a worker of the embedding pool is sent in one message, and what comes of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Job:
    """Records that travel together.

    Attributes:
        records: Arguments of each.
        do: What a worker does with each; None: what the pool is for.
        as_one: `do` is given the list of all records, and answers by one.
        future: Of a list, an entry a record.
        suspect: The worker that had it died, maybe of it: it goes alone to the next one.
    """

    records: Sequence[tuple[Any, ...]]
    do: Callable[..., object] | None = None
    as_one: bool = False
    future: Future[list[Any]] = field(default_factory=Future)
    suspect: bool = False

    def message(self) -> object:
        """What the worker is sent: a task, or a list of them; it answers alike."""
        if self.as_one:
            return self.do, self.records
        do = () if self.do is None else (self.do,)
        tasks = [(*do, *record) for record in self.records]
        return tasks if len(tasks) > 1 else tasks[0]

    def answer(self, answer: Any) -> None:
        """Hand on what the worker answered to the message."""
        self.resolve(answer if self.as_one or len(self.records) > 1 else [answer])

    def resolve(self, outcome: list[Any] | RuntimeError) -> None:
        """Say what came of it to who waits, if anybody does."""
        with suppress(InvalidStateError):  # cancelled: nobody waits for it
            if isinstance(outcome, RuntimeError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

    def apart(self, *, suspect: bool) -> "list[Job]":
        """A job for each of the records, which together resolve this one.

        Args:
            suspect: Of each of them; they are to stay with one thread.
        """
        jobs = [Job([record], self.do, self.as_one, suspect=suspect) for record in self.records]

        def ended(_: Future[list[Any]]) -> None:
            if not all(job.future.done() for job in jobs):
                return
            try:
                self.resolve([answer for job in jobs for answer in job.future.result()])
            except RuntimeError as error:
                self.resolve(error)
            except CancelledError:
                self.future.cancel()

        for job in jobs:
            job.future.add_done_callback(ended)
        return jobs
