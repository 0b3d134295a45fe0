"""Why records of a library changed between two screens: a table of causes, with an example of each.

    python benchmarks/changes.py BEFORE AFTER [--kcal 0.5] [--out benchmarks/results/changes]

BEFORE and AFTER are output folders of the same library with one conformer a molecule. Every change
of status, reason, SMILES, or energy by more than `--kcal` is put under the first cause that the
tables tell; writes OUT.json and OUT.md. What no cause explains is counted as such.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import polars as pl

#: kcal/mol in one eV.
KCAL_MOL = 23.060547830619
#: What is compared.
COLUMNS = ("record", "input_smiles", "smiles", "status", "reason", "min_energy_ev", "message")

#: Words of a message, before or after -> the cause in words; the first that fits is taken.
CAUSES = (
    ("after", "metal complex written in pieces", "metal complexes in pieces are rejected"),
    ("after", "that is no known salt or solvent", "the list of salts decides"),
    ("after", "electrons, an odd number", "odd electrons are rejected"),
    ("after", "stereo of the input not kept", "stereo that is not kept is told"),
    ("after", "its bond was held", "protons of charged groups are held"),
    ("before", "broken", "another start, the bond stays"),
    ("after", "by plain distance geometry", "embedded without ETKDG's terms"),
    ("after", "from random coordinates", "embedded from random coordinates"),
    ("before", "from random coordinates", "embedded at the first try now"),
    ("after", "broken", "another start, a bond breaks or forms"),
    ("after", "formed", "another start, a bond breaks or forms"),
    ("after", "chose one isomer", "another isomer or start where stereo is open"),
)


def table(folder: Path) -> pl.DataFrame:
    """The first variant of every record, and the starting energy of its first conformer."""
    molecules = pl.read_parquet(folder / "molecules" / "*.parquet")
    conformers = pl.read_parquet(folder / "conformers" / "*.parquet")
    if "variant" in molecules.columns:
        molecules = molecules.filter(pl.col("variant") == 0)
        conformers = conformers.filter(pl.col("variant") == 0)
    start = conformers.filter(pl.col("conformer") == 0).select("record", "initial_energy_ev")
    return molecules.select(COLUMNS).join(start, on="record", how="left").sort("record")


def what_changed(row: dict, kcal: float) -> str | None:
    """Status, reason, SMILES or energy of a joined row, in that order; None if all is the same."""
    for name in ("status", "reason"):
        if row[name] != row[f"{name}_after"]:
            ends = [row[f"reason{s}"] or row[f"status{s}"] for s in ("", "_after")]
            return f"{ends[0]} -> {ends[1]}"
    if row["smiles"] != row["smiles_after"]:
        return "SMILES"
    if row["min_energy_ev"] is None:
        return None
    difference = (row["min_energy_ev_after"] - row["min_energy_ev"]) * KCAL_MOL
    if abs(difference) <= kcal:
        return None
    return "energy " + ("lower" if difference < 0 else "higher")


def cause(row: dict) -> str:
    """The first cause that the messages tell, else whether the start was another one."""
    for side, words, name in CAUSES:
        if words in (row["message" if side == "before" else "message_after"] or ""):
            return name
    starts = row["initial_energy_ev"], row["initial_energy_ev_after"]
    if None not in starts and abs(starts[0] - starts[1]) * KCAL_MOL > 0.01:
        return "another start"
    return "same start, another way down"


def main() -> None:
    """Compare two folders and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--kcal", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/changes"))
    arguments = parser.parse_args()
    both = table(arguments.before).join(table(arguments.after), on="record", suffix="_after")
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in both.iter_rows(named=True):
        changed = what_changed(row, arguments.kcal)
        if changed is not None:
            groups[changed, cause(row)].append(row)
    counts = {
        name: dict(both[column].value_counts().iter_rows())
        for name, column in (("before", "status"), ("after", "status_after"))
    }
    rows = []
    for (changed, why), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        energies = [
            (m["min_energy_ev_after"] - m["min_energy_ev"]) * KCAL_MOL
            for m in members
            if m["min_energy_ev"] is not None and m["min_energy_ev_after"] is not None
        ]
        rows.append(
            {
                "changed": changed,
                "cause": why,
                "records": len(members),
                "kcal_mol_median": round(sorted(energies)[len(energies) // 2], 2)
                if energies
                else None,
                "example": members[0]["input_smiles"],
            }
        )
    answer = {"records": len(both), "kcal": arguments.kcal, "status": counts, "changes": rows}
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    arguments.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    lines = [
        f"{len(both)} records, by `benchmarks/changes.py`; energies within {arguments.kcal:g} "
        "kcal/mol count as the same.",
        "",
        "| what changed | cause | records | kcal/mol, median | example |",
        "|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {r['changed']} | {r['cause']} | {r['records']} | "
        f"{'' if r['kcal_mol_median'] is None else r['kcal_mol_median']} | `{r['example']}` |"
        for r in rows
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
