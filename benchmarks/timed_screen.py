"""A screen that is timed: when its stages end, and how busy card and cores are meanwhile.

Not in screen.py: Prefect keeps the file of a deployed flow under its bare name, and flows/screen.py
has the same.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from _harness import environment

from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.settings import pre_model_of
from flows.watch import Watcher
from mlff_core.cores import usable_cores
from mlff_core.models.reference import refer_to_model
from mlff_core.shard import StepReport
from tasks import opened as live

#: Who computes, by how many processes are between it and this one.
PARTS = (
    "this process, which relaxes",
    "processes that embed or write, RDKit's last resort",
    "cores that prepare",
)


class Load:
    """How busy the card and the cores are while it is entered, and which processes compute."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.interval_s = interval_s
        #: Time, share of the card, share of the cores; when the processes were looked at last, and
        #: core seconds of each of PARTS until then.
        self.samples: list[tuple[float, ...]] = []
        self._spent: tuple[float, ...] = (time.monotonic(), *(0.0 for _ in PARTS))
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._watch, self._listen)
        ]

    def __enter__(self) -> Self:
        psutil.cpu_percent()
        self._walk = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("core_seconds.py")), str(os.getpid())],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._walk.kill()
        self._walk.wait()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        assert self._walk.stdout is not None
        for line in self._walk.stdout:
            self._spent = tuple(map(float, line.split()))

    def _watch(self) -> None:
        while not self._end.wait(self.interval_s):
            busy = _card_busy(), psutil.cpu_percent() / 100.0
            self.samples.append((time.monotonic(), *busy, *self._spent))

    def write(self, file: Path, begun: float) -> None:
        """All samples as comma-separated values, seconds counted from `begun`."""
        lines = ["s,card_busy,host_busy," + ",".join(f"core_s of {part}" for part in PARTS)]
        lines += [
            ",".join(f"{value:.3f}" for value in (now - begun, *busy, *spent))
            for now, *busy, _, spent in ((*sample[:4], sample[4:]) for sample in self.samples)
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def between(self, begin: float, end: float) -> dict[str, Any]:
        """Mean shares in an interval, and cores that each part kept busy."""
        inside = np.array([s for s in self.samples if begin <= s[0] <= end])
        if len(inside) < 2:
            return {}
        seconds, *spent = inside[-1, 3:] - inside[0, 3:]
        if not seconds:
            return {}
        cores = [own / seconds for own in spent]
        return {
            "card_busy": float(inside[:, 1].mean()),
            # Of those that this run may use: others may be at work on the machine.
            "cores_busy": float(sum(cores) / usable_cores()),
            "cores_by_part": dict(zip(PARTS, map(float, cores), strict=True)),
        }


def _card_busy() -> float:
    """Share of the last moments in which a kernel ran; NaN without a card or its library."""
    if not torch.cuda.is_available():
        return float("nan")
    try:
        return torch.cuda.utilization() / 100.0
    except (ModuleNotFoundError, RuntimeError):
        return float("nan")


class Clock(Watcher):
    """When each stage of each shard ended; what that comes to is told after every one."""

    def __init__(
        self,
        about: dict[str, Any],
        load: Load,
        keep: Callable[[dict[str, Any]], None],
        last: str = "write",
    ) -> None:
        self.about, self.load, self.keep, self.last = about, load, keep, last
        self.begun = self.ended = 0.0
        self.stages: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        #: Time and records of each shard that is finished.
        self.finished: list[tuple[float, int]] = []
        #: Seconds after the begin, stage and shard, as they ended.
        self.stages_ended: list[tuple[float, str, int]] = []

    def begin(self, n_records: int, done: int) -> None:
        self.begun = time.monotonic()

    def advance(self, stage: str, shard: int, report: StepReport) -> None:
        self.ended = time.monotonic()
        self.stages_ended.append((round(self.ended - self.begun, 2), stage, shard))
        for name, seconds in report.timings_s.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        for status, n in report.counts.items():
            self.counts[status] = self.counts.get(status, 0) + n
        if stage == self.last:
            self.finished.append((self.ended, report.n_records))
        told = ", ".join(f"{name} {s:.2f} s" for name, s in report.timings_s.items())
        print(f"{self.ended - self.begun:7.2f} s: {stage} {shard}: {told}", file=sys.stderr)
        self.keep(self.report())

    def report(self) -> dict[str, Any]:
        """What is known so far."""
        n = sum(records for _, records in self.finished)
        passed = self.ended - self.begun
        found = {
            **self.about,
            "finished": n,
            "pipeline_s": passed,
            "molecules_per_s": n / passed,
            "stages_s": self.stages,
            "stages_ended": self.stages_ended,
            "counts": self.counts,
        }
        if len(self.finished) > 1:
            first, last = self.finished[0], self.finished[-1]
            found["steady_molecules_per_s"] = (n - first[1]) / (last[0] - first[0])
            found["steady"] = self.load.between(first[0], last[0])
        return found


def measure(
    call: ScreenCall, keep: Callable[[dict[str, Any]], None], samples: Path | None = None
) -> dict[str, Any]:
    """Run a screen; what is known is handed to `keep` as it comes, and returned in the end."""
    device = "cuda" if torch.cuda.is_available() and call.device != "cpu" else "cpu"
    model = refer_to_model(call.model)
    first = pre_model_of(call, model)
    files = [one.file for one in (model, first) if one is not None]
    compiled_s = live.compile_kernels(files, device, call.backend, call.precision)
    about = {
        **environment(torch.device(device)),
        "library": Path(call.library).name,
        "model": model.name,
        "conformers": call.conformers,
        "cores": usable_cores(),
        "compiled_s": compiled_s,
    }
    started = time.monotonic()
    with Load() as load:
        clock = Clock(about, load, keep)
        manifest = run_screen(call, LocalEngine(), clock)
    if samples is not None:
        load.write(samples, clock.begun)
    report = clock.report() | {
        "start_and_end_s": time.monotonic() - started - (clock.ended - clock.begun),
        "embedder": manifest.parameters["embedder"],
        "shard_size": manifest.parameters["shard_size"],
        "n_records": manifest.library["n_records"],
    }
    keep(report)
    return report
