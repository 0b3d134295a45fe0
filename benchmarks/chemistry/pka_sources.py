"""The textbook values that pka_sites.toml names, against measured pKa's of the same compounds.

    git clone --depth 1 https://github.com/khoivan88/pka_lookup
    python benchmarks/chemistry/pka_sources.py pka_lookup/src/data/processed/complete_data.csv

The data are DataWarrior's collection of measured pKa's, as curated by K. Mansouri et al.,
J. Cheminform. 2019, 11, 60; nothing of it is shipped. Compared are the compounds of
pka_compounds.tsv, by InChI: how far each value lies from the nearest measured one of its compound.
That says whether the values stand in the literature, not whether a row is right. Writes
benchmarks/results/pka_sources.json.
"""

import argparse
import csv
import json
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger

ROOT = Path(__file__).parents[2]
SITES = ROOT / "mlff_core/chem/pka_sites.toml"
COMPOUNDS = Path(__file__).with_name("pka_compounds.tsv")
#: pH units beyond which a value is listed.
FAR = 0.3
_VALUE = re.compile(r"(?P<name>.+?) (?P<value>-?\d+\.?\d*)")


def named_values() -> dict[str, set[float]]:
    """Compounds that the sources name, with the values that they give."""
    table = tomllib.loads(SITES.read_text())
    found: dict[str, set[float]] = defaultdict(set)
    for row in [*table["site"], *table["increment"]]:
        for part in re.split(r"[;,]\s+", row["source"]):
            if match := _VALUE.fullmatch(part.strip()):
                found[match["name"]].add(float(match["value"]))
    return found


def measured(file: Path) -> dict[str, list[float]]:
    """Measured constants by InChI, as pKa of the acid or of the protonated base."""
    found: dict[str, list[float]] = defaultdict(list)
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            found[row["InChI"]].append(float(row["pKa"]))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path)
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    books = measured(arguments.measured)
    values = named_values()
    differences, far, absent = [], {}, []
    for line in COMPOUNDS.read_text().splitlines():
        name, smiles = line.split("\t")
        known = books.get(Chem.MolToInchi(Chem.MolFromSmiles(smiles)))
        if not known:
            absent.append(name)
            continue
        for value in sorted(values[name]):
            nearest = min(known, key=lambda one: abs(one - value))
            differences.append(abs(nearest - value))
            if differences[-1] > FAR:
                far[name] = {"table": value, "nearest measured": round(nearest, 2)}
    result = {
        "values_named": sum(map(len, values.values())),
        "values_compared": len(differences),
        "median_difference": round(float(np.median(differences)), 3),
        f"within_{FAR}_percent": round(100 * float(np.mean(np.array(differences) <= FAR)), 1),
        f"beyond_{FAR}": far,
        "not_in_the_collection": absent,
    }
    (ROOT / "benchmarks/results/pka_sources.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
