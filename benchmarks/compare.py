"""What changed between two screens of the same library: status, SMILES, energy, conformers.

    python benchmarks/compare.py BEFORE AFTER [--kcal 0.5] [--examples 20]

BEFORE and AFTER are output folders. Prints how many records changed in which way, and examples of
each; exits with 1 if the two do not hold the same records.
"""

import argparse
import sys
from pathlib import Path

import polars as pl

#: kcal/mol in one eV.
KCAL_MOL = 23.060547830619
#: What is told of a record that changed.
COLUMNS = ("record", "input_smiles", "smiles", "status", "reason", "min_energy_ev", "message")


def molecules(folder: Path) -> pl.DataFrame:
    """The first variant of every record."""
    table = pl.read_parquet(folder / "molecules" / "*.parquet")
    if "variant" in table.columns:
        table = table.filter(pl.col("variant") == 0)
    return table.select(COLUMNS).sort("record")


def changes(before: pl.DataFrame, after: pl.DataFrame, kcal: float) -> dict[str, pl.DataFrame]:
    """The records that changed, by what changed first: status, reason, SMILES, energy."""
    both = before.join(after, on="record", suffix="_after")
    status = pl.col("status") != pl.col("status_after")
    reason = pl.col("reason").ne_missing(pl.col("reason_after")) & ~status
    smiles = pl.col("smiles").ne_missing(pl.col("smiles_after")) & ~status & ~reason
    difference = (pl.col("min_energy_ev_after") - pl.col("min_energy_ev")) * KCAL_MOL
    same = ~status & ~reason & ~smiles
    return {
        "status": both.filter(status),
        "reason": both.filter(reason),
        "SMILES": both.filter(smiles),
        f"energy lower by more than {kcal:g} kcal/mol": both.filter(same & (difference < -kcal)),
        f"energy higher by more than {kcal:g} kcal/mol": both.filter(same & (difference > kcal)),
        "energy by less": both.filter(same & difference.abs().is_between(1e-9, kcal)),
    }


def main() -> int:
    """Compare two folders and print the changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--kcal", type=float, default=0.5)
    parser.add_argument("--examples", type=int, default=20)
    arguments = parser.parse_args()
    before, after = molecules(arguments.before), molecules(arguments.after)
    for what, rows in changes(before, after, arguments.kcal).items():
        print(f"{what}: {len(rows)} of {len(before)}")
        if what == "energy by less":
            continue
        for row in rows.head(arguments.examples).iter_rows(named=True):
            ends = []
            for suffix in ("", "_after"):
                energy = row[f"min_energy_ev{suffix}"]
                values = (row[f"status{suffix}"], row[f"reason{suffix}"], row[f"smiles{suffix}"])
                words = [str(word) for word in values if word is not None]
                words += [f"{energy:.4f} eV"] if energy is not None else []
                ends.append(" ".join(words) + f" | {row[f'message{suffix}'] or ''}")
            print(f"  {row['record']} {row['input_smiles']}\n    {ends[0]}\n    {ends[1]}")
    if before["record"].to_list() != after["record"].to_list():
        print("not the same records")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
