"""Seconds that a process and its descendants have computed, told every two seconds.

    python benchmarks/core_seconds.py PID

A process of its own: to walk through all processes would cost one that drives a card a tenth of its
interpreter. It ends with that process, or when nobody listens. A line has the time by
`time.monotonic`, then core seconds of that process, of its children, and of theirs and all below;
those that have ended are counted.
"""

import os
import sys
import time

import psutil

#: Seconds between two lines.
INTERVAL_S = 2.0
#: How far below the process they are counted apart.
LEVELS = 3


class CoreSeconds:
    """Of one process and its descendants, this process left out."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._spent: dict[tuple[int, float], tuple[int, float]] = {}

    def so_far(self) -> list[float]:
        """By how far below they are.

        Raises:
            psutil.NoSuchProcess: It has ended.
        """
        top = psutil.Process(self._pid)
        level = {self._pid: 0}
        for process in [top, *top.children(recursive=True)]:
            if process.pid == os.getpid():
                continue
            try:
                depth = 0 if process.pid == self._pid else level.get(process.ppid(), 1) + 1
                level[process.pid] = depth
                spent = process.cpu_times()
                key = process.pid, process.create_time()
                self._spent[key] = min(depth, LEVELS - 1), spent.user + spent.system
            except psutil.Error:  # it has ended meanwhile
                continue
        return [sum(s for d, s in self._spent.values() if d == k) for k in range(LEVELS)]


def main() -> None:
    """Tell it until nobody listens."""
    seconds = CoreSeconds(int(sys.argv[1]))
    while True:
        try:
            print(time.monotonic(), *seconds.so_far(), flush=True)
        except (psutil.NoSuchProcess, BrokenPipeError):
            return
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
