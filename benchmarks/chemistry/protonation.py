"""Protonation states at pH 7.4 against measured pKa's, beside Dimorphite-DL.

    git clone --depth 1 https://github.com/czodrowskilab/Machine-learning-meets-pKa
    python benchmarks/chemistry/protonation.py Machine-learning-meets-pKa/datasets; 30 s

Two sets. `drugs`: tests/cases/protonation_ph74.tsv, 45 drugs with the state that is dominant by
their measured pKa's; counted is the exact structure. The rules for amines, acids and rings were
written with these drugs known. `measured`: the Novartis and AvLiLuMoVe sets of M. Baltruschat and
P. Czodrowski, F1000Research 2020, 9, 113 (CC BY 4.0), molecules with one measured pKa that is half
a unit or more from 7.4. A base above it is a cation, an acid below it an anion; counted are total
charge and number of charged atoms. This set is blind: the table of sites was written without
looking at a molecule of it, and not changed after the first count. What was known is which kinds of
sites other tools get wrong on it (diamines, sulfonylureas, enols, aminoquinolines, imides).

Results: benchmarks/results/protonation.json
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from rdkit import Chem, RDLogger

from mlff_core.chem.protonation import neutralised, protomers

PH = 7.4
#: A measured pKa this near to the pH says little about the dominant state.
TOO_NEAR = 0.5
ROOT = Path(__file__).parents[2]
SETS = {
    "Novartis": "novartis_cleaned_mono_unique_notraindata.sdf",
    "AvLiLuMoVe": "AvLiLuMoVe_cleaned_mono_unique_notraindata.sdf",
}
Predict = Callable[[str], Chem.Mol]


def ours(smiles: str) -> Chem.Mol:
    """Our dominant state."""
    return protomers(Chem.MolFromSmiles(smiles), PH, 0.0).states[0].mol


def as_neutral(smiles: str) -> Chem.Mol:
    """The neutral molecule, whatever it is."""
    return neutralised(Chem.MolFromSmiles(smiles))


def dimorphite(smiles: str) -> Chem.Mol:
    """Dimorphite-DL's most likely state."""
    from dimorphite_dl import protonate_smiles

    neutral = Chem.MolToSmiles(as_neutral(smiles))
    [state, *_] = protonate_smiles(neutral, ph_min=PH, ph_max=PH, precision=0.0)
    return Chem.MolFromSmiles(state)


def charges(mol: Chem.Mol) -> tuple[int, int]:
    """Total charge and number of charged atoms; nitro groups and their like are not charged."""
    charged = [
        atom.GetFormalCharge()
        for atom in mol.GetAtoms()
        if atom.GetFormalCharge()
        and not any(n.GetFormalCharge() * atom.GetFormalCharge() < 0 for n in atom.GetNeighbors())
    ]
    return sum(charged), len(charged)


def measured(folder: Path, file: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """SMILES, and the charges that the measured pKa says."""
    for mol in Chem.SDMolSupplier(str(folder / file)):
        pka = mol.GetDoubleProp("pKa")
        if abs(pka - PH) < TOO_NEAR:
            continue
        smiles = mol.GetProp("ISO_SMI")
        total, n = charges(as_neutral(smiles))
        basic = mol.GetProp("marvin_pKa_type") == "basic"
        if (pka > PH) == basic:
            total, n = total + (1 if basic else -1), n + 1
        yield smiles, (total, n)


def drugs() -> Iterator[tuple[str, set[str]]]:
    """SMILES, and those of the states that are right."""
    lines = (ROOT / "tests" / "cases" / "protonation_ph74.tsv").read_text().splitlines()[1:]
    for line in lines:
        _, smiles, right, *_ = line.split("\t")
        yield smiles, {Chem.CanonSmiles(one) for one in right.split(";")}


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, help="folder with the SD files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/protonation.json")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    tools: dict[str, Predict] = {"as neutral": as_neutral, "mlff-screen": ours}
    try:
        tools[f"Dimorphite-DL {metadata.version('dimorphite_dl')}"] = dimorphite
    except metadata.PackageNotFoundError:
        print("no Dimorphite-DL: pip install dimorphite_dl")
    cases = {name: list(measured(arguments.datasets, file)) for name, file in SETS.items()}
    known = list(drugs())
    results = {}
    for tool, predict in tools.items():
        began = time.perf_counter()
        right = {
            name: [charges(predict(smiles)) == truth for smiles, truth in rows]
            for name, rows in cases.items()
        }
        right["drugs"] = [Chem.MolToSmiles(predict(s)) in truth for s, truth in known]
        n_all = sum(map(len, right.values()))
        results[tool] = {
            **{name: {"right": sum(rows), "of": len(rows)} for name, rows in right.items()},
            "measured": {
                "right": sum(sum(right[name]) for name in cases),
                "of": sum(len(right[name]) for name in cases),
            },
            "ms_a_molecule": round(1000 * (time.perf_counter() - began) / n_all, 1),
        }
        print(tool, json.dumps(results[tool]))
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
