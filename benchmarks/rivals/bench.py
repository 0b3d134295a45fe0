"""What every way is given, and what it answers."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from benchmarks.accuracy.ranking import CONFORMERS, about, ranking, stored
from mlff_core.moves.settings import RelaxSettings

FMAX, MAX_STEPS = 0.05, 300
SETTINGS = RelaxSettings(fmax=FMAX, max_steps=MAX_STEPS)
Conformer = tuple[np.ndarray, np.ndarray, int]
T = TypeVar("T")


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


#: What a process tries first.
WATER = Start(
    "O", np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]]), 0
)


class Row(NamedTuple):
    """How a way did.

    Attributes:
        n: Conformers relaxed.
        asked: Of so many; more than `n` where time was over.
        seconds: It took.
        converged: Share that ended as the way asks.
        mae: Of conformers' energies, kcal/mol; None where nothing says.
    """

    n: int
    asked: int
    seconds: float
    converged: float
    mae: float | None


class Bench(NamedTuple):
    """What a way is given.

    Attributes:
        starts: What to relax.
        seconds: It ends after so many, with those that have ended until then.
        device: Of the models.
        teacher: File of the ensemble; None for none.
    """

    starts: list[Start]
    seconds: float
    device: torch.device
    teacher: Path | None


class Way(NamedTuple):
    """How to relax conformers, and how many.

    Attributes:
        run: How.
        n: So many that it is as fast as it can be, and ends.
        seconds: For which it may relax.
    """

    run: Callable[[Bench], Row]
    n: int
    seconds: float


def taken(ends: Iterable[T], seconds: float) -> tuple[list[T], float]:
    """What comes in so many seconds or little more, and how many it took."""
    begin, found = time.perf_counter(), []
    for end in ends:
        found.append(end)
        if time.perf_counter() - begin > seconds:
            break
    return found, time.perf_counter() - begin


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
    with workers(processes, embed, "O") as pool:
        embedded = pool.map(embed, smiles, chunksize=1)
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


@contextmanager
def workers(processes: int, function: Callable[[Any], object], first: object) -> Iterator[Pool]:
    """Processes that know nothing of the card, each with one core, which have tried a function."""
    context = get_context("spawn")
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, _begin, (function, first, ready)) as pool:
        ready.wait(120.0)
        yield pool


def _begin(function: Callable[[Any], object], first: object, ready: Barrier) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        function(first)
    except BaseException:
        ready.abort()
        raise
    ready.wait()
