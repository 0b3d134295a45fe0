"""How many cores this process may keep busy."""

import os
from pathlib import Path


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
