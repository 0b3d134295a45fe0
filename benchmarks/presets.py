"""What each preset costs, and how near to the best known minimum it comes.

    python benchmarks/presets.py [--device cpu|cuda] [--only NAME,NAME] [--molecules NAME=N,NAME=N]
    python benchmarks/presets.py --energies       each molecule once: how good, and no rates
    python benchmarks/presets.py --take FILE      what was measured on another machine
    python benchmarks/presets.py --table          results/presets.md and the README's rows

The library is datasets/druglike, shuffled by a seed and repeated as often as a number of molecules
wants; geometries are the same wherever a molecule stands. Each preset screens it as the command
does, model loading and, on a card, a first run that compiles not counted. The default model then
gives the energy of each molecule's best geometry. The best known minimum is the lowest energy that
any of those that ran found, the presets or the reference: `thorough` with REFERENCE conformers.
Those of the last run of each are kept with the report, so that presets may be measured one by one.

On a card the rate is molecules by the wall clock. On cores it is two over the seconds of CPU that a
molecule took, all processes counted, less those of a run that embeds one molecule and relaxes
nothing: the rate of two cores that nobody else uses, in a long run.
"""

import argparse
import csv
import json
import random
import re
import resource
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from timed_screen import measure

from flows.call import PRESETS, ScreenCall
from mlff_core import MolBatch, load_potential
from mlff_core.units import EV_KCAL_MOL

LIBRARY = Path(__file__).parents[1] / "datasets/druglike/druglike.csv"
README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results/presets.json"
SEED = 20_261_129
REFERENCE = 60
MOLECULES = {
    "cpu": {"quick": 10, "standard": 10, "thorough": 3},
    "cuda": {"quick": 8000, "standard": 5000, "thorough": 300, "reference": 150},
}
#: Molecules of a run that compiles.
WARMING = 20


def molecules(n: int) -> list[str]:
    """The first of the library, shuffled; salts, which would be cut, and small ones left out."""
    rows = csv.DictReader(LIBRARY.open())
    organic = [r["smiles"] for r in rows if "." not in r["smiles"] and len(r["smiles"]) > 12]
    random.Random(SEED).shuffle(organic)
    return [organic[k % len(organic)] for k in range(n)]


def call_of(preset: str, **more: object) -> ScreenCall:
    """What a preset asks for."""
    if preset == "reference":
        return ScreenCall(preset="thorough", **{"conformers": REFERENCE} | more)
    return ScreenCall(preset=preset, **more)


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run(
    preset: str, n: int, device: str, folder: Path, start_s: float = 0.0, **more: object
) -> tuple[dict, dict[str, float]]:
    """What a screen of n molecules took, and the best energy of each molecule in kcal/mol.

    Args:
        preset: Or reference.
        n: Molecules.
        device: Of the model.
        folder: For the library and the tables.
        start_s: Seconds of CPU that do not count.
        **more: Of the call.
    """
    library, out = folder / f"{preset}.smi", folder / f"{preset}-{n}"
    library.write_text("".join(f"{smiles}\n" for smiles in molecules(n)))
    # Some shards: stages that overlap are what a long run has.
    call = call_of(
        preset, library=str(library), out=str(out), device=device, overwrite=True,
        shard_size=max(10, -(-n // 4)), **more,
    )  # fmt: skip
    before = cpu_seconds()
    found = measure(call, lambda report: None)
    seconds = cpu_seconds() - before
    cores = (seconds - start_s) / n
    rate = found["molecules_per_s"] if device == "cuda" else 2.0 / cores
    row = {
        "n_molecules": n, "molecules_per_s": rate, "cpu_s_a_molecule": cores, "cpu_s": seconds,
        **{name: getattr(call, name) for name in ("conformers", "model", "fmax", "max_steps")},
        **{
            name: found[name]
            for name in ("embedder", "device", "cores", "counts", "stages_s", "commit", "date")
        },
    }  # fmt: skip
    return row, best_energies(out, device)


def best_energies(out: Path, device: str) -> dict[str, float]:
    """The default model's energy in kcal/mol of each molecule's best geometry, by its SMILES."""
    columns = ["record", "variant", "smiles", "charge", "best_conformer"]
    rows = pq.read_table(out / "molecules", columns=columns).to_pylist()
    best = {(r["record"], r["variant"], r["best_conformer"]): r for r in rows}
    columns = ["record", "variant", "conformer", "atomic_numbers", "positions_angstrom"]
    found = []
    for c in pq.read_table(out / "conformers", columns=columns).to_pylist():
        if row := best.get((c["record"], c["variant"], c["conformer"])):
            x = np.reshape(c["positions_angstrom"], (-1, 3))
            found.append((row["smiles"], (np.array(c["atomic_numbers"]), x, row["charge"])))
    potential = load_potential("default", device=device)
    energies: dict[str, float] = {}
    for begin in range(0, len(found), 256):
        some = found[begin : begin + 256]
        values = potential(MolBatch.from_arrays([arrays for _, arrays in some])).energy.cpu()
        for (smiles, _), value in zip(some, values.tolist(), strict=True):
            energies[smiles] = round(value * EV_KCAL_MOL, 3)
    return energies


def compare(energies: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """How far each preset is above the best known, over the molecules that all of them have."""
    common = sorted(set.intersection(*(set(found) for found in energies.values())))
    table = np.array([[found[smiles] for smiles in common] for found in energies.values()])
    above = table - table.min(axis=0)
    return {
        name: {
            "compared": len(common), "median_kcal_mol": float(np.median(row)),
            "mean_kcal_mol": float(row.mean()), "within_1": float((row < 1.0).mean()),
        }
        for name, row in zip(energies, above, strict=True)
    }  # fmt: skip


def take(report: dict, other: dict) -> None:
    """Put what another machine measured, device by device, into a report."""
    for name, rows in other.items():
        if name == "energies_kcal_mol":
            take(report.setdefault(name, {}), rows)
        else:
            report.setdefault(name, {}).update(rows)


def table(report: dict) -> str:
    """The report in Markdown."""
    cores, card = report.get("cpu", {}), report.get("cuda", {})
    quality = card if any("compared" in row for row in card.values()) else cores
    lines = [
        "Made by `python benchmarks/presets.py`, whose docstring says how; drugs of "
        "datasets/druglike.",
        "",
        "| preset | conformers, model, eV/Å | molecules/s, two cores | one H200 | above the best "
        "known, median | mean | within 1 kcal/mol |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]

    def rate(rows: dict, name: str) -> str:
        return f"{rows[name]['molecules_per_s']:.3g}" if name in rows else "-"

    for name in [*PRESETS, "reference"]:
        row = card.get(name) or cores.get(name)
        if row is None:
            continue
        good = quality.get(name, {})
        said = (
            [f"{good['median_kcal_mol']:.2f}", f"{good['mean_kcal_mol']:.2f}",
             f"{good['within_1']:.0%}"]
            if "compared" in good
            else ["-"] * 3
        )  # fmt: skip
        lines.append(
            f"| {name} | {row['conformers']}, {row['model']}, {row['fmax']:g} | "
            f"{rate(cores, name)} | {rate(card, name)} | {' | '.join(said)} |"
        )
    numbers = "; ".join(
        f"{where}: "
        + ", ".join(
            f"{name} {row['n_molecules']:,}"
            + (f" (commit {row['commit'][:7]})" if "commit" in row else "")
            for name, row in rows.items()
        )
        for where, rows in (("cores", cores), ("card", card))
        if rows
    )
    compared = next((row["compared"] for row in quality.values() if "compared" in row), 0)
    found_by = [name for name, row in quality.items() if "compared" in row]
    of = next((row["energies_commit"] for row in quality.values() if "energies_commit" in row), "")
    said = (
        f" Energies are of the {compared} molecules that all have"
        + (f" (commit {of[:7]})" if of else "")
        + f", above the lowest that {', '.join(found_by)} found."
        if compared
        else ""
    )
    lines += ["", f"Molecules screened, {numbers}.{said}"]
    return "\n".join(lines) + "\n"


def readme_row(report: dict, name: str) -> str:
    """A preset's row of the README's table."""
    cores, card = report["cpu"][name], report.get("cuda", {}).get(name, {})
    cells = [
        f"`{name}`", cores["conformers"], cores["model"], f"{cores['fmax']:g}",
        f"{cores['molecules_per_s']:.2g}",
        f"{card['molecules_per_s']:,.3g}" if card else "-",
        f"{card['median_kcal_mol']:.1f}" if "compared" in card else "-",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def into_readme(text: str, report: dict) -> str:
    """The README with the rows as measured."""
    for name in PRESETS:
        text = re.sub(
            rf"^\| `{name}` \|.*$", readme_row(report, name), text, count=1, flags=re.MULTILINE
        )
    return text


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", help="presets, or reference; all if not given")
    parser.add_argument("--molecules", default="", help="how many each screens")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--energies", action="store_true", help="rates stay as they were")
    parser.add_argument("--take", type=Path, help="a file that this wrote on another machine")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    report = json.loads(given.json.read_text()) if given.json.exists() else {}
    if given.take:
        take(report, json.loads(given.take.read_text()))
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        return
    if given.table:
        given.json.with_suffix(".md").write_text(table(report))
        if given.json == RESULTS:
            README.write_text(into_readme(README.read_text(), report))
        return
    counts = dict(MOLECULES[given.device])
    if given.energies:
        counts = dict.fromkeys(counts, len(set(molecules(1000))))
    for name, _, n in (one.partition("=") for one in given.molecules.split(",") if one):
        counts[name] = int(n)
    names = given.only.split(",") if given.only else list(counts)
    rows = report.setdefault(given.device, {})
    energies = report.setdefault("energies_kcal_mol", {}).setdefault(given.device, {})
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start_s = 0.0
            if given.energies or name == "reference":
                pass
            elif given.device == "cuda":
                run(name, WARMING, given.device, Path(folder))
            else:
                nothing = {"conformers": 1, "max_steps": 0}
                for _ in range(2):  # the first one imports
                    start_s = run(name, 1, "cpu", Path(folder), **nothing)[0]["cpu_s"]
            row, energies[name] = run(name, counts[name], given.device, Path(folder), start_s)
            if not given.energies or name not in rows:
                rows[name] = row
            if len(energies) > 1:
                for other, found in compare(energies).items():
                    rows[other] |= found | {"energies_commit": row["commit"]}
            given.json.write_text(json.dumps(report, indent=1) + "\n")  # a run may be cut off
            print(name, f"{rows[name]['molecules_per_s']:.3g} molecules/s", flush=True)
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name(0))
    print(table(report))


if __name__ == "__main__":
    main()
