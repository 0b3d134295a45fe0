"""Other people's programs: force fields and semiempirical methods, on cores or a card."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from benchmarks.rivals.bench import (
    FMAX,
    MAX_STEPS,
    WATER,
    Bench,
    Row,
    Start,
    stored_mae,
    taken,
    workers,
)
from mlff_core.cores import usable_cores
from mlff_core.units import BOHR_ANGSTROM, HARTREE_EV

#: Of MMFF94, which stops by its own threshold.
MMFF_STEPS = 2000


def with_coordinates(start: Start) -> Chem.Mol:
    """The molecule with the start as its only conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(start.smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(start.positions, np.float64))
    mol.AddConformer(conformer, assignId=True)
    return mol


def mmff_of(start: Start) -> bool:
    """Relax by RDKit's MMFF94; whether it has converged."""
    return (
        rdForceFieldHelpers.MMFFOptimizeMolecule(with_coordinates(start), "MMFF94", MMFF_STEPS) == 0
    )


def gfn2_of(start: Start) -> bool:
    """Relax by tblite's GFN2-xTB and ASE's LBFGS; whether it has converged."""
    from ase import Atoms
    from ase.optimize import LBFGS
    from tblite.ase import TBLite

    atoms = Atoms(start.numbers, start.positions)
    atoms.calc = TBLite(method="GFN2-xTB", charge=start.charge, verbosity=0)
    return bool(LBFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS))


def on_cores(function: Callable[[Start], bool], module: str, method: str) -> Callable[[Bench], Row]:
    """A function of one conformer in a process a core."""

    def row(bench: Bench) -> Row:
        import_module(module)
        with workers(usable_cores(), function, WATER) as pool:
            ended, seconds = taken(pool.imap_unordered(function, bench.starts), bench.seconds)
        n, converged = len(ended), float(np.mean(ended))
        return Row(n, len(bench.starts), seconds, converged, stored_mae(method))

    return row


def xtbloom(backend: str) -> Callable[[Bench], Row]:
    """xTBloom's batched GFN2-xTB with its own L-BFGS."""

    def row(bench: Bench) -> Row:
        found = import_module("xtbloom")
        limit = FMAX / HARTREE_EV * BOHR_ANGSTROM

        def structures(starts: list[Start]) -> list[Any]:
            return [
                found.Structure(s.numbers, s.positions / BOHR_ANGSTROM, charge=s.charge)
                for s in starts
            ]

        how = {"backend": backend, "cpu_threads": usable_cores()}
        found.optimize_batch(structures(bench.starts[:1]), fmax=limit, max_steps=2, **how)
        begin = time.perf_counter()
        ended = found.optimize_batch(
            structures(bench.starts), fmax=limit, max_steps=MAX_STEPS, **how
        )
        seconds = time.perf_counter() - begin
        n = len(bench.starts)
        return Row(n, n, seconds, float(np.mean(ended.converged)), stored_mae("gfn2"))

    return row


def nvmolkit(bench: Bench) -> Row:
    """nvMolKit's MMFF94 on the card."""
    optimize = import_module("nvmolkit.mmffOptimization").MMFFOptimizeMoleculesConfs
    mols = [with_coordinates(start) for start in bench.starts]
    optimize([Chem.Mol(mol) for mol in mols[:64]], maxIters=MMFF_STEPS)
    begin = time.perf_counter()
    optimize(mols, maxIters=MMFF_STEPS)
    n, seconds = len(mols), time.perf_counter() - begin
    return Row(n, n, seconds, float("nan"), stored_mae("mmff94_relaxed"))
