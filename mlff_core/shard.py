"""One shard of a library through its three steps, files in and files out: embed, relax, write.

The files between the steps are Arrow IPC in the run's work folder. They carry the arrays of a
shard past Prefect, which would keep every result in memory until the run ends, and they are of no
use once the shard's tables are written.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.library import Record
from mlff_core.status import ConformerStatus, MoleculeStatus, Reason
from mlff_core.tables import conformers_table, molecules_table, write_part
from mlff_core.units import BOLTZMANN_EV_K, EV_KCAL_MOL, ROOM_TEMPERATURE_K

if TYPE_CHECKING:
    from mlff_core.models.potential import Potential

RECORDS_SCHEMA = pa.schema(
    [("record", pa.int64()), ("input_id", pa.string()), ("smiles", pa.string())]
)

EMBEDDED_SCHEMA = pa.schema(
    [
        ("record", pa.int64()),
        ("input_id", pa.string()),
        ("input_smiles", pa.string()),
        ("smiles", pa.string()),
        ("inchikey", pa.string()),
        ("formula", pa.string()),
        ("charge", pa.int64()),
        ("n_atoms", pa.int64()),
        ("n_heavy_atoms", pa.int64()),
        ("n_rotatable_bonds", pa.int64()),
        ("mol_weight", pa.float64()),
        ("clogp", pa.float64()),
        ("tpsa", pa.float64()),
        ("qed", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("numbers", pa.list_(pa.int8())),
        ("positions", pa.list_(pa.float32())),
        ("bonds", pa.list_(pa.int16())),
        ("chirality", pa.list_(pa.int16())),
        ("double_bonds", pa.list_(pa.int16())),
    ]
)

#: Columns of the embedded file that go to the `molecules` table as they are.
CARRIED = tuple(
    name for name in EMBEDDED_SCHEMA.names if not pa.types.is_list(EMBEDDED_SCHEMA.field(name).type)
)

RELAXED_SCHEMA = pa.schema(
    [
        ("molecule", pa.int64()),  # row in the embedded file
        ("status", pa.string()),  # null: the conformer did not fit into memory alone
        ("energy", pa.float64()),
        ("initial_energy", pa.float64()),
        ("max_force", pa.float64()),
        ("n_steps", pa.int64()),
        ("positions", pa.list_(pa.float32())),
        ("forces", pa.list_(pa.float32())),
        ("bucket", pa.string()),
        ("batch_size", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ShardFiles:
    """Where a shard's intermediate files lie."""

    shard: int
    records: Path
    embedded: Path
    relaxed: Path

    @classmethod
    def of(cls, work_dir: Path, shard: int) -> "ShardFiles":
        """The files of one shard in a run's work folder."""
        stages = ("records", "embedded", "relaxed")
        return cls(shard, *(work_dir / f"{shard:06d}.{stage}.arrow" for stage in stages))

    def remove(self) -> None:
        """Remove those that are there."""
        for path in (self.records, self.embedded, self.relaxed):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RelaxOptions:
    """How conformers are relaxed; see `mlff_core.moves.relax.relax_conformers`."""

    optimizer: Literal["lbfgs", "fire"] = "lbfgs"
    fmax: float = 0.05
    max_steps: int = 300
    batching: Literal["auto", "table"] = "auto"


@dataclass(frozen=True)
class StepReport:
    """What one step did with a shard.

    Attributes:
        n_records: Records in the shard.
        timings_s: Seconds by stage, to be summed over the shards of a run.
    """

    n_records: int
    timings_s: dict[str, float] = field(default_factory=dict)


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write the records of a shard, as the library gave them."""
    record, input_id, smiles = zip(*records, strict=True)
    columns = [record, input_id, smiles]
    _write_arrow(
        pa.Table.from_arrays(
            [pa.array(c, t) for c, t in zip(columns, RECORDS_SCHEMA.types, strict=True)],
            schema=RECORDS_SCHEMA,
        ),
        path,
    )


def embed_shard(records_file: Path, embedded_file: Path, pool: EmbeddingPool) -> StepReport:
    """Prepare and embed every record of a shard."""
    started = time.monotonic()
    table = _read_arrow(records_file)
    columns = (table[name].to_pylist() for name in RECORDS_SCHEMA.names)
    molecules = list(pool.map(zip(*columns, strict=True)))
    _write_arrow(_embedded_table(molecules), embedded_file)
    return StepReport(
        n_records=len(molecules),
        timings_s={
            "embed": time.monotonic() - started,
            "embed_cores": sum(m.timings_s for m in molecules),
        },
    )


def _embedded_table(molecules: Sequence[PreparedMolecule]) -> pa.Table:
    columns = {}
    for column in EMBEDDED_SCHEMA:
        values = [getattr(m, column.name) for m in molecules]
        columns[column.name] = (
            _lists(values, column.type)
            if pa.types.is_list(column.type)
            else pa.array(values, column.type)
        )
    return pa.table(columns, schema=EMBEDDED_SCHEMA)


def relax_shard(
    embedded_file: Path, relaxed_file: Path, potential: "Potential", settings: RelaxOptions
) -> StepReport:
    """Relax every conformer of a shard."""
    # Torch takes seconds to import; a call is checked, and molecules are embedded, without it.
    from mlff_core.moves.relax import relax_conformers

    started = time.monotonic()
    embedded = _read_arrow(embedded_file)
    numbers, positions = _arrays(embedded, "numbers"), _arrays(embedded, "positions")
    charges = embedded["charge"].to_pylist()
    molecule, conformers = [], []
    for k, (z, x) in enumerate(zip(numbers, positions, strict=True)):
        for conformer in x.reshape(-1, max(len(z), 1), 3):
            molecule.append(k)
            conformers.append((z, conformer, charges[k]))
    results = relax_conformers(
        conformers,
        potential,
        optimizer=settings.optimizer,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
        batching=settings.batching,
    )
    columns = {
        "molecule": pa.array(molecule, pa.int64()),
        "status": pa.array([r.status for r in results], pa.string()),
    }
    for name in ("energy", "initial_energy", "max_force", "n_steps", "bucket", "batch_size"):
        columns[name] = pa.array(
            [getattr(r, name) for r in results], RELAXED_SCHEMA.field(name).type
        )
    for name in ("positions", "forces"):
        columns[name] = _lists([getattr(r, name) for r in results], RELAXED_SCHEMA.field(name).type)
    _write_arrow(pa.table(columns, schema=RELAXED_SCHEMA), relaxed_file)
    return StepReport(len(embedded), {"relax": time.monotonic() - started})


def write_shard(
    shard: int, embedded_file: Path, relaxed_file: Path, out_dir: Path, metadata: dict[str, str]
) -> StepReport:
    """Judge the relaxed conformers and write the shard's two final parts.

    The part of `molecules` is written last: it is what says that the shard is finished.
    """
    started = time.monotonic()
    molecules, conformers = final_rows(_read_arrow(embedded_file), _read_arrow(relaxed_file))
    write_part(conformers_table(conformers), out_dir / "conformers", shard, metadata)
    write_part(molecules_table(molecules), out_dir / "molecules", shard, metadata)
    return StepReport(len(molecules), {"write": time.monotonic() - started})


def final_rows(embedded: pa.Table, relaxed: pa.Table) -> tuple[list[dict], list[dict]]:
    """Rows of `molecules` and of `conformers` from a shard's embedded and relaxed tables."""
    rows = embedded.select(list(CARRIED)).to_pylist()
    arrays = {
        name: _arrays(embedded, name) for name in embedded.schema.names if name not in CARRIED
    }
    relaxed_positions, forces = _arrays(relaxed, "positions"), _arrays(relaxed, "forces")
    scalars = relaxed.drop_columns(["positions", "forces"]).to_pylist()
    by_molecule: dict[int, list[int]] = {}
    for c, scalar in enumerate(scalars):
        by_molecule.setdefault(scalar["molecule"], []).append(c)

    # What needs the geometries is computed for the whole shard at once: the interpreter's lock is
    # then free for the thread that drives the device.
    topologies = [
        Topology(z, bonds.reshape(-1, 2), chirality.reshape(-1, 4), doubles.reshape(-1, 5))
        for z, bonds, chirality, doubles in zip(
            *(arrays[name] for name in Topology._fields), strict=True
        )
    ]
    final = [x.reshape(-1, 3) for x in relaxed_positions]
    starts = [
        x
        for z, flat in zip(arrays["numbers"], arrays["positions"], strict=True)
        for x in flat.reshape(-1, max(len(z), 1), 3)
    ]
    owners = [topologies[scalar["molecule"]] for scalar in scalars]
    changes = rearrangements(final, owners)
    rmsd = aligned_rmsd(starts, final)

    conformer_rows: list[dict] = []
    for k, row in enumerate(rows):
        row |= dict.fromkeys(("best_conformer", "min_energy_ev")) | {
            "n_conformers": 0,
            "n_converged": 0,
        }
        members = by_molecule.get(k, [])
        if row["status"] != MoleculeStatus.OK:
            continue
        if any(scalars[c]["status"] is None for c in members):
            row |= {
                "status": MoleculeStatus.FAILED,
                "reason": Reason.OUT_OF_MEMORY,
                "message": _join(row["message"], "does not fit into the device's memory alone"),
            }
            continue
        own = []
        for index, c in enumerate(members):
            scalar, status = scalars[c], ConformerStatus(scalars[c]["status"])
            ended = status in (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)
            if ended and changes[c] is not None:
                status = ConformerStatus.REARRANGED
                row["message"] = _join(row["message"], f"conformer {index}: {changes[c]}")
            own.append(
                {
                    "record": row["record"],
                    "conformer": index,
                    "status": status,
                    "energy_ev": scalar["energy"],
                    "initial_energy_ev": scalar["initial_energy"],
                    "relative_energy_kcal_mol": None,
                    "boltzmann_weight": None,
                    "max_force_ev_per_angstrom": scalar["max_force"],
                    "n_steps": scalar["n_steps"],
                    "rmsd_to_initial_angstrom": rmsd[c],
                    "atomic_numbers": arrays["numbers"][k],
                    "positions_angstrom": relaxed_positions[c],
                    "forces_ev_per_angstrom": forces[c],
                    "bucket": scalar["bucket"],
                    "batch_size": scalar["batch_size"],
                }
            )
        _rank(row, own)
        conformer_rows += own
    return rows, conformer_rows


def _rank(row: dict, conformers: list[dict]) -> None:
    """Fill in what is relative to the molecule's best conformer, and the molecule's own summary."""
    row["n_conformers"] = len(conformers)
    converged = [c for c in conformers if c["status"] == ConformerStatus.CONVERGED]
    row["n_converged"] = len(converged)
    usable = converged or [c for c in conformers if c["status"] == ConformerStatus.MAX_STEPS]
    if not usable:
        counts = Counter(str(c["status"]) for c in conformers)
        text = ", ".join(f"{n} {status}" for status, n in counts.items())
        row |= {
            "status": MoleculeStatus.FAILED,
            "reason": Reason.ALL_CONFORMERS_FAILED,
            "message": _join(row["message"], f"of {len(conformers)} conformers: {text}"),
        }
        return
    best = min(usable, key=lambda c: c["energy_ev"])
    row |= {"best_conformer": best["conformer"], "min_energy_ev": best["energy_ev"]}
    if not converged:
        row["message"] = _join(row["message"], "no conformer converged within the steps allowed")
    for c in conformers:
        if c["status"] in (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS):
            difference = c["energy_ev"] - best["energy_ev"]
            c["relative_energy_kcal_mol"] = difference * EV_KCAL_MOL
    weights = boltzmann_weights([c["energy_ev"] for c in converged])
    for c, weight in zip(converged, weights, strict=True):
        c["boltzmann_weight"] = float(weight)


def boltzmann_weights(energy_ev: Sequence[float]) -> np.ndarray:
    """Populations at 298.15 K of states with these energies in eV; they sum to 1."""
    energy = np.asarray(energy_ev, dtype=np.float64)
    if not len(energy):
        return energy
    factors = np.exp(-(energy - energy.min()) / (BOLTZMANN_EV_K * ROOM_TEMPERATURE_K))
    return factors / factors.sum()


def _join(message: str | None, more: str) -> str:
    return f"{message}; {more}" if message else more


def _lists(values: Iterable[np.ndarray], kind: pa.DataType) -> pa.Array:
    """A list column from arrays of any shape, flattened, without a Python object an element."""
    flat = [np.asarray(v).ravel() for v in values]
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in flat])]).astype(np.int32)
    content = np.concatenate(flat) if flat else np.zeros(0)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(content.astype(kind.value_type.to_pandas_dtype()))
    ).cast(kind)


def _arrays(table: pa.Table, name: str) -> list[np.ndarray]:
    """The arrays of a list column, views where Arrow allows."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # a table without rows has no chunk to combine
        return []
    content = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return [content[a:b] for a, b in pairwise(offsets)]


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
