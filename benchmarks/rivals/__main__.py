"""Ways to relaxed conformers that are not ours beside ours: one process, one card, one set.

    python benchmarks/rivals --teacher FILE [--minutes 4] [--conformers 2048] [--few 64]
    python benchmarks/rivals --render benchmarks/results/rivals.json

The molecules are those of conformers.npz, which the student never saw: of each, conformers by
ETKDGv3 as RDKit embeds them, again and again, each time turned and displaced by 0.02 Å. Every way
relaxes them to fmax 0.05 eV/Å (MMFF94: to its programs' own end), from host arrays to host arrays,
once after a short run that is not counted. What takes seconds a conformer gets `--few` of them.

The error is that of conformers' energies among one molecule, against the teacher's mean of four,
at the same minima (`mae` of accuracy/ranking.py; MMFF94's at its own minima next to them). What
cannot run is a row with its reason.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# relaxation.py, whose rows of others are used, imports what lies beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks._harness import RESULTS, Clock, Results, environment, reason, render
from benchmarks.rivals.bench import Bench, Row, starts_of
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

#: Way -> how; in the order in which they are run, so that a run cut short has the most telling.
WAYS: dict[str, Callable[[Bench], Row]] = {
    "default model, auto": ours("default", "auto"),
    "small model, auto": ours("small", "auto"),
    "AIMNet2, one member, TorchScript": teacher(1, scripted=True),
    "MMFF94, RDKit, all cores": on_cores(mmff_of, "rdkit", "mmff94_relaxed", 1),
    "default model, float32": ours("default", "float32"),
    "GFN2-xTB, tblite, all cores": on_cores(gfn2_of, "tblite", "gfn2", 0),
    "default model, eager PyTorch": differentiated(False),
    "AIMNet2, mean of four, batched networks": teacher(4, scripted=False),
    "GFN2-xTB, xTBloom, card": xtbloom("cuda"),
    "GFN2-xTB, xTBloom, all cores": xtbloom("cpu"),
    "MMFF94, nvMolKit": nvmolkit,
    "default model, torch-sim": torch_sim,
    "default model, ASE LBFGS one by one": ase_one_by_one,
    "AIMNet2, mean of four, TorchScript": teacher(4, scripted=True),
    "default model, torch.compile": differentiated(True),
}


def rows(bench: Bench, names: list[str], clock: Clock) -> Iterator[dict[str, Any]]:
    """Every way, or why not."""
    for name in names:
        record: dict[str, Any] = {"row": name}
        try:
            if not clock.left():
                raise TimeoutError("no time was left")
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
            found = WAYS[name](bench)
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
    parser.add_argument("--conformers", type=int, default=2048)
    parser.add_argument("--few", type=int, default=64, help="of what takes seconds each")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by semicolons")
    parser.add_argument("--minutes", type=float, default=4.0, help="no way begins later")
    parser.add_argument("--plot", type=Path, help="where to; beside the JSON if not said")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only table and plot of it")
    arguments = parser.parse_args()
    if arguments.render is None:
        device = torch.device(arguments.device)
        starts = starts_of(arguments.conformers, usable_cores())
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
        bench = Bench(starts, arguments.few, device, arguments.teacher)
        for row in rows(bench, arguments.ways.split(";"), Clock(arguments.minutes)):
            result.add(row)
    file = arguments.render or arguments.out
    render(file, markdown)
    plot(json.loads(file.read_text(encoding="utf-8")), arguments.plot or file.with_suffix(".png"))


if __name__ == "__main__":
    main()
