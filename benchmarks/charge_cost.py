"""What partial charges cost a force call: both shipped models with and without, in turns.

    python benchmarks/charge_cost.py [--device cuda] [--batches 1 16 1024] [--models small default]

Charges are grown onto the shipped weights, less what these have of them: read after the last block,
which changes no energy; or read after the second, fed back, and with their Coulomb energy. Every
pair of calls gets the same new coordinates; a row has the medians and the median of the ratios. A
GPU is timed by its own events, a CPU by the time that the process spent, since what else runs
beside changes the other. Writes benchmarks/results/charge_cost.json and .md; rows of another device
that are there stay.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _harness import RESULTS, WARM_UP, Molecules, Results, environment, fresh, render

from mlff_core.batch import MolBatch
from mlff_core.distill.growth import grown
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.potential import Potential, choose_device
from mlff_core.models.reference import find_model
from mlff_core.testing import without_charges

#: What charges do.
KINDS: dict[str, dict[str, Any]] = {
    "read": {"charges_after": 3},
    "fed back, Coulomb": {"charges_after": 2, "charge_feedback": True, "coulomb": True},
}
#: The most that charges may cost, in units of a call without.
MUST = 1.15


def pair(model: str, kind: str, device: torch.device) -> tuple[Potential, Potential]:
    """A shipped model without charges, and with."""
    shipped = without_charges(read_checkpoint(find_model(model))[0])
    with_charges = grown(shipped, replace(shipped.config, **KINDS[kind]))
    return Potential(shipped, device=device), Potential(with_charges, device=device)


def cost(potential: Potential, batch: MolBatch, device: torch.device) -> float:
    """One call in µs."""
    if device.type != "cuda":
        began = time.process_time()
        potential.evaluate(batch)
        return (time.process_time() - began) * 1e6
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    potential.evaluate(batch)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e3


def row(
    model: str, kind: str, batch: MolBatch, device: torch.device, rounds: int
) -> dict[str, Any]:
    """Both ways, in turns."""
    without, having = pair(model, kind, device)
    inputs = fresh(batch)
    times: dict[str, list[float]] = {"without": [], "with": []}
    for k in range(WARM_UP + rounds):
        moved = batch.with_positions(next(inputs))
        for name, potential in (("without", without), ("with", having)):
            took = cost(potential, moved, device)
            if k >= WARM_UP:
                times[name].append(took)
    ratios = [b / a for a, b in zip(times["without"], times["with"], strict=True)]
    return {
        "device_type": device.type,
        "model": model,
        "charges": kind,
        "molecules": batch.n_mols,
        "without_us": statistics.median(times["without"]) / batch.n_mols,
        "with_us": statistics.median(times["with"]) / batch.n_mols,
        "ratio": statistics.median(ratios),
        "rounds": rounds,
    }


def markdown(content: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| device | model | charges | molecules | without, µs each | with | ratio (must 1.15) |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in content["rows"]:
        where = (
            "one " + r["device"].removeprefix("NVIDIA ") if r["device_type"] == "cuda" else "CPU"
        )
        lines.append(
            f"| {where} | {r['model']} | {r['charges']} | {r['molecules']:,} "
            f"| {r['without_us']:,.1f} | {r['with_us']:,.1f} | {r['ratio']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="*", default=["small", "default"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16, 1024])
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "charge_cost.json")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    about = environment(device)
    results = Results(arguments.out, {"must": MUST})
    if arguments.out.exists():
        old = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
        results.content["rows"] = [r for r in old if r["device_type"] != device.type]
    molecules = Molecules(device)
    for model in arguments.models:
        for kind in arguments.kinds:
            for n in arguments.batches:
                batch = molecules.batch(n)
                results.add(row(model, kind, batch, device, arguments.rounds) | about)
    render(arguments.out, markdown)


if __name__ == "__main__":
    main()
