"""What Ctrl-C does to a run: a line that says what is kept, and the end."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

#: A server that does not answer keeps a command that was stopped for no longer.
SECONDS_FOR_THE_LAST = 5.0


class Stop:
    """Leaves at once on Ctrl-C. Files are whole at any moment, so there is nothing to wait for.

    Ctrl-C reaches every process of a terminal: an orderly end would wait for the shard on the
    device, and where a Prefect server shares the terminal, fail to report it.

    Args:
        kept: Says, when the time comes, what is kept and how to go on.
        hush: Silences who else writes to the terminal, so that the line is the last one.
        last: What is to be done before the end; given some seconds.
    """

    def __init__(
        self,
        kept: Callable[[], str],
        hush: Callable[[], None] | None = None,
        last: Callable[[], None] | None = None,
    ) -> None:
        self._kept = kept
        self._hush = hush
        self._last = last

    def __call__(self, signal_number: int, frame: FrameType | None) -> NoReturn:
        """Say it, end every process that was started, leave with status 130."""
        import psutil

        # While there is a bar, sys.stderr is the bar's, which may be in the middle of something;
        # and it has hidden the cursor, which nobody else is left to show again.
        stream = sys.__stderr__ or sys.stderr
        cursor = "\x1b[?25h" if stream.isatty() else ""
        if self._hush is not None:
            self._hush()
        print(f"{cursor}\nmlff-screen: stopped; {self._kept()}", file=stream, flush=True)
        if self._last is not None:
            # In a thread: the main one may hold a lock that this needs.
            last = threading.Thread(target=self._last, daemon=True)
            last.start()
            last.join(SECONDS_FOR_THE_LAST)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(130)
