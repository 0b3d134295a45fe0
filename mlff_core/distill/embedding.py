"""SMILES to RDKit conformers, in processes that run beside the GPU. Imports no torch.

Each process strides through the same list and puts what it made on one queue, so that the order of
the molecules depends on timing, but which molecules are made does not.
"""

import json
import multiprocessing as mp
import queue
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.distill.molecules import quiet_rdkit
from mlff_core.interrupts import interrupts_kept_from_children


@dataclass(frozen=True)
class Embedded:
    """A molecule with its conformers.

    Attributes:
        index: Place of the molecule in the list that was given.
        numbers: Atomic numbers, uint8 [n_atoms].
        charge: Total charge in e.
        positions: Å, float32 [n_conformers, n_atoms, 3].
        axis: Two atoms of a rotatable bond picked at random; the same atom twice if there is none.
        side: Atoms on the second atom's side of that bond, bool [n_atoms].
        bonds: Bonded pairs of the SMILES, int16 [n_bonds, 2].
    """

    index: int
    numbers: np.ndarray
    charge: int
    positions: np.ndarray
    axis: tuple[int, int]
    side: np.ndarray
    bonds: np.ndarray


def embed(smiles: str, index: int, n_conformers: int, seed: int, timeout_s: int) -> Embedded | str:
    """Conformers of a molecule by ETKDGv3, or the reason why there are none.

    Where RDKit finds fewer conformers than asked for, they are repeated.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return "invalid_smiles"
    mol = Chem.AddHs(mol)
    parameters: Any = rdDistGeom.ETKDGv3()  # the stubs type its settings as methods of itself
    parameters.randomSeed = (seed + 7919 * index) % 2**31
    parameters.timeout = timeout_s
    parameters.maxIterations = 100
    rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters)
    # Not the ids that it returns: after a timeout they name conformers that are not there.
    positions = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    if len(positions) == 0:
        return "embedding_failed"
    if not np.isfinite(positions).all():
        return "embedding_not_finite"
    repeated = positions[np.arange(n_conformers) % len(positions)]
    axis, side = rotatable_bond(mol, np.random.default_rng((seed, index)))
    return Embedded(
        index=index,
        numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.uint8),
        charge=Chem.GetFormalCharge(mol),
        positions=repeated.astype(np.float32),
        axis=axis,
        side=side,
        bonds=np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))).astype(np.int16),
    )


def rotatable_bond(mol: Chem.Mol, rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray]:
    """A random single bond outside rings between atoms that have other neighbours, and one side."""
    side = np.zeros(mol.GetNumAtoms(), dtype=bool)
    bonds = [
        bond
        for bond in mol.GetBonds()
        if bond.GetBondType() == Chem.BondType.SINGLE
        and not bond.IsInRing()
        and bond.GetBeginAtom().GetDegree() > 1
        and bond.GetEndAtom().GetDegree() > 1
    ]
    if not bonds:
        return (0, 0), side
    bond = bonds[rng.integers(len(bonds))]
    first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    side[second] = True
    grown = [second]
    while grown:
        for neighbour in mol.GetAtomWithIdx(grown.pop()).GetNeighbors():
            at = neighbour.GetIdx()
            if at != first and not side[at]:
                side[at] = True
                grown.append(at)
    return (first, second), side


def _work(
    file: Path,
    first: int,
    every: int,
    n_conformers: int,
    seed: int,
    timeout_s: int,
    out: Queue,
    stop: Event,
) -> None:
    quiet_rdkit()
    made: list[Embedded] = []
    failed: Counter[str] = Counter()
    molecules = json.loads(file.read_text(encoding="utf-8"))
    for index in range(first, len(molecules), every):
        if stop.is_set():
            break
        smiles = molecules[index]
        try:
            result = embed(smiles, index, n_conformers, seed, timeout_s)
        except Exception as error:  # whatever one molecule does, the others go on
            result = f"internal_error: {error!r}"
        if isinstance(result, str):
            failed[result] += 1
        else:
            made.append(result)
        if len(made) + failed.total() >= 16:
            out.put((made, failed))
            made, failed = [], Counter()
    out.put((made, failed))
    out.put(None)


class Embedder:
    """Processes that embed a list of molecules.

    Attributes:
        failed: How many molecules failed, by reason, so far.
        n_embedded: How many molecules came out so far.
    """

    def __init__(
        self,
        smiles: Sequence[str],
        *,
        n_conformers: int,
        seed: int,
        n_processes: int,
        timeout_s: int = 10,
    ):
        """Start embedding."""
        context = mp.get_context("spawn")
        # By a file: who sends a long list to a new process waits until that has come to read it, so
        # that the processes would start one after the other.
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "smiles.json"
        file.write_text(json.dumps(list(smiles)), encoding="utf-8")
        n_processes = min(n_processes, max(1, len(smiles)))
        self.failed: Counter[str] = Counter()
        self.n_embedded = 0
        self._stop = context.Event()
        # Bounded, so that embedding waits when nobody reads.
        self._queue: Queue = context.Queue(maxsize=256)
        self._processes = [
            context.Process(
                target=_work,
                args=(
                    file,
                    k,
                    n_processes,
                    n_conformers,
                    seed,
                    timeout_s,
                    self._queue,
                    self._stop,
                ),
                daemon=True,
            )
            for k in range(n_processes)
        ]
        self._running = n_processes
        with interrupts_kept_from_children():
            for process in self._processes:
                process.start()

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self._running > 0

    def take(self, wait_s: float = 0.0) -> list[Embedded]:
        """What is ready; waits up to `wait_s` seconds for the first."""
        ready: list[Embedded] = []
        while self.running:
            try:
                item = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
            except queue.Empty:
                if self._running and not any(p.is_alive() for p in self._processes):
                    # A process that was killed never says goodbye.
                    self._running = 0
                break
            wait_s = 0.0
            if item is None:
                self._running -= 1
                continue
            made, failed = item
            ready += made
            self.failed += failed
        self.n_embedded += len(ready)
        return ready

    def close(self) -> None:
        """Stop the processes."""
        self._stop.set()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._folder.cleanup()
