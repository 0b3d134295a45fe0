"""How many structures the records of a library stand for, and what it costs to list them.

    python benchmarks/chemistry/variants.py LIBRARY [--molecules 1000] [--flat]; 1 to 3 minutes

With `--flat`, the stereo that the library gives is taken away first: what a library that knows none
costs. For each way to expand a record: structures a record, the share of records that have more
than one, that were cut at 8, and core-milliseconds a record, all records counted.

Results: benchmarks/results/variants.json
"""

import argparse
import json
import random
import time
from pathlib import Path

from rdkit import Chem

from mlff_core.chem.expand import expand
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.variant import Expansion
from mlff_core.library import open_library
from mlff_core.status import Flag

ROOT = Path(__file__).parents[2]
WAYS = {
    "--stereo enumerate": Expansion("enumerate"),
    "--stereo diastereomers": Expansion("diastereomers"),
    "--tautomers": Expansion(tautomers=True),
    "--ph 7.4": Expansion(ph=7.4),
    "--ph 7.4 --ph-window 1": Expansion(ph=7.4, ph_window=1.0),
    "--ph 7.4 --stereo enumerate": Expansion("enumerate", ph=7.4),
}


def measure(smiles: list[str], expansion: Expansion) -> dict[str, float]:
    """Expand all of them in one way."""
    settings = ChemistrySettings(expansion=expansion)
    numbers, cut, changed, times = [], 0, 0, []
    for k, text in enumerate(smiles):
        began = time.process_time()
        rows = expand(k, None, text, settings)
        times.append(time.process_time() - began)
        numbers.append(max(len(rows), 1))
        cut += any(Flag.VARIANTS_LEFT_OUT in row.flags for row in rows)
        changed += any(row.kind != "as_given" for row in rows)
    n = len(smiles)
    return {
        "structures_a_record": round(sum(numbers) / n, 3),
        "records_with_several_percent": round(100 * sum(k > 1 for k in numbers) / n, 1),
        "records_changed_percent": round(100 * changed / n, 1),
        "records_cut_percent": round(100 * cut / n, 1),
        "ms_a_record": round(1000 * sum(times) / n, 1),
        "ms_largest": round(1000 * max(times), 0),
    }


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", help="of SMILES, as for mlff-screen run")
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--flat", action="store_true", help="take the stereo away first")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/variants.json")
    arguments = parser.parse_args()
    every = [record.smiles for record in open_library(arguments.library).records() if record.smiles]
    chosen = random.Random(1).sample(every, min(arguments.molecules, len(every)))
    if arguments.flat:
        mols = (Chem.MolFromSmiles(text) for text in chosen)
        chosen = [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols if mol is not None]
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results: dict[str, object] = {"molecules": len(chosen)}
    known[f"{arguments.library}{', without stereo' if arguments.flat else ''}"] = results
    for name, expansion in WAYS.items():
        results[name] = measure(chosen, expansion)
        print(name, json.dumps(results[name]), flush=True)
        arguments.out.write_text(json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
