"""How much faster several cards of a host are than one.

    python benchmarks/cards.py LIBRARY [--cards 1 2] [--limit N] [--model NAME] [--cores N]
    python benchmarks/cards.py LIBRARY --device cpu --cards 1 2 --cores 1     lanes without cards

The same library goes through `--engine ray` on so many cards, each with as many cores of its own.
Each run is a process of its own that sees no other card and no other core; kernels are compiled
before. The steady state lasts from when every card has finished a shard until the last shard is
finished. What is known so far is written after each number of cards.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _harness import RESULTS, Results, environment

from flows.call import ScreenCall
from flows.ray_engine import RayEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.models.reference import refer_to_model
from mlff_core.shard import StepReport
from tasks import opened as live


class Clock(Watcher):
    """When each shard was finished, in seconds since the lanes were asked to compute."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        #: Time and records of each shard.
        self.finished: list[tuple[float, int]] = []

    def tell(self, sentence: str) -> None:
        print(f"{time.monotonic() - self.begun:7.1f} s: {sentence}", file=sys.stderr, flush=True)

    def advance(self, stage: str, shard: int, report: StepReport) -> None:
        now = time.monotonic() - self.begun
        told = ", ".join(f"{name} {s:.2f} s" for name, s in report.timings_s.items())
        print(f"{now:7.1f} s: {stage} {shard}: {told}", file=sys.stderr, flush=True)
        if stage == "write":
            self.finished.append((now, report.n_records))

    def report(self, lanes: int) -> dict[str, Any]:
        """Rates: from the call to the last shard, and once every lane has finished one."""
        n, last = sum(records for _, records in self.finished), self.finished[-1][0]
        began, before = self.finished[lanes - 1][0], sum(k for _, k in self.finished[:lanes])
        return {
            "cards": lanes,
            "records": n,
            "shards": len(self.finished),
            "seconds": last,
            "molecules_per_s": n / last,
            "first_shard_s": self.finished[0][0],
            "steady_molecules_per_s": (n - before) / (last - began),
        }


def measure(call: ScreenCall, cards: int, cores: int) -> dict[str, Any]:
    """Run a screen on the first cards and cores of this host."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < cards * cores:
        raise SystemExit(f"{cards} cards of {cores} cores each: there are {len(usable)} cores")
    os.sched_setaffinity(0, usable[: cards * cores])
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(cards)))
    clock = Clock()
    engine = RayEngine(None, cores)
    manifest = run_screen(call, engine, clock)
    if engine.lanes != cards:
        raise SystemExit(f"asked for {cards} lanes, got {engine.lanes}")
    about = {"shard_size": manifest.parameters["shard_size"], "status": manifest.counts["status"]}
    return clock.report(cards) | about


def table(content: dict[str, Any]) -> str:
    """The rates in Markdown."""
    rows = content["rows"]
    one = rows[0]
    lines = [
        f"{one['records']:,} records of {content['library']} in shards of {one['shard_size']:,}, "
        f"{content['model']}, {content['device']}, {content['cores']} cores a card, engine ray; "
        f"commit {content['commit'][:7]}, {content['date']}",
        "",
        "| cards | s | molecules/s, whole | × | first shard after, s | molecules/s, steady | × |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        whole, steady = (
            row[name] / one[name] * one["cards"]
            for name in ("molecules_per_s", "steady_molecules_per_s")
        )
        lines.append(
            f"| {row['cards']} | {row['seconds']:.1f} | {row['molecules_per_s']:,.0f} "
            f"| {whole:.2f} | {row['first_shard_s']:.1f} "
            f"| {row['steady_molecules_per_s']:,.0f} | {steady:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the library on each number of cards and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", default="datasets/druglike")
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cores", type=int, default=16, help="of a card")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard-size", type=int)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="small")
    parser.add_argument("--json", type=Path, default=RESULTS / "cards.json")
    parser.add_argument("--one", action="store_true", help="measure in this process, print JSON")
    arguments = parser.parse_args()
    names = ("library", "limit", "shard_size", "device", "model")
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            call = ScreenCall(
                **{name: getattr(arguments, name) for name in names},
                out=str(Path(folder) / "out"),
                engine="ray",
                workers=arguments.cores,
            )
            print(json.dumps(measure(call, arguments.cards[0], arguments.cores)))
        return
    model = refer_to_model(arguments.model)
    compiled_s = live.compile_kernels([model.file], arguments.device, "auto", "auto")
    about: dict[str, Any] = {
        **environment(torch.device(arguments.device)),
        "library": Path(arguments.library).name,
        "model": model.name,
        "cores": arguments.cores,
        "compiled_s": compiled_s,
    }
    results = Results(arguments.json, about)
    given = [
        word
        for name in names
        if (value := getattr(arguments, name)) is not None and name != "library"
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    for cards in arguments.cards:
        command = [sys.executable, __file__, arguments.library, *given, "--one"]
        command += ["--cards", str(cards), "--cores", str(arguments.cores)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.add(json.loads(ended.stdout.splitlines()[-1]))
    results.finish(table)


if __name__ == "__main__":
    main()
