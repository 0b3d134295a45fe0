"""Energies and forces of 40-atom drug-like molecules: every way to compute them, side by side.

    python benchmarks/engine                        both shipped models, on a CUDA device; 3 minutes
    python benchmarks/engine --rivals               other people's ways as well; 10 minutes
    python benchmarks/engine --device cpu --minutes 1 --out engine_cpu.json
    python benchmarks/engine --render benchmarks/results/engine.json

Every timed call includes the neighbour search and gets coordinates that it has not seen. Each row
is compared with float64 before it is timed; one that is wrong, or that cannot run here, or for
which no time was left, says so instead. Times are medians of CUDA events, spreads the distance from
the first to the third quartile. The Markdown and the plot beside the JSON are made from it.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kernels
import operators
import rivals
import torch
import ways
from _harness import RESULTS, Clock, Molecules, Results, environment, render
from report import markdown, plot

from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import SHORT_NAMES, find_model


def load(name: str, device: torch.device) -> PaiNN:
    """A model with its own weights."""
    return read_checkpoint(find_model(name))[0].to(device).requires_grad_(False)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json")
    parser.add_argument("--models", default=",".join(SHORT_NAMES))
    parser.add_argument("--only", default="", help="rows whose name holds one of these words")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, help="no row begins later")
    parser.add_argument("--rivals", action="store_true", help="other people's ways as well")
    parser.add_argument("--teacher", type=Path, help="the teacher's .jpt file")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only tables and plot of it")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, markdown)
        result = json.loads(arguments.render.read_text(encoding="utf-8"))
        plot(result, arguments.render.with_suffix(".png"))
        return
    words = [w for w in arguments.only.split(",") if w]

    def wanted(name: str) -> bool:
        return not words or any(word in name for word in words)

    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(arguments.device)
    molecules = Molecules(device)
    models = {name: load(name, device) for name in arguments.models.split(",")}
    clock = Clock(arguments.minutes or (10.0 if arguments.rivals else 2.8))
    results = Results(
        arguments.out,
        {
            "environment": environment(device),
            "models": {
                name: f"{m.config.n_features} features, {m.config.n_interactions} blocks"
                for name, m in models.items()
            },
            "ceilings": operators.ceilings(device),
        },
    )

    def chosen(all_ways: dict[str, ways.Way]) -> dict[str, ways.Way]:
        return {name: way for name, way in all_ways.items() if wanted(name)}

    # Ours first, of every model.
    ours = chosen(ways.WAYS[arguments.device])
    quick = {name: way for name, way in ours.items() if name.startswith(("triton", "numba"))}
    slow = {name: way for name, way in ours.items() if name not in quick}
    stages: list[Callable[[PaiNN], Iterator[dict]]] = [
        lambda model: ways.rows(model, molecules, quick, clock)
    ]
    if wanted("operator"):
        stages.append(lambda model: operators.rows(model, molecules, clock))
    if wanted("kernel") and arguments.device == "cuda":
        stages.append(lambda model: kernels.rows(model, molecules, clock))
    if wanted("stream") and arguments.device == "cuda":
        stages.append(lambda model: iter([ways.stream_row(model, molecules)]))
    stages.append(lambda model: ways.rows(model, molecules, slow, clock))
    if arguments.rivals:
        stages.append(lambda model: ways.rows(model, molecules, chosen(rivals.RIVALS), clock))
    for stage in stages:
        for name, model in models.items():
            for row in stage(model):
                results.add({"model": name, **row})
    if arguments.rivals:
        first = next(iter(models.values()))
        for rows in (
            functools.partial(rivals.neighbour_rows, first, molecules, clock),
            functools.partial(rivals.foreign_rows, molecules, arguments.teacher, clock),
        ):
            for row in rows():
                results.add(row)
    results.finish(markdown)
    plot(results.content, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
