"""Make conformers.npz: conformers of held-out molecules, and what other methods say of them.

    pip install tblite
    python benchmarks/make_conformers.py --teacher FILE --held-out FILE [--out FILE] [--processes N]

The first molecules of the table that MMFF94 has parameters for, of 20 to 60 atoms and with at least
three rotatable bonds, a quarter of them charged. Of each, up to eight conformers that differ by
0.5 Å over the heavy atoms: ETKDGv3, relaxed by MMFF94 (`start`), then by one member of the teacher
(`positions`), so that they stand at minima of a surface of DFT quality. Energies there, in eV: the
teacher's mean of four, GFN2-xTB by tblite, MMFF94; and MMFF94's at its own minimum next to each.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign, rdMolDescriptors

from mlff_core.batch import MolBatch
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.moves.relax import relax
from mlff_core.units import BOHR_ANGSTROM, EV_KCAL_MOL, HARTREE_EV

N_NEUTRAL, N_CHARGED, N_CONFORMERS = 60, 20, 8
MIN_RMSD, FMAX, MAX_STEPS = 0.5, 0.05, 100


def suits(smiles: str) -> bool:
    """Whether a molecule is of a size that conformers are asked of, and MMFF94 knows it."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    return (
        20 <= mol.GetNumAtoms() <= 60
        and rdMolDescriptors.CalcNumRotatableBonds(mol) >= 3
        and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol)
    )


def distinct_conformers(smiles: str) -> Chem.Mol:
    """The molecule with conformers relaxed by MMFF94, none within MIN_RMSD of an earlier one.

    In the order in which they were embedded: the lowest by MMFF94 would be a choice against it,
    as they differ little in its eyes.
    """
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 7
    rdDistGeom.EmbedMultipleConfs(mol, 3 * N_CONFORMERS, parameters)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    embedded = [conformer.GetId() for conformer in mol.GetConformers()]
    heavy = Chem.RemoveHs(mol)
    kept: list[int] = []
    for k in embedded:
        if len(kept) < N_CONFORMERS and all(
            rdMolAlign.GetBestRMS(Chem.Mol(heavy), heavy, k, other, maxMatches=1000) > MIN_RMSD
            for other in kept
        ):
            kept.append(k)
    for k in set(embedded) - set(kept):
        mol.RemoveConformer(k)
    return mol


def relaxed_by_teacher(teacher: Teacher, numbers: np.ndarray, x: np.ndarray, q: int) -> np.ndarray:
    """Minima of one member [n_conformers, n_atoms, 3], or where it is after MAX_STEPS."""
    member = TeacherForceField(partial(teacher.member, 0), teacher.device)
    batch = MolBatch.from_arrays([(numbers, y, q) for y in x])
    ended = relax(batch, member, fmax=FMAX, max_steps=MAX_STEPS).batch.positions
    return ended.view(len(x), -1, 3).numpy()


def mmff_energies(mol: Chem.Mol) -> tuple[list[float], list[float]]:
    """Of every conformer as it is, and at the minimum of MMFF94 next to it, in eV."""
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    here, relaxed = [], []
    for conformer in mol.GetConformers():
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, properties, confId=conformer.GetId()
        )
        here.append(field.CalcEnergy() / EV_KCAL_MOL)
        field.Minimize(maxIts=5000)
        relaxed.append(field.CalcEnergy() / EV_KCAL_MOL)
    return here, relaxed


def gfn2_energies(numbers: np.ndarray, x: np.ndarray, charge: int) -> list[float]:
    """GFN2-xTB energies of every conformer in eV."""
    from tblite.interface import Calculator

    energies = []
    for y in x:
        calculator = Calculator("GFN2-xTB", numbers, y / BOHR_ANGSTROM, charge=charge)
        calculator.set("verbosity", 0)
        energies.append(float(calculator.singlepoint().get("energy")) * HARTREE_EV)
    return energies


def measure(smiles: str, teacher_file: Path) -> dict[str, np.ndarray]:
    """Conformers of one molecule and their energies."""
    torch.set_num_threads(1)
    rdBase.DisableLog("rdApp.*")
    teacher = Teacher(teacher_file, "cpu")
    mol = distinct_conformers(smiles)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charge = Chem.GetFormalCharge(mol)
    start = np.array([conformer.GetPositions() for conformer in mol.GetConformers()], np.float32)
    x = relaxed_by_teacher(teacher, numbers, start, charge)
    for conformer, y in zip(mol.GetConformers(), x, strict=True):
        conformer.SetPositions(y.astype(np.float64))
    label = teacher(
        torch.from_numpy(numbers).expand(len(x), -1),
        torch.from_numpy(x),
        torch.full((len(x),), charge),
    )
    mmff94, mmff94_relaxed = mmff_energies(mol)
    return {
        "numbers": numbers.astype(np.uint8),
        "start": start,
        "positions": x.astype(np.float32),
        "charge": np.array(charge),
        "teacher": label.energy.numpy(),
        "gfn2": np.array(gfn2_energies(numbers, x.astype(np.float64), charge)),
        "mmff94": np.array(mmff94),
        "mmff94_relaxed": np.array(mmff94_relaxed),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("conformers.npz"))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    rdBase.DisableLog("rdApp.*")
    table = pq.read_table(arguments.held_out, columns=["smiles", "charge"]).to_pylist()
    chosen: list[str] = []
    for wanted, charged in ((N_NEUTRAL, False), (N_CHARGED, True)):
        suitable = (r["smiles"] for r in table if bool(r["charge"]) == charged)
        chosen += [s for s, _ in zip(filter(suits, suitable), range(wanted), strict=False)]
    arrays: dict[str, np.ndarray] = {}
    kept: list[str] = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        results = pool.map(measure, chosen, [arguments.teacher] * len(chosen))
        for smiles, result in zip(chosen, results, strict=True):
            print(smiles, len(result["teacher"]), file=sys.stderr, flush=True)
            if len(result["teacher"]) >= 3:  # fewer have nothing to rank
                arrays |= {f"{len(kept)}/{name}": value for name, value in result.items()}
                kept.append(smiles)
    about = {"smiles": kept, "teacher_sha256": Teacher(arguments.teacher, "cpu").sha256}
    np.savez_compressed(arguments.out, about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    main()
