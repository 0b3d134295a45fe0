"""One shard of a library through its three steps, files in and files out: embed, relax, write.

The files between the steps are Arrow IPC in the run's work folder. They carry the arrays of a
shard past Prefect, which would keep every result in memory until the run ends, and they are of no
use once the shard's tables are written. Their columns are those of the tables, as far as they are
known, and a prepared molecule's geometry.
"""

import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.chem.constrained import constraining
from mlff_core.chem.expand import expanded
from mlff_core.chem.held import SANE, stretched
from mlff_core.chem.molecule import PreparedMolecule, n_records
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.pose import pose
from mlff_core.chem.twins import share_conformers
from mlff_core.library import Record
from mlff_core.library.molblock import NOT_KEPT
from mlff_core.moves.settings import RelaxSettings
from mlff_core.outcome import compare_tautomers, final_rows, topology_of
from mlff_core.properties.added import Added, add
from mlff_core.schema import ConformerRow
from mlff_core.status import Flag, MoleculeStatus, Reason
from mlff_core.store import Location, Store
from mlff_core.tables import conformers_table, molecules_table, write_part
from mlff_core.tables.manifest import SLOWEST

if TYPE_CHECKING:
    from mlff_core.embedding.on_device import Straggler
    from mlff_core.models.potential import Potential
    from mlff_core.moves.relax import Relaxed


@dataclass(frozen=True)
class ShardFiles:
    """Where a shard's intermediate files lie; the last three are there if they were asked for."""

    shard: int
    embedded: Path
    relaxed: Path
    water: Path
    teacher: Path
    charges: Path

    @classmethod
    def of(cls, work_dir: Path, shard: int) -> "ShardFiles":
        """The files of one shard in a run's work folder."""
        steps = ("embedded", "relaxed", "water", "teacher", "charges")
        return cls(shard, *(work_dir / f"{shard:06d}.{step}.arrow" for step in steps))

    def remove(self) -> None:
        """Remove those that are there."""
        for path in (self.embedded, self.relaxed, self.water, self.teacher, self.charges):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Ran:
    """What computed a shard's conformers.

    Attributes:
        device: Its type, and the name of a card.
        backend: "triton", "numba" or "plain".
        precision: "float32", "fast", "float64", or "auto": float32, with walks in fast.
        why: How the device and the backend were come to, where they were not asked for.
        tiles: Where the sizes of the kernels' tiles come from; None without Triton.
        batch_sizes: Most molecules that were computed at once, by bucket.
    """

    device: str
    backend: str
    precision: str
    why: str
    tiles: str | None
    batch_sizes: dict[str, int]


@dataclass(frozen=True)
class StepReport:
    """What one step did with a shard.

    Attributes:
        n_records: Records in the shard.
        timings_s: Seconds by stage, to be summed over the shards of a run.
        counts: Rows of `molecules` by status, of the step that writes them.
        ran: What computed the conformers, of the step that relaxes them.
        slowest: Records that took longest to be prepared and embedded -> seconds.
    """

    n_records: int
    timings_s: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ran: Ran | None = None
    slowest: dict[int, float] = field(default_factory=dict)


def slowest_of(molecules: Iterable[PreparedMolecule]) -> dict[int, float]:
    """The records that took longest, all their variants together, and how many seconds."""
    seconds: dict[int, float] = {}
    for molecule in molecules:
        seconds[molecule.record] = seconds.get(molecule.record, 0.0) + molecule.timings_s
    return dict(heapq.nlargest(SLOWEST, seconds.items(), key=lambda item: item[1]))


def embed_shard(
    records: Sequence[Record],
    embedded_file: Path,
    pool: EmbeddingPool,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    stragglers: "list[Straggler] | None" = None,
) -> StepReport:
    """Prepare and embed every record of a shard.

    Args:
        records: As the library gave them.
        embedded_file: Written.
        pool: Its processes run `prepare`, or `constrained.on_a_core` beside a device; where
            geometries are given, `pose`.
        device: Embeds; None: RDKit does, on the cores.
        progress: Called with the number of records that are done.
        stragglers: What a device cannot embed is left out of the file and added here, for
            `write_stragglers`; None to wait until RDKit has embedded it.
    """
    started = time.monotonic()
    readable = ((r.record, r.input_id, r.smiles) for r in records if r.smiles is not None)
    ended: list[PreparedMolecule] = []
    sources: Iterable[tuple[Any, ...]] = readable
    do: Callable[..., PreparedMolecule] | None = None
    if pool.settings.from_3d != "none":
        do = pose
        sources = (
            (r.record, r.input_id, r.smiles, r.pose) for r in records if r.smiles is not None
        )
    if pool.settings.expansion.wanted:
        sources = expanded(readable, pool, ended)
    timings: dict[str, float] = {}
    if device is None:
        molecules: list[PreparedMolecule] = []
        n_done = 0
        for molecule in pool.map(sources, do):
            molecules.append(molecule)
            n_done += n_records([molecule])
            if progress is not None:
                progress(n_done)
    else:
        prepared = constraining(sources, pool)
        # Imports torch, which takes seconds the first time: the cores are at work meanwhile.
        from mlff_core.embedding.on_device import embed_constrained

        done = embed_constrained(prepared, pool, device, progress, stragglers=stragglers)
        molecules = done.molecules
        timings["embed_device"] = done.device_s
    molecules = with_unreadable(molecules + ended, records)
    write_arrow(table_of(molecules, PreparedMolecule), embedded_file)
    return StepReport(
        n_records=len(records),
        timings_s={
            "embed": time.monotonic() - started,
            "embed_cores": sum(m.timings_s for m in molecules),
            **timings,
        },
        slowest=slowest_of(molecules),
    )


def write_stragglers(
    stragglers: "Sequence[Straggler]",
    records: Sequence[Record],
    embedded_file: Path,
    pool: EmbeddingPool,
) -> StepReport:
    """Let RDKit embed what the device left of a shard, or of a part of one.

    Args:
        stragglers: From `embed_shard`.
        records: What was embedded there.
        embedded_file: Written.
        pool: Its processes run `constrained.on_a_core`.
    """
    from mlff_core.embedding.on_device import resort_to_rdkit  # imports torch

    started = time.monotonic()
    these = {straggler.record for straggler in stragglers}
    molecules = with_unreadable(
        list(resort_to_rdkit(stragglers, pool)),
        [r for r in records if r.smiles is not None and r.record in these],
    )
    write_arrow(table_of(molecules, PreparedMolecule), embedded_file)
    return StepReport(
        n_records=0,  # of which the others were told
        timings_s={
            "embed_stragglers": time.monotonic() - started,
            "embed_cores": sum(m.timings_s for m in molecules),
        },
        slowest=slowest_of(molecules),
    )


def with_unreadable(
    molecules: list[PreparedMolecule], records: Sequence[Record]
) -> list[PreparedMolecule]:
    """Every record, in their order; what the library says of one comes first.

    Args:
        molecules: Of the records that have a SMILES.
        records: All.
    """
    notes = {r.record: r.note for r in records if r.note is not None}
    for molecule in molecules:
        sentences = (notes.get(molecule.record), molecule.message)
        molecule.message = "; ".join(filter(None, sentences)) or None
        lost = NOT_KEPT in (notes.get(molecule.record) or "")
        if lost and Flag.STEREO_NOT_KEPT not in molecule.flags:
            molecule.flags.append(Flag.STEREO_NOT_KEPT)
    unreadable = [
        PreparedMolecule(
            r.record,
            r.input_id,
            input_smiles="",
            status=MoleculeStatus.REJECTED,
            reason=Reason.INVALID_SMILES,
            message=r.note,
        )
        for r in records
        if r.smiles is None
    ]
    return sorted(molecules + unreadable, key=lambda m: (m.record, m.variant))


def relax_shard(
    embedded_file: Path,
    relaxed_file: Path,
    potential: "Potential",
    settings: RelaxSettings,
    progress: Callable[[int], None] | None = None,
    *,
    pre_relax: "Potential | None" = None,
    turn: AbstractContextManager[object] | None = None,
) -> StepReport:
    """Relax every conformer of a shard; mirror images of a record share theirs first.

    `progress` is called with the molecules that are through; one of several conformers counts by
    their share. `pre_relax` is a cheaper model to walk with first. `turn` is entered while the
    device is in use: others may be read or written meanwhile.
    """
    # Torch takes seconds to import; a call is checked, and molecules are embedded, without it.
    from mlff_core.moves.held import relax_where_protons_moved
    from mlff_core.moves.pre_relax import keeps_bonds
    from mlff_core.moves.relax import relax_conformers

    started = time.monotonic()
    molecules = rows_of(read_arrow(embedded_file), PreparedMolecule)
    if share_conformers(molecules):
        whole = embedded_file.with_suffix(".whole")
        write_arrow(table_of(molecules, PreparedMolecule), whole)
        os.replace(whole, embedded_file)
    owners: list[tuple[PreparedMolecule, int]] = []
    conformers = []
    for molecule in molecules:
        for index, positions in enumerate(molecule.conformers()):
            owners.append((molecule, index))
            conformers.append((molecule.numbers, positions, molecule.charge or 0))
    frozen = [molecule.frozen for molecule, _ in owners]
    held_bonds = [molecule.held_bonds for molecule, _ in owners]
    n_all = n_records(molecules)
    keeps = None
    if pre_relax is not None:
        topologies = {id(molecule): topology_of(molecule) for molecule in molecules}
        judged_by = [topologies[id(molecule)] for molecule, _ in owners]
        keeps = keeps_bonds(judged_by, held_bonds)
    waited_s: list[float] = []
    results = relax_conformers(
        conformers,
        potential,
        settings,
        frozen=frozen,
        pre_relax=pre_relax,
        keeps=keeps,
        progress=progress and (lambda n: progress(n * n_all // len(conformers))),
        turn=_waiting(turn or nullcontext(), waited_s),
    )
    # A few, which leave a device all but idle: the next shard has it meanwhile.
    held = relax_where_protons_moved(
        [(*own, bonds) for own, bonds in zip(conformers, held_bonds, strict=True)],
        results, potential, settings, frozen,
    )  # fmt: skip
    rows = [
        relaxed_row(molecule, index, held.get(k, result), held=k in held)
        for k, ((molecule, index), result) in enumerate(zip(owners, results, strict=True))
    ]
    write_arrow(table_of(rows, ConformerRow), relaxed_file)
    batch_sizes: dict[str, int] = {}
    for result in results:
        batch_sizes[result.bucket] = max(batch_sizes.get(result.bucket, 0), result.batch_size)
    return StepReport(
        n_records(molecules),
        {"relax": time.monotonic() - started - sum(waited_s)},
        ran=Ran(
            potential.device_name,
            potential.backend,
            potential.precision,
            potential.why,
            potential.tiles,
            batch_sizes,
        ),
    )


@contextmanager
def _waiting(turn: AbstractContextManager[object], waited_s: list[float]) -> Iterator[None]:
    """A turn, and how long it was waited for."""
    started = time.monotonic()
    with turn:
        waited_s.append(time.monotonic() - started)
        yield


def relaxed_row(
    molecule: PreparedMolecule, index: int, relaxed: "Relaxed", *, held: bool = False
) -> ConformerRow:
    """What the relaxation knows of a conformer; no status if it did not fit into memory.

    Args:
        molecule: Whose conformer it is.
        index: Its number within the molecule.
        relaxed: How it ended.
        held: Whether its held bonds had springs.
    """
    bonds = molecule.held_bonds if held else molecule.held_bonds[:0]
    return ConformerRow(
        record=molecule.record,
        variant=molecule.variant,
        conformer=index,
        status=relaxed.status,
        energy_ev=relaxed.energy,
        initial_energy_ev=relaxed.initial_energy,
        max_force_ev_per_angstrom=relaxed.max_force,
        protons_held=stretched(relaxed.positions, molecule.numbers, bonds, SANE),
        n_steps=relaxed.n_steps,
        atomic_numbers=molecule.numbers,
        positions_angstrom=relaxed.positions,
        forces_ev_per_angstrom=relaxed.forces,
        bucket=relaxed.bucket,
        batch_size=relaxed.batch_size,
    )


def judged_rows(files: ShardFiles) -> tuple[list[PreparedMolecule], list[ConformerRow]]:
    """The rows of a relaxed shard's two tables, with what further stages computed."""
    molecules = rows_of(read_arrow(files.embedded), PreparedMolecule)
    conformers = final_rows(molecules, rows_of(read_arrow(files.relaxed), ConformerRow))
    added = [
        row
        for file in (files.water, files.teacher, files.charges)
        if file.exists()
        for row in rows_of(read_arrow(file), Added)
    ]
    if added:
        add(molecules, conformers, added)
        compare_tautomers(molecules, "min_energy_water_ev")
    return molecules, conformers


def write_shard(
    shard: int,
    embedded_file: Path,
    relaxed_file: Path,
    out: Store | Location,
    metadata: dict[str, str],
) -> StepReport:
    """Judge the relaxed conformers and write the shard's two final parts.

    The part of `molecules` is written last: it is what says that the shard is finished.
    """
    started = time.monotonic()
    molecules, conformers = judged_rows(
        replace(
            ShardFiles.of(relaxed_file.parent, shard), embedded=embedded_file, relaxed=relaxed_file
        )
    )
    write_part(conformers_table(conformers), out, shard, metadata)
    write_part(molecules_table(molecules), out, shard, metadata)
    return StepReport(
        n_records(molecules),
        {"write": time.monotonic() - started},
        counts=dict(Counter(str(molecule.status) for molecule in molecules)),
    )
