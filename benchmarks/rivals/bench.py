"""What every way is given, and what it answers."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from benchmarks.accuracy.ranking import CONFORMERS, about, ranking, stored
from mlff_core.moves.settings import RelaxSettings

FMAX, MAX_STEPS = 0.05, 300
SETTINGS = RelaxSettings(fmax=FMAX, max_steps=MAX_STEPS)
Conformer = tuple[np.ndarray, np.ndarray, int]


class Start(NamedTuple):
    """A conformer to relax.

    Attributes:
        smiles: What it is of.
        numbers: Atomic numbers [n_atoms].
        positions: Å [n_atoms, 3].
        charge: Total, in e.
    """

    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    charge: int


class Row(NamedTuple):
    """How a way did.

    Attributes:
        n: Conformers relaxed.
        seconds: For all of them.
        converged: Share that ended as the way asks.
        mae: Of conformers' energies, kcal/mol; None where nothing says.
    """

    n: int
    seconds: float
    converged: float
    mae: float | None


class Bench(NamedTuple):
    """What every way is given.

    Attributes:
        starts: As many conformers as are wanted.
        few: How many a slow way gets.
        device: Of the models.
        teacher: File of the ensemble; None for none.
    """

    starts: list[Start]
    few: int
    device: torch.device
    teacher: Path | None


def embed(smiles: str) -> Chem.Mol:
    """The molecule with up to eight conformers, as ETKDGv3 leaves them."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 7
    rdDistGeom.EmbedMultipleConfs(mol, 8, parameters)
    return mol


def starts_of(n: int, processes: int) -> list[Start]:
    """So many conformers of the molecules of conformers.npz, no two alike."""
    smiles = about(CONFORMERS)["smiles"]
    with pool(processes) as executor:
        embedded = list(executor.map(embed, smiles, chunksize=2))
    found = [
        Start(text, numbers, conformer.GetPositions(), Chem.GetFormalCharge(mol))
        for text, mol in zip(smiles, embedded, strict=True)
        for numbers in [np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int64)]
        for conformer in mol.GetConformers()
    ]
    # Mixed, so that the first few are as the rest.
    rng = np.random.default_rng(7)
    order = rng.permutation(len(found))
    many = []
    for k in range(n):
        start = found[order[k % len(found)]]
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        x = start.positions @ (turn * np.linalg.det(turn))
        many.append(start._replace(positions=x + rng.normal(scale=0.02, size=x.shape)))
    return many


def stored_mae(method: str) -> float:
    """Mean error of conformers' energies within a molecule by a method of conformers.npz.

    kcal/mol, a mean over the molecules.
    """
    return float(np.mean([ranking(m[method], m["teacher"])["mae"] for m in stored(CONFORMERS)]))


def pool(processes: int) -> ProcessPoolExecutor:
    """Processes that know nothing of the card."""
    return ProcessPoolExecutor(processes, get_context("spawn"), initializer=one_thread)


def one_thread() -> None:
    """Each of many processes computes on one core."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
