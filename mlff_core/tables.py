"""The tables that a run leaves: schemas, whole files only, the proof that nothing is missing.

    DIR/molecules/part-000000.parquet     one row per input record, whatever happened to it
    DIR/conformers/part-000000.parquet    one row per conformer of an accepted molecule
    DIR/manifest.json                     what made them

A shard of the library gives one part of each table, under the shard's number. The part of
`conformers` is written first: a shard is finished when its part of `molecules` is there. What the
columns mean for a reader is in docs/schema.md.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.errors import OutputError
from mlff_core.status import ConformerStatus, MoleculeStatus, Reason

#: Goes up when a column is added, renamed, or comes to mean something else.
SCHEMA_VERSION: Final = "1"


def _field(
    name: str,
    kind: pa.DataType,
    description: str,
    unit: str | None = None,
    *,
    required: bool = False,
) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=not required, metadata=metadata)


#: One row per input record.
MOLECULES_SCHEMA: Final = pa.schema(
    [
        _field("record", pa.int64(), "0-based position in the library", required=True),
        _field("input_id", pa.string(), "id in the library, as it stands there; null if none"),
        _field("input_smiles", pa.string(), "SMILES as it stands in the library", required=True),
        _field("smiles", pa.string(), "canonical isomeric SMILES of what was computed"),
        _field("inchikey", pa.string(), "InChIKey of what was computed"),
        _field("formula", pa.string(), "molecular formula of what was computed"),
        _field("charge", pa.int32(), "total charge", "e"),
        _field("n_atoms", pa.int32(), "atoms, hydrogens counted"),
        _field("n_heavy_atoms", pa.int32(), "atoms that are not hydrogen"),
        _field("n_rotatable_bonds", pa.int32(), "rotatable bonds (RDKit)"),
        _field("mol_weight", pa.float64(), "molecular weight, mean isotopic masses", "g/mol"),
        _field("clogp", pa.float64(), "logP of octanol and water, estimated (Crippen)"),
        _field("tpsa", pa.float64(), "topological polar surface area", "Å²"),
        _field("qed", pa.float64(), "quantitative estimate of drug-likeness, 0 to 1"),
        _field("status", pa.string(), "ok, rejected or failed", required=True),
        _field("reason", pa.string(), "why the molecule is not ok; null if it is"),
        _field("message", pa.string(), "the reason in words, or what was changed before computing"),
        _field("n_conformers", pa.int32(), "rows of this record in conformers", required=True),
        _field("n_converged", pa.int32(), "of these, converged", required=True),
        _field(
            "best_conformer", pa.int16(), "conformer of the lowest energy; null if there is none"
        ),
        _field("min_energy_ev", pa.float64(), "energy of the best conformer", "eV"),
    ]
)

#: One row per conformer of an accepted molecule.
CONFORMERS_SCHEMA: Final = pa.schema(
    [
        _field("record", pa.int64(), "record of the molecule in molecules", required=True),
        _field("conformer", pa.int16(), "0-based number within the molecule", required=True),
        _field("status", pa.string(), "how the relaxation ended", required=True),
        _field("energy_ev", pa.float64(), "energy of this geometry; null if not finite", "eV"),
        _field("initial_energy_ev", pa.float64(), "energy before the relaxation", "eV"),
        _field(
            "relative_energy_kcal_mol",
            pa.float64(),
            "energy above the molecule's best conformer",
            "kcal/mol",
        ),
        _field(
            "boltzmann_weight",
            pa.float64(),
            "population at 298.15 K among the molecule's converged conformers; null for others",
        ),
        _field("max_force_ev_per_angstrom", pa.float64(), "largest force on any atom", "eV/Å"),
        _field("n_steps", pa.int32(), "steps that the relaxation took"),
        _field(
            "rmsd_to_initial_angstrom",
            pa.float64(),
            "root-mean-square deviation from the embedded geometry, superimposed",
            "Å",
        ),
        _field(
            "atomic_numbers",
            pa.list_(pa.field("element", pa.int8(), nullable=False)),
            "atomic number of each atom",
            required=True,
        ),
        _field(
            "positions_angstrom",
            pa.list_(pa.field("element", pa.float32(), nullable=False)),
            "x y z of atom 0, x y z of atom 1, ...",
            "Å",
            required=True,
        ),
        _field(
            "forces_ev_per_angstrom",
            pa.list_(pa.field("element", pa.float32(), nullable=False)),
            "force on each atom, in the order of the positions",
            "eV/Å",
            required=True,
        ),
        _field("bucket", pa.string(), "size class in which it was relaxed"),
        _field("batch_size", pa.int32(), "molecules in its batch"),
    ]
)

_VALUES: Final[dict[str, dict[str, set[Any]]]] = {
    "molecules": {"status": set(MoleculeStatus), "reason": set(Reason)},
    "conformers": {"status": set(ConformerStatus)},
}
_TABLES: Final = ("molecules", "conformers")
_SCHEMAS: Final = {"molecules": MOLECULES_SCHEMA, "conformers": CONFORMERS_SCHEMA}
#: Rows of a part stand in this order.
_KEYS: Final = {"molecules": ["record"], "conformers": ["record", "conformer"]}
#: Rows in a row group, so that a reader who wants a few records unpacks little more: some
#: megabytes in either table.
_ROW_GROUP: Final = {"molecules": 32_768, "conformers": 4_096}
_PREFIX: Final = "mlff_screen."
_PART_NAME: Final = re.compile(r"part-(\d{6,})\.parquet")
_LEFTOVER_NAME: Final = re.compile(r"\.(part-\d{6,}\.parquet|manifest\.json)\.\d+\.tmp")


# --- rows to tables ---------------------------------------------------------------------------


def molecules_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make the table `molecules`; a column that a row does not name is null, or 0 if it counts.

    Raises:
        ValueError: If a row names an unknown column, a required value is missing, a status or
            reason is not one of those known, or they contradict each other.
    """
    rows = [{"n_conformers": 0, "n_converged": 0} | dict(row) for row in rows]
    table = _table(rows, MOLECULES_SCHEMA, "molecules")
    for index, row in enumerate(rows):
        if (row["status"] == MoleculeStatus.OK) != (row.get("reason") is None):
            raise ValueError(
                f"molecules: row {index}: expected a reason exactly where the status is not ok, "
                f"found {row['status']}, {row.get('reason')}"
            )
    return table


def conformers_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make the table `conformers`; numbers that are not finite become null, except in lists.

    Args:
        rows: Columns by name. Lists may be arrays of any shape, [n_atoms] and [n_atoms, 3]; they
            are copied as blocks, never number by number.

    Raises:
        ValueError: If a row names an unknown column, a required value is missing, a status is not
            one of those known, or the lists of a row are not n, 3n and 3n long.
    """
    table = _table(rows, CONFORMERS_SCHEMA, "conformers")
    n_atoms = _lengths(table["atomic_numbers"])
    for name in ("positions_angstrom", "forces_ev_per_angstrom"):
        n_numbers = _lengths(table[name])
        for index in np.flatnonzero(n_numbers != 3 * n_atoms):
            raise ValueError(
                f"conformers: {name} of row {index}: expected 3 numbers for each of "
                f"{n_atoms[index]} atoms, found {n_numbers[index]}"
            )
    return table


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, what: str) -> pa.Table:
    unknown = sorted({name for row in rows for name in row} - set(schema.names))
    if unknown:
        raise ValueError(f"{what}: unknown columns: {', '.join(unknown)}")
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if not column.nullable:
            for index, value in enumerate(values):
                if value is None:
                    raise ValueError(f"{what}: {column.name} of row {index} is missing")
        if pa.types.is_list(column.type):
            columns.append(_list_array(values, column.type))
            continue
        if pa.types.is_floating(column.type):
            numbers = np.array([np.nan if v is None else v for v in values], np.float64)
            columns.append(pa.array(numbers, column.type, mask=~np.isfinite(numbers)))
        else:
            columns.append(pa.array(values, column.type))
    for name, known in _VALUES[what].items():
        found = set(columns[schema.get_field_index(name)].unique().to_pylist()) - {None}
        if not found <= known:
            raise ValueError(f"{what}: {name}: not one of those known: {sorted(found - known)}")
    return pa.table(columns, schema=schema)


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of each list."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks)]
    )


def _list_array(arrays: Sequence[Any], kind: pa.ListType) -> pa.ListArray:
    """Lay arrays of any shape end to end as one list column."""
    dtype = kind.value_type.to_pandas_dtype()
    flat = [np.asarray(a).reshape(-1) for a in arrays]
    offsets = np.zeros(len(flat) + 1, np.int64)
    np.cumsum([len(a) for a in flat], out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"a part holds at most 2^31 - 1 numbers a column, found {offsets[-1]}")
    values = np.concatenate(flat) if flat else np.empty(0)
    if np.issubdtype(dtype, np.integer) and len(values):
        low, high = values.min(), values.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ValueError(f"expected numbers that fit {np.dtype(dtype)}, found {low} to {high}")
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values.astype(dtype, copy=False)), type=kind
    )


# --- parts ------------------------------------------------------------------------------------


def write_part(table: pa.Table, folder: Path, shard: int, metadata: Mapping[str, str]) -> Path:
    """Write one shard's part of a table, whole or not at all, and return its path.

    Args:
        table: What `molecules_table` or `conformers_table` made.
        folder: DIR/molecules or DIR/conformers; made if it is not there.
        shard: Number of the shard.
        metadata: What the file's footer says of the run, beside the schema's version; `run_key` is
            what `read_part_key` returns.
    """
    if "run_key" not in metadata:
        raise ValueError(f"metadata: expected a run_key, found {sorted(metadata)}")
    what = next((name for name in _TABLES if table.schema.equals(_SCHEMAS[name])), None)
    if what is None:
        raise ValueError("expected a table made by molecules_table or conformers_table")
    footer = {"schema_version": SCHEMA_VERSION} | dict(metadata)
    table = table.sort_by([(name, "ascending") for name in _KEYS[what]])
    table = table.replace_schema_metadata({f"{_PREFIX}{k}": v for k, v in footer.items()})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{shard:06d}.parquet"
    with _whole_file(path) as stream:
        pq.write_table(
            table,
            stream,
            row_group_size=_ROW_GROUP[what],
            compression="zstd",
            # Coordinates and forces never repeat: no dictionary, and the bytes of like weight
            # side by side, which zstd packs better.
            use_dictionary=[c.name for c in table.schema if pa.types.is_string(c.type)],
            use_byte_stream_split=[
                f"{c.name}.list.element" for c in table.schema if _is_float_list(c.type)
            ],
            sorting_columns=[
                pq.SortingColumn(table.schema.get_field_index(name)) for name in _KEYS[what]
            ],
            write_page_index=True,
        )
    return path


def _is_float_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is whole and on the disk."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(hidden, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(hidden, path)
    except BaseException:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, outlives a loss of power
    finally:
        os.close(folder)


def _parts(folder: Path) -> dict[int, Path]:
    """Return the parts in DIR/molecules or DIR/conformers by shard, in order."""
    if not folder.is_dir():
        return {}
    found = ((_PART_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(name[1]), path) for name, path in found if name and path.is_file()))


def read_part_key(path: Path) -> str | None:
    """Return the run key in a part's footer; None if the file is missing, torn or not ours."""
    try:
        footer = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    key = footer.get(f"{_PREFIX}run_key".encode())
    return None if key is None else key.decode("utf-8", "replace")


def finished_shards(out_dir: Path, run_key: str) -> set[int]:
    """Return the shards whose parts are there, whole, and of this run.

    Only a shard without any conformer may lack its part of `conformers`.
    """
    conformers = _parts(out_dir / "conformers")
    finished = set()
    for shard, path in _parts(out_dir / "molecules").items():
        if read_part_key(path) != run_key:
            continue
        other = conformers.get(shard)
        if (other is not None and read_part_key(other) == run_key) or (
            not _read(path, ["n_conformers"])["n_conformers"].to_numpy().any()
        ):
            finished.add(shard)
    return finished


# --- the manifest and the folder --------------------------------------------------------------


@dataclass
class Manifest:
    """What made the tables in a folder.

    Attributes:
        run_id: Names this run and no other.
        run_key: Names the results: the same library, model and parameters that matter.
        parameters: What was asked for.
        library: location, sha256 and n_records.
        model: name, sha256, and errors: what its card says of them, in words.
        versions: Of the packages that results depend on.
        started: When, in ISO 8601.
        finished: When; None as long as the tables are not whole.
        counts: Molecules by status and by reason, conformers by status.
        timings_s: Seconds by stage.
        schema_version: `SCHEMA_VERSION` of the tables.
    """

    run_id: str
    run_key: str
    parameters: dict[str, Any]
    library: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    started: str
    finished: str | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    def add_timings(self, timings_s: Mapping[str, float]) -> None:
        """Add seconds to those of each stage."""
        for stage, seconds in timings_s.items():
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + seconds

    def write(self, out_dir: Path) -> Path:
        """Write DIR/manifest.json, whole or not at all."""
        path = out_dir / "manifest.json"
        with _whole_file(path) as stream:
            stream.write(json.dumps(asdict(self), indent=2, default=str).encode() + b"\n")
        return path


def read_manifest(out_dir: Path) -> Manifest | None:
    """Read DIR/manifest.json; None if there is none.

    Raises:
        OutputError: If it cannot be read or is not one of ours.
    """
    path = out_dir / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
        names = {f.name for f in fields(Manifest)}
        return Manifest(**{name: value for name, value in content.items() if name in names})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {_line(error)}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: is not the manifest of a run; choose another folder") from error


def check_output(
    out_dir: Path, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Find out, without touching anything, whether a run may have a folder.

    Arguments, result and errors are those of `open_output`, but for a folder that turns out not to
    be writable.
    """
    if overwrite and resume:
        raise OutputError(f"{out_dir}: --overwrite and --resume contradict each other")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(out_dir)  # lexists is silent about a name that cannot be
        nearest = next(path for path in (out_dir, *out_dir.parents) if os.path.lexists(path))
    except (OSError, ValueError) as error:  # too long a name, a NUL in it
        raise OutputError(f"{str(out_dir)!r}: cannot be written: {_line(error)}") from error
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OutputError(f"{out_dir}: cannot be written: {nearest} is not a writable folder")
    earlier = read_manifest(out_dir)
    parts = [path for table in _TABLES for path in _parts(out_dir / table).values()]
    for table in _TABLES:
        for path in (out_dir / table).glob("[!.]*.parquet"):
            if path not in parts:
                raise OutputError(f"{path}: is in the way of the tables; choose another folder")
    if resume:
        if earlier is not None:
            _check_same_run(out_dir, earlier, manifest)
            manifest = replace(
                manifest,
                run_id=earlier.run_id,
                started=earlier.started,
                timings_s=earlier.timings_s,
            )
        _check_own_parts(parts, manifest.run_key)
    elif not overwrite and (earlier is not None or parts):
        raise OutputError(_occupied(out_dir, earlier, manifest))
    return manifest


def open_output(
    out_dir: Path, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Make a folder ready for a run and leave its unfinished manifest there.

    Args:
        out_dir: Folder of the tables; made if it is not there. Files of others in it stay.
        manifest: Of the run that begins.
        overwrite: Remove the tables of an earlier run.
        resume: Keep the finished parts of an earlier run, which must have the same run key.

    Returns:
        The manifest that the run fills in: `manifest`, or when resuming an earlier run, that with
        the earlier run's id, start and timings.

    Raises:
        OutputError: If the folder cannot be written, or what is in it is in the way. Says in one
            line what to do.
    """
    manifest = check_output(out_dir, manifest, overwrite=overwrite, resume=resume)
    try:
        for table in _TABLES:
            (out_dir / table).mkdir(parents=True, exist_ok=True)
            if overwrite:
                for path in _parts(out_dir / table).values():
                    path.unlink()
        for folder in (out_dir, *(out_dir / table for table in _TABLES)):
            for path in folder.iterdir():
                if _LEFTOVER_NAME.fullmatch(path.name):
                    path.unlink()
        manifest.write(out_dir)
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot be written: {_line(error)}") from error
    return manifest


def _line(error: BaseException) -> str:
    """Say an error in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def _occupied(out_dir: Path, earlier: Manifest | None, manifest: Manifest) -> str:
    if earlier is None:
        return f"{out_dir}: holds tables of an unknown run; --overwrite replaces them"
    if earlier.run_key != manifest.run_key:
        return f"{out_dir}: holds the results of another run; --overwrite replaces them"
    if earlier.finished is None:
        return f"{out_dir}: holds this run unfinished; --resume ends it, --overwrite begins anew"
    return f"{out_dir}: holds this run's results already; --overwrite computes them anew"


def _check_same_run(out_dir: Path, earlier: Manifest, manifest: Manifest) -> None:
    if earlier.run_key == manifest.run_key:
        return
    pairs = {
        name: (earlier.parameters.get(name), manifest.parameters.get(name))
        # The folder is this one, however it is spelled; the library counts by its content.
        for name in [*earlier.parameters, *manifest.parameters]
        if name not in ("out", "library")
    }
    for name, key in (("library", "sha256"), ("library", "n_records"), ("model", "sha256")):
        pairs[f"{name} {key}"] = (getattr(earlier, name).get(key), getattr(manifest, name).get(key))
    pairs["schema_version"] = (earlier.schema_version, manifest.schema_version)
    pairs |= {
        f"version of {name}": (earlier.versions.get(name), manifest.versions.get(name))
        for name in [*earlier.versions, *manifest.versions]
    }
    told = "; ".join(f"{name} was {a}, is {b}" for name, (a, b) in pairs.items() if a != b)
    raise OutputError(
        f"{out_dir}: cannot be resumed, it holds another run ({told or 'its run key differs'}); "
        "--overwrite replaces it"
    )


def _check_own_parts(parts: Sequence[Path], run_key: str) -> None:
    for path in parts:
        # A part without a key is torn: its shard is not finished and will be written anew.
        if read_part_key(path) not in (None, run_key):
            raise OutputError(f"{path}: is of another run; --overwrite replaces all parts")


# --- nothing is missing -----------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How many rows have each word; every word that there is, also those that none has."""

    status: dict[str, int]
    reason: dict[str, int]
    conformer_status: dict[str, int]

    @property
    def n_records(self) -> int:
        """Rows of `molecules`."""
        return sum(self.status.values())

    @property
    def n_conformers(self) -> int:
        """Rows of `conformers`."""
        return sum(self.conformer_status.values())

    def to_dict(self) -> dict[str, dict[str, int]]:
        """As the manifest keeps them."""
        return asdict(self)


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as part:
            return part.read(columns=columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise OutputError(f"{path}: cannot be read: {_line(error)}") from error


def reconcile(out_dir: Path, n_records: int, run_key: str | None = None) -> Counts:
    """Prove that the tables hold every record once, and count their rows.

    Reads a few columns, one part at a time, so memory does not grow with the library.

    Args:
        out_dir: Folder of the tables.
        n_records: Records that were to be processed; theirs are 0 to n_records - 1.
        run_key: If given, every part must be of this run.

    Raises:
        OutputError: If a record is missing, stands twice or does not belong to the library, or if
            a molecule's conformers are not those that its row counts.
    """
    status, reason, conformer_status = Counter[str](), Counter[str](), Counter[str]()
    missing, twice, outside, other = (_Examples() for _ in range(4))
    molecule_parts, conformer_parts = (_parts(out_dir / table) for table in _TABLES)
    if orphans := sorted(conformer_parts.keys() - molecule_parts.keys()):
        raise OutputError(f"{conformer_parts[orphans[0]]}: has no counterpart in molecules")
    if run_key is not None:
        for path in (*molecule_parts.values(), *conformer_parts.values()):
            if (found := read_part_key(path)) != run_key:
                raise OutputError(f"{path}: expected a part of run {run_key}, found {found}")
    following = 0  # the lowest record that has not come yet
    for shard, path in molecule_parts.items():
        molecules = _read(path, ["record", "status", "reason", "n_conformers", "n_converged"])
        molecules = molecules.sort_by("record")
        status.update(_count(molecules["status"]))
        reason.update(_count(molecules["reason"]))
        conformers = CONFORMERS_SCHEMA.empty_table()
        if shard in conformer_parts:
            conformers = _read(conformer_parts[shard], ["record", "conformer", "status"])
        conformer_status.update(_count(conformers["status"]))
        other.add(_with_other_conformers(molecules, conformers))

        records = molecules["record"].to_numpy()
        beyond = (records < 0) | (records >= n_records)
        outside.add(records[beyond])
        records = records[~beyond]
        before = np.maximum(np.concatenate([[-1], records])[: len(records)], following - 1)
        twice.add(records[records <= before])
        for i in np.flatnonzero(records > before + 1):
            missing.add_range(before[i] + 1, records[i] - 1)
        following = max(following, int(records.max(initial=-1)) + 1)
    if following < n_records:
        missing.add_range(following, n_records - 1)
    wrong = {
        "missing": missing,
        "twice": twice,
        "not in the library": outside,
        "with other conformers than their rows count": other,
    }
    if any(examples.n for examples in wrong.values()):
        told = "; ".join(f"{examples} {what}" for what, examples in wrong.items() if examples.n)
        raise OutputError(f"{out_dir}: the tables do not add up to {n_records} records: {told}")
    return Counts(
        status={word.value: status[word] for word in MoleculeStatus},
        reason={word.value: reason[word] for word in Reason},
        conformer_status={word.value: conformer_status[word] for word in ConformerStatus},
    )


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {
        pair["values"]: pair["counts"] for pair in column.drop_null().value_counts().to_pylist()
    }


def _with_other_conformers(molecules: pa.Table, conformers: pa.Table) -> np.ndarray:
    """Return the records of a shard whose conformers are not those that `molecules` counts.

    `molecules` is sorted by record.
    """
    records = molecules["record"].to_numpy()
    belongs_to = conformers["record"].to_numpy()
    row = np.searchsorted(records, belongs_to)
    known = np.isin(belongs_to, records)
    converged = conformers["status"].to_numpy() == ConformerStatus.CONVERGED.value
    n_conformers = np.bincount(row[known], minlength=len(records))
    n_converged = np.bincount(row[known & converged], minlength=len(records))
    rejected = molecules["status"].to_numpy() == MoleculeStatus.REJECTED.value
    wrong = (
        (n_conformers != molecules["n_conformers"].to_numpy())
        | (n_converged != molecules["n_converged"].to_numpy())
        | (rejected & (n_conformers > 0))
    )
    keys, n_times = np.unique(
        np.stack([belongs_to, conformers["conformer"].to_numpy()]), axis=1, return_counts=True
    )
    return np.unique(np.concatenate([records[wrong], belongs_to[~known], keys[0, n_times > 1]]))


class _Examples:
    """Counts records and remembers the first few, for a message."""

    def __init__(self) -> None:
        self.n = 0
        self.ranges: list[tuple[int, int]] = []

    def add_range(self, first: int, last: int) -> None:
        self.n += int(last) - int(first) + 1
        if len(self.ranges) < 5:
            self.ranges.append((int(first), int(last)))

    def add(self, records: np.ndarray) -> None:
        for record in records[:5]:
            self.add_range(record, record)
        self.n += max(len(records) - 5, 0)

    def __str__(self) -> str:
        shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in self.ranges)
        more = self.n - sum(b - a + 1 for a, b in self.ranges)
        return f"{self.n} ({shown}{', ...' if more else ''})"
