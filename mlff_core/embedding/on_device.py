"""Records -> molecules with conformers, embedded on a device: the cores prepare and judge.

Each record is prepared on a core, embedded on the device among thousands of others, and judged: a
conformer that does not have the stereo that was given is no conformer. What the device cannot
embed is a straggler: RDKit embeds it on a core, beside the others, and its message says so.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mlff_core.chem.constrained import TOGETHER, ConstrainedMolecule, CoreStep, constraining
from mlff_core.chem.molecule import PreparedMolecule, n_records
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.variant import Variant
from mlff_core.embedding.prepared import embed_prepared
from mlff_core.status import MoleculeStatus

T = TypeVar("T")

#: Conformers that are embedded at once: enough to fill a card, few enough to begin while the cores
#: prepare the next; five of each molecule of a slice, see `tasks.processes`.
CONFORMERS_AT_ONCE: Final = 12_500

#: Two shards of a run may be embedded at once; they would share the device's memory.
_DEVICE: Final = threading.Lock()


@dataclass(frozen=True)
class Straggler:
    """A molecule that the device could not embed: RDKit may, in seconds instead of milliseconds.

    Attributes:
        record: Position in the library.
        input_id: Identifier in the library.
        source: SMILES as the library has it, or a variant of that.
        why: What was wrong with its geometries on the device.
    """

    record: int
    input_id: str | None
    source: str | Variant
    why: str


@dataclass
class DeviceEmbedding:
    """What came of some records.

    Attributes:
        molecules: One a record, in their order.
        device_s: Seconds in which the device embedded, the cores' choices of stereo included.
        n_by_rdkit: Molecules among them that RDKit embedded in the end.
    """

    molecules: list[PreparedMolecule] = field(default_factory=list)
    device_s: float = 0.0
    n_by_rdkit: int = 0


def embed_on_device(
    records: Iterable[tuple[int, str | None, str | Variant]],
    pool: EmbeddingPool,
    device: torch.device | str,
    progress: Callable[[int], None] | None = None,
    *,
    stragglers: list[Straggler] | None = None,
) -> DeviceEmbedding:
    """Prepare and embed records.

    Args:
        records: Position in the library, identifier and SMILES of each; or a variant of that.
        pool, device, progress, stragglers: See `embed_constrained`.
    """
    prepared = constraining(records, pool)
    return embed_constrained(prepared, pool, device, progress, stragglers=stragglers)


def embed_constrained(
    prepared: Iterator[PreparedMolecule],
    pool: EmbeddingPool,
    device: torch.device | str,
    progress: Callable[[int], None] | None = None,
    *,
    stragglers: list[Straggler] | None = None,
) -> DeviceEmbedding:
    """Embed what the cores prepare.

    Args:
        prepared: From `constraining`.
        pool: Its processes run `constrained.on_a_core`; its settings say what is accepted and how
            many conformers are wanted.
        device: Where conformers are embedded.
        progress: Called with the number of records that are done.
        stragglers: What the device cannot embed is left out of the molecules and added here, for
            `resort_to_rdkit`; None to wait for that.
    """
    done = DeviceEmbedding()
    for chunk in _chunks(prepared, max(1, CONFORMERS_AT_ONCE // pool.settings.most_conformers)):
        began = time.monotonic()
        left = _embed(chunk, pool, torch.device(device))
        done.device_s += time.monotonic() - began
        if pool.settings.most_conformers > 1:
            _finish(chunk, pool)
        late = {place: _straggler(chunk[place], why) for place, why in left.items()}
        if stragglers is None:
            resorted = resort_to_rdkit(list(late.values()), pool)
            for place, molecule in zip(late, resorted, strict=True):
                chunk[place] = molecule
            done.molecules += chunk
            done.n_by_rdkit += len(late)
        else:
            done.molecules += [m for place, m in enumerate(chunk) if place not in late]
            stragglers += late.values()
        if progress is not None:
            progress(n_records(done.molecules))
    return done


def _straggler(molecule: PreparedMolecule, why: str) -> Straggler:
    return Straggler(molecule.record, molecule.input_id, molecule.source, why)


def resort_to_rdkit(
    stragglers: Sequence[Straggler], pool: EmbeddingPool
) -> Iterator[PreparedMolecule]:
    """Let RDKit embed what the device did not; one molecule each, in their order.

    Args:
        stragglers: From `embed_on_device`.
        pool: Its processes run `constrained.on_a_core`.
    """
    jobs = ((s.record, s.input_id, s.source, CoreStep.EMBED, None, None) for s in stragglers)
    for straggler, molecule in zip(stragglers, pool.map(jobs), strict=True):
        if molecule.status == MoleculeStatus.OK:
            note = f"embedded by RDKit: on the device {straggler.why}"
            molecule.message = f"{molecule.message}; {note}" if molecule.message else note
        yield molecule


def _embed(
    chunk: list[PreparedMolecule], pool: EmbeddingPool, device: torch.device
) -> dict[int, str]:
    """Embed a chunk in place; returns why the device embedded a molecule in no way, by place."""

    def choose(
        pairs: Sequence[tuple[ConstrainedMolecule, NDArray[np.float32]]],
    ) -> list[ConstrainedMolecule | None]:
        for molecule, _ in pairs:
            if molecule.wanted == 1:  # it has its geometry: nothing is to be sent to the cores
                molecule.constraints = None
        jobs = (_job(molecule, CoreStep.CHOOSE, first[None]) for molecule, first in pairs)
        chosen = pool.map(jobs, together=TOGETHER, urgent=True)
        return cast("list[ConstrainedMolecule | None]", list(chosen))

    places = [k for k, molecule in enumerate(chunk) if isinstance(molecule, ConstrainedMolecule)]
    waiting = [cast(ConstrainedMolecule, chunk[k]) for k in places]
    with _DEVICE, _own_stream(device):
        embedded, left = embed_prepared(waiting, device, choose=choose)
    for place, molecule in zip(places, embedded, strict=True):
        chunk[place] = molecule
        if isinstance(molecule, ConstrainedMolecule):
            molecule.constraints = None  # large, and of no more use
    return {places[k]: why for k, why in left.items()}


def _finish(chunk: list[PreparedMolecule], pool: EmbeddingPool) -> None:
    """Turn polar hydrogens of some conformers, and leave out conformers that are the same."""
    places = [k for k, molecule in enumerate(chunk) if len(molecule.positions)]
    jobs = (_job(chunk[k], CoreStep.FINISH, chunk[k].positions) for k in places)
    finished = pool.map(jobs, together=TOGETHER, urgent=True)
    for place, molecule in zip(places, finished, strict=True):
        chunk[place] = molecule


def _job(
    molecule: PreparedMolecule, step: CoreStep, positions: NDArray[np.float32] | None
) -> tuple[object, ...]:
    record = molecule.record, molecule.input_id, molecule.source
    return *record, step, None if positions is None else molecule, positions


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A stream beside the one on which conformers are relaxed."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
