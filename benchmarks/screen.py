"""How fast a screen is, end to end and stage by stage, and how busy card and cores are.

    python benchmarks/screen.py [LIBRARY] [--limit N] [--model NAME] [--embedder NAME] [--json FILE]
    python benchmarks/screen.py --render FILE                            the table of what was kept
    python benchmarks/screen.py LIBRARY --embedding [--conformers N]     to starting geometries only
    python benchmarks/screen.py ingest [--records N ...]                 reading; see ingest.py

The screen runs in this process, as `mlff-screen run` does without a Prefect server; kernels are
compiled before. Seconds of the stages come from the manifest. Twice a second the card and the cores
are asked how busy they are, and every process of the run how long it has computed. The steady state
lasts from the first shard that is finished to the last one. What is known so far is written after
each stage of a shard: a run that is cut off has measured something.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

if __name__ == "__main__" and sys.argv[1:2] == ["ingest"]:  # its processes must be small
    import ingest

    ingest.main(sys.argv[2:])
    raise SystemExit

import numpy as np
import psutil
import torch
from _harness import RESULTS, environment, render

from flows.call import ScreenCall
from flows.compute import AT_ONCE_WITH_CARD
from flows.engines import LocalEngine
from flows.plan import open_call
from flows.run import run_screen
from flows.settings import chemistry_of
from flows.watch import Watcher
from mlff_core.cores import usable_cores
from mlff_core.models.reference import refer_to_model
from mlff_core.shard import StepReport
from mlff_core.tables import read_manifest
from tasks import opened as live
from tasks.embed import embed
from tasks.ingest import ingest

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
        #: Time, share of the card, share of the cores, and core seconds of each of PARTS so far.
        self.samples: list[tuple[float, ...]] = []
        self._spent: dict[tuple[int, float], tuple[int, float]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        psutil.cpu_percent()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self.interval_s):
            busy = _card_busy(), psutil.cpu_percent() / 100.0
            self.samples.append((time.monotonic(), *busy, *self._core_seconds()))

    def _core_seconds(self) -> list[float]:
        """So far, of this process, of its children, and of theirs; those that ended included."""
        level = {os.getpid(): 0}
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            try:
                depth = 0 if process.pid == own.pid else level.get(process.ppid(), 1) + 1
                level[process.pid] = depth
                spent = process.cpu_times()
                key = process.pid, process.create_time()
                self._spent[key] = min(depth, len(PARTS) - 1), spent.user + spent.system
            except psutil.Error:  # it has ended meanwhile
                continue
        return [sum(s for d, s in self._spent.values() if d == k) for k in range(len(PARTS))]

    def write(self, file: Path, begun: float) -> None:
        """All samples as comma-separated values, seconds counted from `begun`."""
        lines = ["s,card_busy,host_busy," + ",".join(f"core_s of {part}" for part in PARTS)]
        lines += [
            f"{time - begun:.2f}," + ",".join(f"{value:.3f}" for value in rest)
            for time, *rest in self.samples
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def between(self, begin: float, end: float) -> dict[str, Any]:
        """Mean shares in an interval, and cores that each part kept busy."""
        inside = np.array([s for s in self.samples if begin <= s[0] <= end])
        if len(inside) < 2:
            return {}
        passed = inside[-1] - inside[0]
        return {
            "card_busy": float(inside[:, 1].mean()),
            # Of those that this run may use: others may be at work on the machine.
            "cores_busy": float(passed[3:].sum() / passed[0] / usable_cores()),
            "cores_by_part": dict(zip(PARTS, (passed[3:] / passed[0]).tolist(), strict=True)),
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
    compiled_s = live.compile_kernels(model.file, device, call.backend, call.precision)
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


def measure_embedding(
    call: ScreenCall,
    folder: Path,
    keep: Callable[[dict[str, Any]], None],
    samples: Path | None = None,
) -> None:
    """From SMILES to starting geometries, as many shards at a time as in a screen.

    The processes are started before, as a screen starts them before it loads its model.
    """
    device = "cuda" if torch.cuda.is_available() and call.device != "cpu" else "cpu"
    opened = open_call(call)
    read = ingest(opened.library, str(folder), opened.shard_size(device), call.limit)
    chemistry = chemistry_of(call, opened.model)
    about = {
        **environment(torch.device(device)),
        "library": Path(call.library).name,
        "model": "embedding alone",
        "conformers": call.conformers,
        "cores": usable_cores(),
        "compiled_s": live.compile_kernels(opened.model.file, device, "auto", "auto"),
    }
    processes = live.embedding_processes(str(folder), chemistry, call.workers, device)
    processes.begin()
    processes.wait_until_begun()
    embed_shards = partial(
        embed,
        work_dir=str(folder),
        chemistry=chemistry,
        workers=call.workers,
        embedder="card",
        device=device,
    )
    with Load() as load, ThreadPoolExecutor(AT_ONCE_WITH_CARD) as threads:
        clock = Clock(about, load, keep, last="embed")
        clock.begin(read.n_records, 0)
        under_way = {threads.submit(embed_shards, shard): shard for shard in range(read.n_shards)}
        for future in as_completed(under_way):
            clock.advance("embed", under_way[future], future.result())
    if samples is not None:
        load.write(samples, clock.begun)
    live.close(str(folder))


def table(content: dict[str, Any]) -> str:
    """The reports in Markdown."""
    return "\n\n".join(_one_table(report) for report in content["rows"])


def _one_table(report: dict[str, Any]) -> str:
    n, steady = report["finished"], report.get("steady", {})
    rows = [
        f"{n:,} records of {report['library']}, {report['model']}, "
        f"{report['conformers']} conformers each, {report['device']}, {report['cores']} cores; "
        f"commit {report['commit'][:7]}, {report['date']}",
        "",
        "| | |",
        "|---|---:|",
        f"| molecules/s from the first shard's begin to the last one's end "
        f"| {report['molecules_per_s']:,.0f} |",
    ]
    if report["conformers"] > 1:
        conformers = report["molecules_per_s"] * report["conformers"]
        rows += [f"| conformers/s, as many as were asked for | {conformers:,.0f} |"]
    if "steady_molecules_per_s" in report:
        rows += [f"| molecules/s in steady state | {report['steady_molecules_per_s']:,.0f} |"]
    if steady:
        rows += [
            f"| card busy in steady state | {steady['card_busy']:.0%} |",
            f"| cores busy in steady state | {steady['cores_busy']:.0%} |",
            *(f"| ... {part} | {n:.1f} |" for part, n in steady["cores_by_part"].items()),
        ]
    if "start_and_end_s" in report:
        rows += [f"| start and end, s | {report['start_and_end_s']:.1f} |"]
    rows += [
        f"| kernels compiled before, s | {report['compiled_s']:.1f} |",
        *(
            f"| {name}: seconds, ms a molecule | {s:.1f}, {1000 * s / max(n, 1):.2f} |"
            for name, s in report["stages_s"].items()
        ),
        *(f"| {status} | {count:,} |" for status, count in report["counts"].items()),
    ]
    return "\n".join(rows)


def keep_in(file: Path) -> Callable[[dict[str, Any]], None]:
    """Writes a report into a file of reports, in the place of an earlier one of the same kind."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []

    def kind(report: dict[str, Any]) -> tuple[object, ...]:
        return report["model"], report["conformers"], report["device"]

    def keep(report: dict[str, Any]) -> None:
        others = [row for row in rows if kind(row) != kind(report)]
        content = json.dumps({"rows": [*others, report]}, indent=1)
        file.write_text(content + "\n", encoding="utf-8")

    return keep


def main() -> None:
    """Run the screen and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", default="datasets/druglike")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard-size", type=int)
    parser.add_argument("--conformers", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--embedder", default="auto", choices=["auto", "rdkit", "card"])
    parser.add_argument("--model", default="default")
    parser.add_argument("--embedding", action="store_true", help="stop at starting geometries")
    parser.add_argument("--out", type=Path, help="keep the tables here")
    parser.add_argument("--samples", type=Path, help="write all samples of the load here")
    parser.add_argument("--json", type=Path, default=RESULTS / "screen.json")
    parser.add_argument("--render", type=Path, help="make the Markdown of such a file, and end")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, table)
        return
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "out"
        given = {
            name: getattr(arguments, name)
            for name in ("library", "limit", "shard_size", "conformers", "device", "embedder")
        }
        call = ScreenCall(**given, model=arguments.model, out=str(out), overwrite=True)
        if arguments.embedding:
            measure_embedding(call, Path(folder), keep_in(arguments.json), arguments.samples)
        else:
            measure(call, keep_in(arguments.json), arguments.samples)
            assert read_manifest(out) is not None
    render(arguments.json, table)


if __name__ == "__main__":
    main()
