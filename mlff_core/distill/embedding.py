"""SMILES to RDKit conformers, in processes that run beside the GPU. Imports no torch.

ETKDGv3 in the processes of a screen's pool: whatever becomes of one of them, each molecule comes
out, in the order given, or is counted with its reason. SF5, PF6- and their kind get the bounds that
a screen gives them: from RDKit's own they fly apart, with the teacher as well.
"""

import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.hypervalent import hypervalent_bounds
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.seen import charged_groups
from mlff_core.distill.molecules import quiet_rdkit

#: Å between the nearest atoms of two parts of a record, the least and the most (`placed_apart`).
APART: Final = (4.0, 14.0)
#: Molecules that may wait to be taken; embedding waits when nobody takes them.
_MOST_READY: Final = 4096
#: Seconds beyond RDKit's own limit after which a process is killed.
_GRACE_S: Final = 50.0
#: Seconds between two looks at whether anybody still wants molecules.
_LOOK_S: Final = 0.1


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
        ionic: Whether it has a charge, or charged groups that make up for each other.
        both_signs: Whether it has charged groups of both signs; of a record of two parts, one of
            these: ions that are placed apart have nothing to fold.
    """

    index: int
    numbers: np.ndarray
    charge: int
    positions: np.ndarray
    axis: tuple[int, int]
    side: np.ndarray
    bonds: np.ndarray
    ionic: bool
    both_signs: bool = False


def embed(smiles: str, index: int, n_conformers: int, seed: int, timeout_s: int) -> Embedded | str:
    """Conformers of a molecule by ETKDGv3, or the reason why there are none.

    Where RDKit finds fewer conformers than asked for, they are repeated. A record of two parts, two
    ions for one, has them apart by another distance in each conformer.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return "invalid_smiles"
    mol = Chem.AddHs(mol)
    parameters: Any = rdDistGeom.ETKDGv3()  # the stubs type its settings as methods of itself
    parameters.randomSeed = (seed + 7919 * index) % 2**31
    parameters.timeout = timeout_s
    parameters.maxIterations = 100
    bounds = hypervalent_bounds(mol)
    if bounds is not None:
        parameters.SetBoundsMat(bounds)
    rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters)
    # Not the ids that it returns: after a timeout they name conformers that are not there.
    positions = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    if len(positions) == 0:
        return "embedding_failed"
    if not np.isfinite(positions).all():
        return "embedding_not_finite"
    repeated = positions[np.arange(n_conformers) % len(positions)]
    rng = np.random.default_rng((seed, index))
    axis, side = rotatable_bond(mol, rng)
    parts, groups = Chem.GetMolFrags(mol), charged_groups(mol)
    if len(parts) > 1:
        repeated = np.stack([placed_apart(x, parts, rng) for x in repeated])
    return Embedded(
        index=index,
        numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.uint8),
        charge=Chem.GetFormalCharge(mol),
        positions=repeated.astype(np.float32),
        axis=axis,
        side=side,
        bonds=np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))).astype(np.int16),
        ionic=Chem.GetFormalCharge(mol) != 0 or any(groups),
        both_signs=all(groups)
        and any(all(charged_groups(part)) for part in Chem.GetMolFrags(mol, asMols=True)),
    )


def placed_apart(
    positions: np.ndarray, parts: Sequence[Sequence[int]], rng: np.random.Generator
) -> np.ndarray:
    """Parts of a record next to each other, turned at random, their nearest atoms `APART`.

    Beyond the cutoff of a force field nothing but charges tells one part of the other, so this is
    where they are learnt by themselves.

    Args:
        positions: Å [n_atoms, 3].
        parts: The atoms of each part; the first stays, each other one is placed.
        rng: Of the distances, the directions and the turns.
    """
    placed = positions - positions[list(parts[0])].mean(0)
    fixed = list(parts[0])
    for part in map(list, parts[1:]):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turn *= np.linalg.det(turn)  # a rotation: mirrored, it would be another molecule
        own = (positions[part] - positions[part].mean(0)) @ turn.T
        along = rng.normal(size=3)
        along /= np.linalg.norm(along)
        wanted = rng.uniform(*APART)
        # The nearest pair is another one as the part comes closer: from far away until it fits.
        between = (own[:, None] - placed[fixed][None]).reshape(-1, 3)
        aside = between @ along
        across = np.square(between).sum(1) - aside**2
        # The farthest shift at which any pair is as near as wanted.
        reach = np.sqrt(np.maximum(wanted**2 - across, 0.0)) - aside
        shift = np.max(reach[across < wanted**2], initial=0.0)
        placed[part] = own + shift * along
        fixed += part
    return placed


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


@dataclass
class _Prepared(PreparedMolecule):
    """What a process of the pool answers: conformers, or the reason why there are none."""

    embedded: Embedded | None = None
    failure: str | None = None


def prepare_embedded(
    record: int, input_id: str | None, smiles: str, settings: ChemistrySettings
) -> _Prepared:
    """As `mlff_core.chem.prepare.prepare`, but `embed` alone."""
    answer = _Prepared(record, input_id, smiles)
    quiet_rdkit()
    try:
        result = embed(
            smiles, record, settings.most_conformers, settings.seed, settings.embed_timeout_s
        )
    except Exception as error:  # whatever one molecule does, the others go on
        result = f"internal_error: {error!r}"
    if isinstance(result, str):
        answer.failure = result
    else:
        answer.embedded = result
    return answer


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
        settings = ChemistrySettings(
            n_conformers=n_conformers,
            seed=seed,
            embed_timeout_s=timeout_s,
            hard_timeout_s=timeout_s + _GRACE_S,
        )
        self.failed: Counter[str] = Counter()
        self.n_embedded = 0
        self._running = True
        self._closed = threading.Event()
        self._pool = EmbeddingPool(
            settings, min(n_processes, max(1, len(smiles))), prepare=prepare_embedded
        )
        self._ready: queue.Queue[PreparedMolecule | RuntimeError | None] = queue.Queue(_MOST_READY)
        self._thread = threading.Thread(target=self._collect, args=(list(smiles),), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self._running

    def take(self, wait_s: float = 0.0) -> list[Embedded]:
        """What is ready; waits up to `wait_s` seconds for the first.

        Raises:
            RuntimeError: No process could be started.
        """
        ready: list[Embedded] = []
        while self._running:
            try:
                item = self._ready.get(timeout=wait_s) if wait_s else self._ready.get_nowait()
            except queue.Empty:
                break
            wait_s = 0.0
            if item is None:
                self._running = False
            elif isinstance(item, RuntimeError):
                self._running = False
                raise item
            elif isinstance(item, _Prepared) and item.embedded is not None:
                ready.append(item.embedded)
            else:
                failure = item.failure if isinstance(item, _Prepared) else None
                self.failed[failure or str(item.reason)] += 1
        self.n_embedded += len(ready)
        return ready

    def close(self) -> None:
        """Stop the processes."""
        self._closed.set()
        self._pool.close()
        self._thread.join()

    def _collect(self, smiles: list[str]) -> None:
        """Hand on what the pool prepares, until all is there or nobody wants it."""
        end: RuntimeError | None = None
        try:
            for answer in self._pool.map((k, None, text) for k, text in enumerate(smiles)):
                if not self._put(answer):
                    return
        except RuntimeError as error:  # closed, or no process could be started
            end = error
        self._put(end)

    def _put(self, item: PreparedMolecule | RuntimeError | None) -> bool:
        """Wait for room; False if nobody wants it any more."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False
