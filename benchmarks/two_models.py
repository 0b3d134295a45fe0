"""What it saves to walk with the small model first, and where that ends.

    python benchmarks/two_models.py [--molecules 40] [--device cpu|cuda] [--fmax 0.05] [--first 0.1]

Drugs of datasets/druglike of 25 to 70 atoms, one conformer each, relaxed by the default model to
--fmax; then with a first walk by the small one to --first (several may be named). Prints seconds of
CPU (of the clock on a card), steps of both, and how the energies differ, kcal/mol.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _harness import synchronize
from rdkit import RDLogger

from mlff_core import load_potential
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.models.potential import Potential
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import MoleculeStatus
from mlff_core.units import EV_KCAL_MOL

LIBRARY = Path(__file__).parents[1] / "datasets/druglike/druglike.csv"
Start = tuple[np.ndarray, np.ndarray, int]
#: kcal/mol within which two relaxations came to the same minimum.
SAME = 0.3


def starts(n: int) -> list[Start]:
    """Numbers, positions in Å and charge of the first n drugs that are neither small nor large."""
    found: list[Start] = []
    with LIBRARY.open() as lines:
        for k, row in enumerate(csv.DictReader(lines)):
            molecule = prepare(k, None, row["smiles"], ChemistrySettings())
            if molecule.status == MoleculeStatus.OK and 25 <= molecule.n_atoms <= 70:
                numbers = np.asarray(molecule.numbers)
                found.append((numbers, molecule.positions[0], int(molecule.charge)))
            if len(found) == n:
                break
    return found


def relaxed(
    potential: Potential, given: list[Start], settings: RelaxSettings, first: Potential | None
) -> tuple[list[Relaxed], float]:
    """How each ended, and the seconds of all."""
    on_card = potential.device.type == "cuda"
    clock = time.perf_counter if on_card else time.process_time
    synchronize(potential.device)
    began = clock()
    ends = relax_conformers(given, potential, settings, pre_relax=first)
    synchronize(potential.device)
    return ends, clock() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--first", type=float, nargs="+", default=[0.1, 0.05])
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    given = starts(arguments.molecules)
    default, small = (load_potential(m, device=arguments.device) for m in ("default", "small"))
    asked = RelaxSettings(fmax=arguments.fmax, max_steps=1000)
    for first in (None, small):  # kernels are compiled
        relaxed(default, given[:2], replace(asked, max_steps=3), first)
    alone, alone_s = relaxed(default, given, asked, None)
    print("| first | share of the time | steps | same | lower | higher | mean |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| - | 1 ({alone_s:.1f} s) | {np.mean([r.n_steps for r in alone]):.0f} |  |  |  |  |")
    for fmax in arguments.first:
        ends, seconds = relaxed(default, given, replace(asked, pre_fmax=fmax), small)
        pairs = zip(ends, alone, strict=True)
        apart = EV_KCAL_MOL * np.array([own.energy - other.energy for own, other in pairs])
        print(
            f"| {fmax:g} | {seconds / alone_s:.2f} | {np.mean([r.n_steps for r in ends]):.0f} "
            f"| {np.sum(np.abs(apart) <= SAME)} | {np.sum(apart < -SAME)} "
            f"| {np.sum(apart > SAME)} | {apart.mean():+.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
