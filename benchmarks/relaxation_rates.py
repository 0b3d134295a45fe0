"""Conformers relaxed a second by precision and fmax, with and without a first walk by the small
model, and how far above the minimum they are left.

    python benchmarks/relaxation_rates.py                    both shipped models, on a CUDA device
    python benchmarks/relaxation_rates.py --device cpu --conformers 64 --below 24 --out rates.json
    python benchmarks/relaxation_rates.py --render benchmarks/results/relaxation.json

Conformers as in relaxation.py, from host arrays to host arrays, in at most 300 steps; the median
of `--rounds` runs after one that compiles, and of some rows of `--many`. "First" is the fmax to
which the small model walks before the default one. "Changed" are those with bonds that the start
had not, or no longer. Then, for `--below` of them: how much energy is left, against where float32
comes to from there at 0.001 eV/Å, and how often that is the minimum which it finds alone. The
yardstick is float32 started 0.001 Å off: paths part at saddles by themselves.
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
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.elements import COVALENT_RADII
from mlff_core.models.potential import Potential, load_potential
from mlff_core.models.reference import SHORT_NAMES
from mlff_core.moves.ended import Keeps, Relaxed
from mlff_core.moves.pre_relax import keeps_bonds
from mlff_core.moves.relax import relax, relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.units import EV_KCAL_MOL

MAX_STEPS = 300
#: Precision, fmax of the first walk (None: there is none) and fmax, in eV/Å, of each row; what is
#: run by default first.
Row = tuple[str, float | None, float]
ROWS: tuple[Row, ...] = (
    ("auto", RelaxSettings.pre_fmax, 0.05),
    ("auto", None, 0.05),
    ("auto", 0.05, 0.05),
    ("auto", 0.03, 0.05),
    ("auto", None, 0.03),
    ("float32", None, 0.05),
    ("auto", None, 0.02),
    ("auto", 0.02, 0.02),
    ("auto", 0.02, 0.03),
    ("auto", None, 0.01),
    ("auto", 0.02, 0.01),
)
#: Rows that are timed with `--many` conformers too, about as many as a shard of a screen has.
N_MANY = 2
#: Of the covalent radii's sum, up to which a pair counts as bonded at the start.
BONDED = 1.2
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

    def left(
        self, potential: Potential, settings: RelaxSettings, first: Potential | None = None
    ) -> dict[str, float]:
        """What a relaxation leaves, kcal/mol, and how often the bottom below is the same."""
        charges = self.batch.charge.tolist()
        numbers = [z.numpy() for z in self.batch.split(self.batch.numbers.cpu())]
        starts = [x.numpy() for x in self.batch.split(self.batch.positions.cpu())]
        conformers = list(zip(numbers, starts, charges, strict=True))
        ends = relax_conformers(conformers, potential, settings, pre_relax=first)
        at = torch.from_numpy(np.concatenate([end.positions for end in ends]))
        return self.above(self.batch.with_positions(at.to(self.batch.positions)))

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


def bonds_of(numbers: np.ndarray, positions: np.ndarray) -> Topology:
    """The bonds of a start, by their lengths; no stereo."""
    radii = np.array([COVALENT_RADII[z] for z in numbers.tolist()])
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    near = np.triu(apart < BONDED * (radii[:, None] + radii), 1)
    none = np.zeros((0, 4), np.int64), np.zeros((0, 5), np.int64)
    return Topology(numbers, np.argwhere(near), *none)


class Run:
    """Relaxes as a row says, and looks whether the molecules are what they were.

    Attributes:
        changed: Share of the last conformers whose bonds were others at the end.
    """

    def __init__(self, potential: Potential, settings: RelaxSettings, first: Potential | None):
        self.potential, self.settings, self.first = potential, settings, first
        self.bonds: dict[int, Topology] = {}
        self.ends: list[Relaxed] = []

    def topologies(self, conformers: list[tuple[np.ndarray, np.ndarray, int]]) -> list[Topology]:
        """Bonds of each; the conformers are those of few molecules, again and again."""
        n_molecules = 256
        for k, (numbers, x, _) in enumerate(conformers[:n_molecules]):
            if k not in self.bonds:
                self.bonds[k] = bonds_of(numbers, x)
        return [self.bonds[k % n_molecules] for k in range(len(conformers))]

    def keeps(self, conformers: list[tuple[np.ndarray, np.ndarray, int]]) -> Keeps:
        """As in a screen."""
        none = np.zeros((0, 2), np.int64)
        return keeps_bonds(self.topologies(conformers), [none] * len(conformers))

    def __call__(self, conformers: list[tuple[np.ndarray, np.ndarray, int]]) -> list[Relaxed]:
        """Relax."""
        if self.first is None:
            self.ends = relax_conformers(conformers, self.potential, self.settings)
        else:
            self.ends = relax_conformers(
                conformers, self.potential, self.settings,
                pre_relax=self.first, keeps=self.keeps(conformers),
            )  # fmt: skip
        self.conformers = conformers
        return self.ends

    @property
    def changed(self) -> float:
        positions = [end.positions for end in self.ends]
        found = rearrangements(positions, self.topologies(self.conformers))
        return float(np.mean([change is not None for change in found]))


def timing(run: Run, n: int, rounds: int, size: int) -> dict[str, Any]:
    """How fast so many are relaxed, and how many are changed by it."""
    found = measure("", run, run.potential, n, rounds, min(size, n))
    kept = {k: v for k, v in found.items() if k not in ("name", "status")}
    return kept | {"changed": run.changed}


def rows_of(
    name: str,
    device: str,
    n: int,
    n_below: int,
    rounds: int,
    rows: tuple[Row, ...],
    n_many: int,
    results: Results,
    clock: Clock,
) -> None:
    """The rows of a model."""
    how = [(name, "auto"), (name, "float32"), ("small", "auto")]
    potentials = {key: load_potential(key[0], device=device, precision=key[1]) for key in how}
    auto = potentials[name, "auto"]
    size = batch_sizes("auto", auto.device, auto.bytes_per_edge)["large"]
    below: Below | None = None
    chosen = [row for row in dict.fromkeys(rows) if row[1] is None or name != "small"]
    for timed in (True, False):
        if not timed and clock.left():
            below = Below(potentials[name, "float32"], n_below)
            row = {"model": name, "row": "float32, 0.001 Å off", "same_bottom": below.yardstick}
            results.add(row)
        for precision, pre_fmax, fmax in chosen:
            potential = potentials[name, precision]
            first = None if pre_fmax is None else potentials["small", "auto"]
            settings = RelaxSettings(
                fmax=fmax, max_steps=MAX_STEPS, pre_fmax=pre_fmax or RelaxSettings.pre_fmax
            )
            row = {"model": name, "row": precision, "first": pre_fmax, "fmax": fmax}
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                if timed:
                    row |= timing(Run(potential, settings, first), n, rounds, size)
                    if n_many and chosen.index((precision, pre_fmax, fmax)) < N_MANY:
                        many = timing(Run(potential, settings, first), n_many, 1, size)
                        results.add(row | {"row": f"{precision}, {n_many:,} conformers"} | many)
                elif below is not None:
                    row |= below.left(potential, settings, first)
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
            "| precision | first | fmax, eV/Å | conformers/s | µs/atom/step | "
            "steps, median and 90 % | converged | changed | busy | left, kcal/mol: median | mean | "
            "90 % | same minimum |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        merged: dict[tuple[str, float | None, float | None], dict[str, Any]] = {}
        for r in found:
            merged.setdefault((r["row"], r.get("first"), r.get("fmax")), {}).update(r)
        for (row, first, fmax), r in merged.items():
            cells = [row, *("" if f is None else f"{f:g}" for f in (first, fmax))]
            if "conformers_per_s" in r:
                cells += [
                    f"{r['conformers_per_s']:.0f}",
                    f"{r['us_per_atom_step']:.3f}",
                    f"{r['steps_median']:.0f}, {r['steps_90']:.0f}",
                    f"{r['converged']:.1%}",
                    f"{r['changed']:.2%}",
                    "" if r["busy"] is None else f"{r['busy']:.0%}",
                ]
            else:
                cells += [r.get("failed", ""), "", "", "", "", ""]
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
    parser.add_argument("--many", type=int, default=8192, help="0: no such rows")
    parser.add_argument("--below", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2, help="timed repetitions of a row")
    parser.add_argument("--minutes", type=float, default=5.0, help="no row begins later")
    parser.add_argument("--rows", type=int, help="only so many, in the order of the script")
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
            ROWS[: arguments.rows], arguments.many, results, clock,
        )  # fmt: skip
    results.finish(markdown)


if __name__ == "__main__":
    main()
