"""Where the time of a screen goes: molecules/s and core-ms a molecule by stage, and shares.

    python benchmarks/screen.py [LIBRARY] [--limit N] [--shard-size N] [--json FILE]

The flow runs in this process against Prefect's temporary server, as `mlff-screen run` does. Each
task's body is timed, and inside the relaxation each call of the model. Prefect's share is the time
in which no task's body ran, from the first task's begin to the last one's end; its start, which a
run pays once, is told apart.
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("DO_NOT_TRACK", "1")

import torch

import flows.screen
import tasks.embed
import tasks.relax
import tasks.write
from mlff_core.cores import usable_cores
from mlff_core.models.potential import Potential
from mlff_core.tables import read_manifest


class Stopwatch:
    """Wall intervals and CPU seconds of the calls of a function, from any thread."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, float]] = []
        self.thread_cpu_s = 0.0
        self._lock = threading.Lock()

    def around(self, function: Callable) -> Callable:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin, cpu = time.monotonic(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.intervals.append((begin, time.monotonic()))
                    self.thread_cpu_s += time.thread_time() - cpu

        return timed

    @property
    def wall_s(self) -> float:
        """Sum of the intervals."""
        return sum(end - begin for begin, end in self.intervals)


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of the intervals."""
    total, reach = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reach))
        reach = max(reach, end)
    return total


def main() -> None:
    """Run the screen and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", default="datasets/druglike")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard-size", type=int)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--model", default="default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    watches = {name: Stopwatch() for name in ("embed", "relax", "write", "model")}
    tasks.embed.embed_shard = watches["embed"].around(tasks.embed.embed_shard)
    tasks.relax.relax_shard = watches["relax"].around(tasks.relax.relax_shard)
    tasks.write.write_shard = watches["write"].around(tasks.write.write_shard)
    # On a GPU this is the time to launch, since calls return before the device is done.
    Potential.evaluate = watches["model"].around(Potential.evaluate)  # type: ignore[method-assign]

    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        flows.screen.screen(
            library=arguments.library,
            out=folder,
            limit=arguments.limit,
            shard_size=arguments.shard_size,
            device=arguments.device,
            model=arguments.model,
            overwrite=True,
        )
        wall = time.monotonic() - begin
        manifest = read_manifest(Path(folder))
    assert manifest is not None

    n = manifest.library["n_records"]
    bodies = [i for name in ("embed", "relax", "write") for i in watches[name].intervals]
    first, last = min(b for b, _ in bodies), max(e for _, e in bodies)
    pipeline, orchestration = last - first, (last - first) - covered(bodies)
    seconds = {
        "RDKit (core-seconds in the embedding processes)": manifest.timings_s["embed_cores"],
        "model (energies and forces)": watches["model"].wall_s,
        "relaxation besides the model": watches["relax"].wall_s - watches["model"].wall_s,
        "tables (judging, writing)": watches["write"].wall_s,
        "Prefect (no task body running)": orchestration,
    }
    total = sum(seconds.values())
    report = {
        "library": arguments.library,
        "n_records": n,
        "shard_size": manifest.parameters["shard_size"],
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "versions": manifest.versions,
        "python": platform.python_version(),
        "wall_s": wall,
        "start_and_end_s": wall - pipeline,
        "molecules_per_s": n / pipeline,
        "prefect_share": orchestration / pipeline,
        "stages": {
            name: {"seconds": s, "ms_per_molecule": 1000 * s / n, "share": s / total}
            for name, s in seconds.items()
        },
    }
    print(f"{n} records in shards of {report['shard_size']}: {wall:.1f} s in all,")
    print(f"{wall - pipeline:.1f} s to start and end, {n / pipeline:.2f} molecules/s between")
    print(f"{'stage':50s} {'molecules/s':>12s} {'ms/molecule':>12s} {'share':>7s}")
    for name, s in seconds.items():
        rate = f"{n / s:12.1f}" if s else " " * 12
        print(f"{name:50s} {rate} {1000 * s / n:12.2f} {s / total:7.1%}")
    print(f"Prefect's share of the pipeline's wall time: {orchestration / pipeline:.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
