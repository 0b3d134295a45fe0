"""How many cores this process may keep busy, and how soon its threads hand over to each other."""

import os
import sys
from pathlib import Path
from typing import Final

#: Longest that a thread keeps the interpreter from another that waits for it, in seconds.
_SWITCH_S: Final = 5e-5


def usable_cores() -> int:
    """Cores that this process may keep busy: its CPU affinity, and its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))
    else:
        n_cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(n_cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return n_cores


def hand_over_quickly() -> None:
    """Let threads of this process have the interpreter from each other after 50 µs, not 5 ms.

    A thread that launches kernels gives it up with each of them. Beside one that reads rows it
    would wait for milliseconds to have it back, to launch the next in ten microseconds.
    """
    sys.setswitchinterval(_SWITCH_S)
