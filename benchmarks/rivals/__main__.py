"""Ways to relaxed conformers that are not ours beside ours: one process, one card, one set.

    python benchmarks/rivals --teacher FILE [--ways NAME;NAME] [--most N]
    python benchmarks/rivals --render benchmarks/results/rivals.json

The molecules are those of conformers.npz, which the student never saw: of each, conformers by
ETKDGv3 as RDKit embeds them, again and again, each time turned and displaced by 0.02 Å. Every way
relaxes as many of them as suit it to fmax 0.05 eV/Å (MMFF94: to its programs' own end), from host
arrays to host arrays, after a short run that is not counted. One whose time is over is judged by
those that have ended, and the table says so.

The error is that of conformers' energies among one molecule, against the teacher's mean of four,
at the same minima (`mae` of accuracy/ranking.py; MMFF94's at its own minima next to them). What
cannot run is a row with its reason.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# relaxation.py, whose rows of others are used, imports what lies beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks._harness import RESULTS, Results, environment, reason, render
from benchmarks.rivals.bench import Bench, Start, Way, starts_of
from benchmarks.rivals.models import (
    ase_one_by_one,
    differentiated,
    ours,
    teacher,
    torch_sim,
)
from benchmarks.rivals.programs import gfn2_of, mmff_of, nvmolkit, on_cores, xtbloom
from benchmarks.rivals.report import markdown, plot
from mlff_core.cores import usable_cores
from mlff_core.models.reference import find_model

#: In the order in which they are run, so that a run cut short has the most telling.
WAYS: dict[str, Way] = {
    "default model, auto": Way(ours("default", "auto"), 4096, 20.0),
    "small model, auto": Way(ours("small", "auto"), 4096, 20.0),
    "MMFF94, RDKit, all cores": Way(on_cores(mmff_of, "rdkit", "mmff94_relaxed"), 2048, 12.0),
    "default model, eager PyTorch": Way(differentiated(False), 1024, 15.0),
    "AIMNet2, one member, TorchScript": Way(teacher(1, scripted=True), 2048, 20.0),
    "AIMNet2, mean of four, TorchScript": Way(teacher(4, scripted=True), 1024, 25.0),
    "GFN2-xTB, tblite, all cores": Way(on_cores(gfn2_of, "tblite", "gfn2"), 128, 30.0),
    "default model, float32": Way(ours("default", "float32"), 4096, 20.0),
    "default model, torch-sim's FIRE": Way(torch_sim, 512, 15.0),
    "default model, ASE LBFGS one by one": Way(ase_one_by_one, 64, 6.0),
    "AIMNet2, mean of four, batched networks": Way(teacher(4, scripted=False), 1024, 20.0),
    "MMFF94, nvMolKit": Way(nvmolkit, 4096, 20.0),
    "GFN2-xTB, xTBloom, card": Way(xtbloom("cuda"), 64, 20.0),
    "GFN2-xTB, xTBloom, all cores": Way(xtbloom("cpu"), 64, 20.0),
    "default model, torch.compile": Way(differentiated(True), 1024, 15.0),
}
#: Seconds for what a way does before and after, and for what cannot be cut short.
BESIDE = 60.0


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """A TimeoutError in what takes longer."""

    def end(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def rows(
    starts: list[Start], names: list[str], device: torch.device, file: Path | None
) -> Iterator[dict[str, Any]]:
    """Every way, or why not."""
    for name in names:
        way = WAYS[name]
        bench = Bench(starts[: way.n], way.seconds, device, file)
        record: dict[str, Any] = {"row": name, "commit": environment(device)["commit"][:7]}
        try:
            if device.type == "cuda":
                torch.cuda.empty_cache()
            with at_most(way.seconds + BESIDE):
                found = way.run(bench)
            record |= found._asdict() | {"conformers_per_s": found.n / found.seconds}
        except ModuleNotFoundError as error:
            record["failed"] = f"not installed here: {error.name}"
        except Exception as error:  # a way that cannot run is a result too
            record["failed"] = reason(error)
        yield record


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "rivals.json")
    parser.add_argument("--teacher", type=Path, help="aimnet2_wb97m_ens_f.jpt")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--most", type=int, default=4096, help="conformers of any way")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by semicolons")
    parser.add_argument("--add", action="store_true", help="to what the file has of other ways")
    parser.add_argument("--plot", type=Path, help="where to; beside the JSON if not said")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only table and plot of it")
    arguments = parser.parse_args()
    names = arguments.ways.split(";")
    if arguments.render is None:
        device = torch.device(arguments.device)
        if device.type == "cuda":
            # As a screen does: one process alone takes longer than any way may.
            from mlff_core.kernels import compile_kernels

            compile_kernels(*map(find_model, ("default", "small")))
        starts = starts_of(arguments.most, usable_cores())
        # Tables name the card and say how many cores others had.
        result = Results(
            arguments.out,
            {
                "environment": environment(device),
                "cores": usable_cores(),
                "molecules": len({start.smiles for start in starts}),
                "mean_atoms": float(np.mean([len(start.numbers) for start in starts])),
            },
        )
        if arguments.add:
            result.content["rows"] = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
        for row in rows(starts, names, device, arguments.teacher):
            kept = [other for other in result.content["rows"] if other["row"] != row["row"]]
            result.content["rows"] = kept
            result.add(row)
    file = arguments.render or arguments.out
    render(file, markdown)
    plot(json.loads(file.read_text(encoding="utf-8")), arguments.plot or file.with_suffix(".png"))


if __name__ == "__main__":
    main()
