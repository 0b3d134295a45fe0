"""What each preset costs, and how near to the best known minimum it comes.

    python benchmarks/presets.py [--molecules N] [--reference N] [--device cpu|cuda] [--json FILE]

Molecules are drawn from datasets/druglike by a seed. Each preset screens them; of each molecule's
best geometry the default model gives the energy. The best known minimum is the lowest energy that
any preset or the reference found: N conformers, relaxed as `thorough` relaxes. Times are those of
one call of `screen_mols` after a first one that warms up, model loading not counted.
"""

import argparse
import csv
import json
import os
import random
import time
from functools import cache
from pathlib import Path

import numpy as np

from flows.call import PRESETS, ScreenCall
from mlff_core import MolBatch, Potential, ScreenedMolecule, load_potential, screen_mols
from mlff_core.cores import usable_cores
from mlff_core.units import EV_KCAL_MOL

LIBRARY = Path(__file__).parents[1] / "datasets/druglike/druglike.csv"
SEED = 20_261_129


def settings_of(preset: str) -> dict:
    """What a preset asks of `screen_mols`."""
    call = ScreenCall(preset=preset)
    return {name: getattr(call, name) for name in ("conformers", "model", "fmax", "max_steps")}


@cache
def _loaded(model: str, device: str) -> Potential:
    return load_potential(model, device=device)


def timed(
    smiles: list[str], device: str, **settings: object
) -> tuple[list[ScreenedMolecule], float]:
    """What came out, and the seconds that it took."""
    potential = _loaded(settings.pop("model"), device)
    screen_mols(smiles[:1], model=potential, **settings | {"conformers": 1, "max_steps": 3})
    started = time.perf_counter()
    found = screen_mols(smiles, model=potential, **settings)
    return found, time.perf_counter() - started


def best_energies(found: list[ScreenedMolecule], device: str) -> np.ndarray:
    """The default model's energy in kcal/mol of each molecule's best geometry; NaN where none."""
    potential = _loaded("default", device)
    energies = np.full(len(found), np.nan)
    ok = [k for k, molecule in enumerate(found) if molecule.ok]
    batch = MolBatch.from_ase([found[k].atoms()[0] for k in ok])
    energies[ok] = potential(batch).energy.cpu().numpy() * EV_KCAL_MOL
    return energies


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--molecules", type=int, default=10)
    parser.add_argument("--reference", type=int, default=40, help="conformers of the reference")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = list(csv.DictReader(LIBRARY.open()))
    organic = [
        row["smiles"] for row in rows if "." not in row["smiles"] and len(row["smiles"]) > 12
    ]
    smiles = random.Random(SEED).sample(organic, given.molecules)
    runs = {preset: settings_of(preset) for preset in PRESETS}
    runs["reference"] = settings_of("thorough") | {"conformers": given.reference}
    seconds, energies, same = {}, {}, {}
    for name, settings in runs.items():
        found, seconds[name] = timed(smiles, given.device, **settings)
        energies[name], same[name] = best_energies(found, given.device), [m.smiles for m in found]
        print(name, f"{seconds[name]:.1f} s", flush=True)
    # Another isomer of what the library leaves open would be compared with apples.
    alike = np.array([len(set(each)) == 1 for each in zip(*same.values(), strict=True)])
    best = np.nanmin(np.stack(list(energies.values())), axis=0)
    report = {
        "molecules": given.molecules, "compared": int(alike.sum()), "device": given.device,
        "cores": usable_cores(), "load": os.getloadavg()[0], "reference": given.reference,
        "presets": {},
    }  # fmt: skip
    print(
        "| preset | molecules/s | time | above the best known, median | mean | within 1 kcal/mol |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name in runs:
        above = (energies[name] - best)[alike]
        above = above[np.isfinite(above)]
        row = {
            **runs[name], "molecules_per_s": given.molecules / seconds[name],
            "times_standard": seconds[name] / seconds["standard"],
            "median_kcal_mol": float(np.median(above)), "mean_kcal_mol": float(above.mean()),
            "within_1": float((above < 1).mean()),
        }  # fmt: skip
        report["presets"][name] = row
        print(
            f"| {name} | {row['molecules_per_s']:.2f} | ×{row['times_standard']:.1f} | "
            f"{row['median_kcal_mol']:.2f} | {row['mean_kcal_mol']:.2f} | {row['within_1']:.0%} |"
        )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
