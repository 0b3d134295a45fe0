"""How many molecules are flagged as hardly seen: those that go wrong, and ordinary ones.

    python benchmarks/chemistry/trust.py TRAIN.parquet [--molecules 2000]

Three sets: the ten protonation states with the largest errors of the model card; the drugs of
datasets/druglike; and molecules drawn at random from the training's table among those that were
held out by connectivity. Of the last, also a protonation state chosen at
random, as the ten were found. Writes benchmarks/results/trust.json.
"""

import argparse
import csv
import json
import random
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from rdkit import Chem

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import standardise
from mlff_core.chem.seen import seen_by
from mlff_core.chem.trust import trust_flags
from mlff_core.distill.molecules import MoleculesConfig, is_held_out, quiet_rdkit
from mlff_core.distill.protomers import protomer
from mlff_core.models.reference import refer_to_model
from mlff_core.status import Flag, MoleculeStatus

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"

#: What is said of trust; other flags tell what was done with the input.
OF_TRUST = (
    Flag.OUTSIDE_TRAINING,
    Flag.FEW_HEAVY_ATOMS,
    Flag.RARE_ELEMENT,
    Flag.RARE_CHARGE_ENVIRONMENT,
    Flag.RARE_CHARGE_COMBINATION,
    Flag.CHARGE_BEYOND_2,
    Flag.ZWITTERION_IN_VACUUM,
)


def held_out(table: Path, n_molecules: int, config: MoleculesConfig, seed: int) -> list[str]:
    """Molecules of the table, in a random order, that no training of this split saw."""
    smiles = pq.read_table(table, columns=["smiles"])["smiles"].to_pylist()
    random.Random(seed).shuffle(smiles)
    found: list[str] = []
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        key = Chem.MolToInchiKey(mol)[:14] if mol is not None else ""
        if key and is_held_out(key, config.held_out_share, config.salt):
            found.append(text)
        if len(found) == n_molecules:
            break
    return found


def flagged(smiles: list[str], model_sha256: str) -> dict[str, object]:
    """Shares of the molecules with each flag and with any, and what the flags of one cost."""
    settings = ChemistrySettings(model_sha256=model_sha256)
    seen = seen_by(model_sha256)
    counts: Counter[str] = Counter()
    n = some = unusual = others = 0
    seconds = 0.0
    for k, text in enumerate(smiles):
        molecule = standardise(k, None, text, settings)
        if molecule.status != MoleculeStatus.OK or molecule.smiles is None:
            continue
        mol = Chem.MolFromSmiles(molecule.smiles)
        began = time.perf_counter()
        trust_flags(mol, molecule.smiles, seen)
        seconds += time.perf_counter() - began
        found = {flag for flag in molecule.flags if flag in OF_TRUST}
        n += 1
        some += bool(found)
        unusual += bool(found & {Flag.RARE_ELEMENT, Flag.ZWITTERION_IN_VACUUM})
        others += bool(found) and not found & {Flag.RARE_ELEMENT, Flag.ZWITTERION_IN_VACUUM}
        counts.update(found)
    return {
        "n": n,
        "flagged_percent": round(100 * some / n, 2),
        "rare_elements_and_zwitterions": unusual,
        "flagged_percent_without_these": round(100 * others / (n - unusual), 2),
        "by_flag_percent": {str(f): round(100 * counts[f] / n, 2) for f in OF_TRUST},
        "ms_a_molecule": round(1000 * seconds / n, 3),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--molecules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=23)
    arguments = parser.parse_args()
    quiet_rdkit()
    config = MoleculesConfig()
    model = refer_to_model("default")
    worst = json.loads((RESULTS / "accuracy.json").read_text())["protomers"]["worst"]
    settings = ChemistrySettings(model_sha256=model.sha256)
    ordinary = held_out(arguments.table, arguments.molecules, config, arguments.seed)
    rng = random.Random(arguments.seed)
    states = [protomer(text, rng, max_charge=config.max_charge) for text in ordinary]
    with (ROOT / "datasets/druglike/druglike.csv").open() as lines:
        drugs = [row["smiles"] for row in csv.DictReader(lines)]
    result = {
        "model_sha256": model.sha256,
        "worst": [
            {**row, "flags": standardise(0, None, row["smiles"], settings).flags} for row in worst
        ],
        "druglike": flagged(drugs, model.sha256),
        "held_out": flagged(ordinary, model.sha256),
        "random_protonation_states": flagged([s for s in states if s], model.sha256),
    }
    (RESULTS / "trust.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
