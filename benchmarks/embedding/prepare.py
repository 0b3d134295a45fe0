"""What preparing a molecule for an embedder elsewhere costs on a core, by part: core-ms a molecule.

    python benchmarks/embedding/prepare.py [--library FILE] [--limit N] [--warm-up N] [--json FILE]

FILE is a Parquet file with a column `smiles`, or text with a SMILES a line. Parts are timed by the
CPU time of this process, each molecule running through all of them once, as in a screen; a part is
what is called there. "all" is `prepare_constraints` on the same molecules, "pool" the same in one
worker process, both processes counted, with what it costs to hand the results over. "first
geometry" is what undefined stereo costs after the embedding, a molecule that has some.
The first molecules only warm up what is remembered. `MolFromSmiles` is the unit in which machines
can be compared.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import rdkit
from rdkit import Chem, RDLogger, rdBase
from rdkit.Chem import rdDistGeom

from mlff_core.chem.check import check_domain
from mlff_core.chem.constrained import (
    SIDE_BY_SIDE,
    choose_stereo,
    on_a_core,
    prepare_constraints,
    prepare_together,
)
from mlff_core.chem.constrained import constraining as constrained
from mlff_core.chem.constraints import (
    EmbeddingConstraints,
    constraining,
    distance_bounds,
    rough_bounds,
)
from mlff_core.chem.describe import describe
from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.parse import parse
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import store_topology
from mlff_core.chem.stages import at_once
from mlff_core.chem.stereo import open_stereo
from mlff_core.chem.torsions import etkdg_parameters, torsion_terms
from mlff_core.status import MoleculeStatus

SETTINGS = ChemistrySettings()
#: First geometries made by RDKit for the judgement of undefined stereo.
N_GEOMETRIES = 100


def read_smiles(library: Path, n: int) -> list[str]:
    """The first SMILES of a library."""
    if library.suffix == ".parquet":
        batch = next(pq.ParquetFile(library).iter_batches(n, columns=["smiles"]))
        return batch["smiles"].to_pylist()
    lines = (line.split(maxsplit=1) for line in library.read_text().splitlines())
    return [words[0] for words in lines if words][:n]


class Clock:
    """CPU milliseconds of each part of each molecule."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)

    def time(self, part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a part and note what it took."""
        start = time.process_time_ns()
        result = work(*arguments)
        self.parts[part].append((time.process_time_ns() - start) / 1e6)
        return result


def time_parts(smiles: str, clock: Clock) -> None:
    """One molecule through all parts."""
    clock.time("MolFromSmiles", Chem.MolFromSmiles, smiles)
    mol = clock.time("parse", parse, smiles, SETTINGS)
    text = clock.time("canonical SMILES", Chem.MolToSmiles, mol)
    if text != smiles:
        mol = clock.time("second parse", Chem.MolFromSmiles, text)
    graph = clock.time("graph", Graph, mol)
    molecule = PreparedMolecule(0, None, smiles, text, n_atoms=mol.GetNumAtoms(onlyExplicit=False))
    molecule.n_heavy_atoms = mol.GetNumHeavyAtoms()
    clock.time("descriptors", describe, molecule, graph)
    clock.time("domain", check_domain, molecule, graph, SETTINGS, [])
    hydrogenated = clock.time("hydrogens", Chem.AddHs, mol)
    graph = clock.time("graph of hydrogens", graph.with_hydrogens, hydrogenated)
    clock.time("undefined stereo", open_stereo, graph)
    clock.time("InChIKey", Chem.MolToInchiKey, mol)
    clock.time("topology and mapped SMILES", store_topology, molecule, graph)
    clock.time("bounds", rough_bounds, graph)
    clock.time("bounds, smoothed", distance_bounds, graph)
    clock.time("torsions", torsion_terms, graph)
    clock.time("RDKit's torsions", rdDistGeom.GetExperimentalTorsions, hydrogenated, PARAMETERS)
    constraints = clock.time("constraints", rough_constraints, hydrogenated, graph)
    data = clock.time("to bytes", pickle.dumps, constraints, pickle.HIGHEST_PROTOCOL)
    clock.time("from bytes", pickle.loads, data)


def rough_constraints(mol: Chem.Mol, graph: Graph) -> EmbeddingConstraints:
    """As they are made for a device, which smooths the bounds."""
    return at_once(constraining(mol, graph, smooth=False))


PARAMETERS = etkdg_parameters()
#: Parts that are in others, or only there to compare with.
INSIDE_OTHERS = (
    "MolFromSmiles", "bounds", "bounds, smoothed", "torsions", "RDKit's torsions",
)  # fmt: skip


def time_pool(library: list[str], n_warm_up: int) -> float:
    """Core-ms a molecule of a pool of one process, this one counted."""
    records = [(k, None, smiles) for k, smiles in enumerate(library)]
    with EmbeddingPool(SETTINGS, 1, prepare=on_a_core) as pool:
        for _ in constrained(records[:n_warm_up], pool):
            pass
        start = core_seconds()
        molecules = constrained(records[n_warm_up:], pool)
        n = sum(molecule.constraints is not None for molecule in molecules)
        return (core_seconds() - start) * 1e3 / n


def core_seconds() -> float:
    """CPU time so far of this process and of its children that live."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def time_first_geometries(library: list[str], clock: Clock) -> float:
    """Judge first geometries; returns the share of molecules that have to be judged."""
    n_undefined = 0
    molecules = [prepare_constraints(0, None, smiles, SETTINGS) for smiles in library]
    for molecule in molecules:
        if molecule.status != MoleculeStatus.OK or not molecule.undefined_stereo:
            continue
        n_undefined += 1
        if n_undefined > N_GEOMETRIES:
            continue
        mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
        if rdDistGeom.EmbedMolecule(mol, randomSeed=7) < 0:
            continue
        positions = mol.GetConformer().GetPositions().astype(np.float32)
        clock.time("first geometry", choose_stereo, molecule, positions)
    return n_undefined / len(molecules)


def main() -> None:
    """Time everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000, help="molecules that are timed")
    parser.add_argument("--warm-up", type=int, default=1000, help="molecules before these")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    library = [
        smiles
        for smiles in read_smiles(arguments.library, arguments.warm_up + arguments.limit)
        if "." not in smiles
        and prepare_constraints(0, None, smiles, SETTINGS).constraints is not None
    ]
    timed = library[-arguments.limit :]
    clock = Clock()
    with rdBase.BlockLogs():
        for smiles in timed:
            time_parts(smiles, clock)
    for smiles in timed:
        clock.time("all, one by one", prepare_constraints, 0, None, smiles, SETTINGS)
    records = [(k, None, smiles) for k, smiles in enumerate(timed)]
    for k in range(0, len(records), SIDE_BY_SIDE):
        some = records[k : k + SIDE_BY_SIDE]
        clock.time("all", prepare_together, some, SETTINGS)
        clock.parts["all"][-1:] = [clock.parts["all"][-1] / len(some)] * len(some)
    share = time_first_geometries(timed, clock)
    pool = time_pool(library, len(library) - len(timed))
    report = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "rdkit": rdkit.__version__,
        "load_of_each_core": os.getloadavg()[0] / (os.cpu_count() or 1),
        "library": arguments.library.name,
        "n_molecules": len(timed),
        "n_atoms_mean": statistics.mean(
            Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms() for smiles in timed
        ),
        "core_ms": {
            part: {"median": statistics.median(times), "mean": sum(times) / len(timed)}
            for part, times in clock.parts.items()
            if part != "first geometry"
        },
        "core_ms_first_geometry": statistics.mean(clock.parts["first geometry"]),
        "share_with_undefined_stereo": share,
        "core_ms_pool": pool,
    }
    print(
        f"{len(timed)} molecules, {report['n_atoms_mean']:.1f} atoms; core-ms a molecule, "
        f"{report['load_of_each_core']:.1f} processes on each core"
    )
    for part, numbers in report["core_ms"].items():
        note = "" if part not in INSIDE_OTHERS else "  (in another part, or to compare with)"
        print(f"{part:28s} median {numbers['median']:7.3f}  mean {numbers['mean']:7.3f}{note}")
    print(f"{'pool of one process':28s} {'':14s}  mean {pool:7.3f}")
    print(
        f"{'first geometry':28s} {'':14s}  mean {report['core_ms_first_geometry']:7.3f}"
        f"  a molecule with undefined stereo, {share:.0%} of all"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
