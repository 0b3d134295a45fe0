"""How fast a screen is, end to end and stage by stage, and how busy card and cores are.

    python benchmarks/screen.py [LIBRARY] [--limit N] [--model NAME] [--embedder NAME] [--json FILE]
    python benchmarks/screen.py ingest [--records N ...]        reading alone; see ingest.py

The screen runs in this process, as `mlff-screen run` does without a Prefect server. Seconds of the
stages come from the manifest. Twice a second the card and the cores are asked how busy they are;
the steady state is the middle half of the time from the first shard's begin to the last one's end.
"""

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
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

from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.cores import usable_cores
from mlff_core.shard import StepReport
from mlff_core.tables import read_manifest


class Load:
    """How busy the card and the cores are while it is entered."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.interval_s = interval_s
        self.samples: list[tuple[float, float, float]] = []
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
            self.samples.append((time.monotonic(), _card_busy(), psutil.cpu_percent() / 100.0))

    def steady(self, begin: float, end: float) -> dict[str, float]:
        """Mean shares in the middle half of an interval."""
        quarter = (end - begin) / 4.0
        middle = [s[1:] for s in self.samples if begin + quarter <= s[0] <= end - quarter]
        card, cores = np.mean(middle, axis=0) if middle else (float("nan"), float("nan"))
        return {"card_busy": float(card), "cores_busy": float(cores)}


def _card_busy() -> float:
    """Share of the last moments in which a kernel ran; NaN without a card or its library."""
    if not torch.cuda.is_available():
        return float("nan")
    try:
        return torch.cuda.utilization() / 100.0
    except (ModuleNotFoundError, RuntimeError):
        return float("nan")


class Clock(Watcher):
    """When the shards began and ended; each stage of each is told as it ends."""

    def __init__(self) -> None:
        self.begun = self.ended = self.written = 0.0
        self.told: list[str] = []

    def tell(self, sentence: str) -> None:
        self.told.append(sentence)

    def begin(self, n_records: int, done: int) -> None:
        self.begun = time.monotonic()

    def advance(self, stage: str, shard: int, report: StepReport) -> None:
        self.ended = time.monotonic()
        seconds = ", ".join(f"{name} {s:.2f} s" for name, s in report.timings_s.items())
        print(f"{self.ended - self.begun:7.2f} s: {stage} {shard}: {seconds}", file=sys.stderr)


def measure(call: ScreenCall) -> dict[str, Any]:
    """Run a screen; returns what is printed."""
    clock = Clock()
    started = time.monotonic()
    with Load() as load:
        manifest = run_screen(call, LocalEngine(), clock)
    wall = time.monotonic() - started
    n, pipeline = manifest.library["n_records"], clock.ended - clock.begun
    stages = {name: s for name, s in manifest.timings_s.items() if name != "total"}
    return {
        "library": call.library,
        "n_records": n,
        "model": manifest.model["name"],
        "embedder": manifest.parameters["embedder"],
        "conformers": call.conformers,
        "shard_size": manifest.parameters["shard_size"],
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "host": platform.processor() or platform.machine(),
        "versions": manifest.versions,
        "wall_s": wall,
        "start_and_end_s": wall - pipeline,
        "molecules_per_s": n / pipeline,
        "molecules_per_s_all_in": n / wall,
        **load.steady(clock.begun, clock.ended),
        "counts": manifest.counts,
        "stages_s": stages,
    }


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    n = report["n_records"]
    rows = [
        f"{n:,} records, {report['model']}, embedder {report['embedder']}, {report['conformers']} "
        f"conformers each, shards of {report['shard_size']:,}; {report['device']}, "
        f"{report['cores']} cores",
        "",
        "| | |",
        "|---|---:|",
        f"| molecules/s between the first shard and the last | {report['molecules_per_s']:,.0f} |",
        f"| molecules/s, start and end included | {report['molecules_per_s_all_in']:,.0f} |",
        f"| start and end, s | {report['start_and_end_s']:.1f} |",
        f"| card busy in steady state | {report['card_busy']:.0%} |",
        f"| cores busy in steady state | {report['cores_busy']:.0%} |",
        *(
            f"| {name}: seconds, ms a molecule | {s:.1f}, {1000 * s / n:.2f} |"
            for name, s in report["stages_s"].items()
        ),
    ]
    return "\n".join(rows)


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
    parser.add_argument("--out", type=Path, help="keep the tables here")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "out"
        given = {
            name: getattr(arguments, name)
            for name in ("library", "limit", "shard_size", "conformers", "device", "embedder")
        }
        report = measure(ScreenCall(**given, model=arguments.model, out=str(out), overwrite=True))
        assert read_manifest(out) is not None
    print(table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
