"""Conformers relaxed a second by precision and fmax, and how far above the minimum they are left.

    python benchmarks/relaxation_rates.py                    both shipped models, on a CUDA device
    python benchmarks/relaxation_rates.py --device cpu --conformers 64 --below 24 --out rates.json
    python benchmarks/relaxation_rates.py --render benchmarks/results/relaxation.json

Conformers as in relaxation.py, from host arrays to host arrays, in at most 300 steps; the median
of `--rounds` runs after one that compiles. Then, for `--below` of them: how much energy is left,
against where float32 comes to from there at 0.001 eV/Å, and how often that is the minimum which it
finds alone. The yardstick is float32 started 0.001 Å off: paths part at saddles by themselves.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _harness import RESULTS, Clock, Results, environment, in_words, reason, render
from relaxation import load_conformers, measure

from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.models.potential import Potential, load_potential
from mlff_core.models.reference import SHORT_NAMES
from mlff_core.moves.relax import relax, relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.units import EV_KCAL_MOL

MAX_STEPS = 300
#: Precision and fmax in eV/Å of each row; what is run by default first.
ROWS = (
    ("auto", 0.05),
    ("float32", 0.05),
    ("auto", 0.03),
    ("auto", 0.04),
    ("auto", 0.02),
    ("auto", 0.01),
)
#: Where the bottom is, eV/Å, and in how many steps at most.
BOTTOM, BOTTOM_STEPS = 0.001, 500
#: Two bottoms nearer than this are one.
SAME_ANGSTROM, SAME_KCAL_MOL = 0.1, 0.05


class Below:
    """A few molecules, and the bottoms that float32 comes to from their starts."""

    def __init__(self, potential: Potential, n: int):
        self.potential, self.batch = potential, MolBatch.from_arrays(load_conformers(n, seed=7))
        self.energy, self.at = self.bottom_of(self.batch)
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=(self.batch.n_atoms, 3)))
        x = self.batch.positions + 0.001 * noise.to(self.batch.positions)
        self.yardstick = self.same(self.batch.with_positions(x))[0]

    def bottom_of(self, batch: MolBatch) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies in eV and positions at the bottom."""
        end = relax(batch, self.potential, fmax=BOTTOM, max_steps=BOTTOM_STEPS)
        positions = end.batch.split(end.batch.positions.double().cpu())
        return end.energy.cpu().numpy(), [x.numpy() for x in positions]

    def same(self, batch: MolBatch) -> tuple[float, np.ndarray]:
        """Share that comes to the same bottoms from here, and the energies there in eV."""
        energy, at = self.bottom_of(batch)
        apart = np.abs(energy - self.energy) * EV_KCAL_MOL
        same = (aligned_rmsd(at, self.at) < SAME_ANGSTROM) & (apart < SAME_KCAL_MOL)
        return float(same.mean()), energy

    def left(self, potential: Potential, fmax: float) -> dict[str, float]:
        """What a relaxation leaves, kcal/mol, and how often the bottom below is the same."""
        ours = relax(self.batch, potential, fmax=fmax, max_steps=MAX_STEPS)
        return self.above(ours.batch)

    def above(self, batch: MolBatch) -> dict[str, float]:
        """How far these are above the bottoms next to them, and how often those are the same."""
        same, bottom = self.same(batch.to("cpu"))
        above = (self.potential(batch).energy.cpu().numpy() - bottom) * EV_KCAL_MOL
        return {
            "left_median": float(np.median(above)),
            "left_mean": float(np.mean(above)),
            "left_90": float(np.quantile(above, 0.9)),
            "same_bottom": same,
        }


def rows_of(
    name: str, device: str, n: int, n_below: int, rounds: int, results: Results, clock: Clock
) -> None:
    """The rows of a model."""
    potentials = {p: load_potential(name, device=device, precision=p) for p in ("auto", "float32")}
    auto = potentials["auto"]
    size = batch_sizes("auto", auto.device, auto.bytes_per_edge)["large"]
    below: Below | None = None
    for timed in (True, False):
        if not timed and clock.left():
            below = Below(potentials["float32"], n_below)
            row = {"model": name, "row": "float32, 0.001 Å off", "same_bottom": below.yardstick}
            results.add(row)
        for precision, fmax in ROWS:
            potential = potentials[precision]
            settings = RelaxSettings(fmax=fmax, max_steps=MAX_STEPS)
            row = {"model": name, "row": precision, "fmax": fmax}
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                if timed:
                    found = measure(
                        precision,
                        lambda some, p=potential, s=settings: relax_conformers(some, p, s),
                        potential, n, rounds, min(size, n),
                    )  # fmt: skip
                    row |= {k: v for k, v in found.items() if k not in ("name", "status")}
                elif below is not None:
                    row |= below.left(potential, fmax)
            except Exception as error:  # a row that cannot run is a result too
                row["failed"] = reason(error)
            results.add(row)


def markdown(result: dict[str, Any]) -> str:
    """A table for each model."""
    about = in_words(result["environment"])
    lines = [
        "Made by `python benchmarks/relaxation_rates.py` from the JSON beside it.",
        "",
        f"{about}; {result['conformers']} conformers.",
    ]
    for name in result["models"]:
        found = [r for r in result["rows"] if r["model"] == name]
        if not found:
            continue
        lines += [
            "",
            f"## {name}",
            "",
            "| precision | fmax, eV/Å | conformers/s | µs/atom/step | steps, median and 90 % | "
            "converged | busy | left, kcal/mol: median | mean | 90 % | same minimum |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        merged: dict[tuple[str, float | None], dict[str, Any]] = {}
        for r in found:
            merged.setdefault((r["row"], r.get("fmax")), {}).update(r)
        for (row, fmax), r in merged.items():
            cells = [row, "" if fmax is None else f"{fmax:g}"]
            if "conformers_per_s" in r:
                cells += [
                    f"{r['conformers_per_s']:.0f}",
                    f"{r['us_per_atom_step']:.3f}",
                    f"{r['steps_median']:.0f}, {r['steps_90']:.0f}",
                    f"{r['converged']:.1%}",
                    "" if r["busy"] is None else f"{r['busy']:.0%}",
                ]
            else:
                cells += [r.get("failed", ""), "", "", "", ""]
            left = [
                f"{r[k]:.3f}" if k in r else "" for k in ("left_median", "left_mean", "left_90")
            ]
            same = f"{r['same_bottom']:.1%}" if "same_bottom" in r else ""
            lines.append("| " + " | ".join([*cells, *left, same]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "relaxation.json")
    parser.add_argument("--models", default=",".join(SHORT_NAMES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--conformers", type=int, default=2048)
    parser.add_argument("--below", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2, help="timed repetitions of a row")
    parser.add_argument("--minutes", type=float, default=5.0, help="no row begins later")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only the tables of it")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, markdown)
        return
    names, clock = arguments.models.split(","), Clock(arguments.minutes)
    about = {
        "environment": environment(torch.device(arguments.device)),
        "models": names,
        "conformers": arguments.conformers,
    }
    results = Results(arguments.out, about)
    for name in names:
        rows_of(
            name, arguments.device, arguments.conformers, arguments.below, arguments.rounds,
            results, clock,
        )  # fmt: skip
    results.finish(markdown)


if __name__ == "__main__":
    main()
