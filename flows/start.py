"""Where the command begins: Ctrl-C is heard before anything that takes time is imported."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> int:
    """Run the command of `sys.argv`; returns the exit status."""
    signal.signal(signal.SIGINT, stopped)  # a run hears it by itself, once it has something to keep
    from flows import cli

    return cli.main()


def stopped(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Say it in one line, leave with status 130; what is written is whole or not there."""
    print("\nmlff-screen: stopped", file=sys.__stderr__, flush=True)
    os._exit(130)
