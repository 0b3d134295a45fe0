"""Stages that leave notes of who ran them, for the actors of a Ray cluster to import."""

import os
import time
from pathlib import Path

from mlff_core.shard import StepReport


def note(shard: int, name: str, folder: str, seconds: float) -> StepReport:
    """Take a while, and write down which process did it, on which card, with how many cores."""
    time.sleep(seconds)
    card, cores = os.environ.get("CUDA_VISIBLE_DEVICES"), len(os.sched_getaffinity(0))
    (Path(folder) / f"{name}.{shard}.{time.monotonic_ns()}").write_text(
        f"{os.getpid()} {os.getppid()} {card} {cores}"
    )
    return StepReport(1)


def fail(shard: int, folder: str) -> StepReport:
    """Fail for good, as a stage does whose disk is full."""
    raise OSError(28, f"no space for shard {shard} in {folder}")


def die(shard: int, folder: str) -> StepReport:
    """Take its lane along, whichever it is."""
    os.kill(os.getpid(), 9)
    raise AssertionError
