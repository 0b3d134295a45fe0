"""What the embedding pool costs over a bare RDKit loop: core-ms a molecule, molecules/s, in pairs.

    python benchmarks/embedding/pool.py [--library FILE.smi] [--limit N] [--workers N] [--rounds N]
        [--json FILE]

The bare loop is what anyone would write: parse, canonical SMILES, descriptors, hydrogens, ETKDGv3.
It runs in one process, and in as many processes as the pool has, since cores that share caches and
clock cost each other time whoever uses them. Each round runs all three one after the other; the
ratios are of neighbours in time. Core time is the CPU time of this process and all its children.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import rdkit
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdDistGeom, rdMolDescriptors

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.cores import usable_cores

SETTINGS = ChemistrySettings()
#: Bare-loop molecules sent to a process at a time: few enough that the processes end together.
CHUNK = 4

#: Approved drugs of 4 to 63 heavy atoms, for a run without a library.
DRUGS = [
    "CC(=O)Nc1ccc(O)cc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "CN1c2c(ncn2C)C(=O)N(C)C1=O",
    "CN(C)CCc1c[nH]c2ccc(CS(=O)(=O)N(C)C)cc12",
    "CNCC[C@H](Oc1ccc(cc1)C(F)(F)F)c1ccccc1",
    "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc21",
    "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "CCOc1ccc(cc1S(=O)(=O)N1CCN(C)CC1)-c1nc(=O)c2n(C)nc(CCC)c2[nH]1",
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",
    "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "CC(=O)N[C@@H](CS)C(=O)O",
    "NCC(=O)O",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "CC(C)NCC(O)COc1cccc2ccccc12",
    "CN1CCC[C@H]1c1cccnc1",
    "Clc1ccc(cc1)C(c1ccc(Cl)cc1)C(Cl)(Cl)Cl",
    "C[C@H]1C[C@H]2[C@@H]3CCC4=CC(=O)C=C[C@]4(C)[C@@]3(F)[C@@H](O)C[C@]2(C)[C@@]1(O)C(=O)CO",
    "CC1=C(C(C(=C(N1)C)C(=O)OC)c1ccccc1[N+](=O)[O-])C(=O)OC",
    "CN1[C@H]2CC[C@@H]1[C@H]([C@H](C2)OC(=O)c1ccccc1)C(=O)OC",
    "COc1ccc2nc([nH]c2c1)S(=O)Cc1ncc(C)c(OC)c1C",
    "NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O",
    "CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nn[nH]n1",
    "CC(C)(C)NC[C@H](O)c1ccc(O)c(CO)c1",
    "O=C1CN=C(c2ccccc2F)c2cc(ccc2N1)[N+](=O)[O-]",
    "CN(C)C(=N)NC(N)=N",
    "OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F",
    "CC[C@H](C)C(=O)O[C@H]1C[C@@H](C)C=C2C=C[C@H](C)[C@H](CC[C@@H]3C[C@@H](O)CC(=O)O3)[C@@H]12",
    "CC1OC(OC2C(O)CC(OC3C(O)CC(OC4CCC5(C)C(CCC6C5CC(O)C5(C)C(CCC65O)C5=CC(=O)OC5)C4)OC3C)OC2C)CC(O)C1O",
]


def bare(smiles: str) -> None:
    """One molecule as a plain RDKit script does it."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return
    Chem.MolToSmiles(mol)
    Chem.MolToInchiKey(mol)
    rdMolDescriptors.CalcMolFormula(mol)
    Chem.GetFormalCharge(mol)
    rdMolDescriptors.CalcNumRotatableBonds(mol)
    Descriptors.MolWt(mol)
    Crippen.MolLogP(mol)
    rdMolDescriptors.CalcTPSA(mol)
    QED.qed(mol)
    mol = Chem.AddHs(mol)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SETTINGS.seed
    parameters.timeout = SETTINGS.embed_timeout_s
    if rdDistGeom.EmbedMolecule(mol, parameters) >= 0:
        mol.GetConformer().GetPositions()


def cpu_s() -> float:
    """CPU seconds of this process and its living children."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(times.user + times.system for times in (p.cpu_times() for p in processes))


def measure(run: Callable[[list[str]], object], library: list[str]) -> dict[str, float]:
    """Core-ms a molecule and molecules/s of one run over the library."""
    cpu, wall = cpu_s(), time.perf_counter()
    run(library)
    wall = time.perf_counter() - wall
    return {
        "core_ms_per_molecule": 1e3 * (cpu_s() - cpu) / len(library),
        "molecules_per_s": len(library) / wall,
    }


def consume(results: Iterable[object]) -> int:
    """Take all, keep none."""
    return sum(1 for _ in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", type=Path, help="SMILES, one a line (default: a few drugs)")
    parser.add_argument("--limit", type=int, default=400, help="molecules of the library to use")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    arguments = parser.parse_args()
    if arguments.library:
        lines = arguments.library.read_text().splitlines()
        library = [line.split()[0] for line in lines if line.strip()][: arguments.limit]
    else:
        library = DRUGS * 4
    n = arguments.workers

    rounds = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(n) as processes, EmbeddingPool(SETTINGS, n) as pool:
        ways: dict[str, Callable[[list[str]], object]] = {
            "bare loop, 1 process": lambda smiles: consume(map(bare, smiles)),
            f"bare loop, {n} processes": lambda smiles: consume(
                processes.imap_unordered(bare, smiles, CHUNK)
            ),
            f"embedding pool, {n} processes": lambda smiles: consume(
                pool.map((record, None, line) for record, line in enumerate(smiles))
            ),
        }
        for run in ways.values():  # start the processes, load what RDKit loads on first use
            run(library[: 8 * n])
        for number in range(arguments.rounds):
            # There and back, so that no way always comes after the same one.
            order = list(ways)[:: -1 if number % 2 else 1]
            rounds.append({name: measure(ways[name], library) for name in order})

    _, bare_name, pool_name = ways
    ratios = [
        r[pool_name]["core_ms_per_molecule"] / r[bare_name]["core_ms_per_molecule"] for r in rounds
    ]
    report = {
        "molecules": len(library),
        "rounds": rounds,
        "core_time_pool_over_bare": ratios,
        "cores": usable_cores(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rdkit": rdkit.__version__,
    }
    print(f"{len(library)} molecules, median of {len(rounds)} rounds, RDKit {rdkit.__version__}")
    print(f"{'':32}{'core-ms/molecule':>18}{'molecules/s':>14}")
    for name in ways:
        core_ms = statistics.median(r[name]["core_ms_per_molecule"] for r in rounds)
        rate = statistics.median(r[name]["molecules_per_s"] for r in rounds)
        print(f"{name:32}{core_ms:18.2f}{rate:14.1f}")
    print(
        f"core time, pool over bare loop in as many processes: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
