"""The command `mlff-screen strain`: given poses against the lowest minima of their molecules."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from flows.call import Call, option
from flows.text import counted, printable
from mlff_core.errors import MlffError, OutputError

if TYPE_CHECKING:
    import pyarrow as pa

    from mlff_core.chem.molecule import PreparedMolecule
    from mlff_core.chem.pool import EmbeddingPool
    from mlff_core.library import Library
    from mlff_core.properties.strain import Geometry, Solvate
    from mlff_core.tables.strain_row import StrainRow

#: Poses that are computed together, about; those of one molecule are never apart.
POSES_AT_ONCE = 256
#: The table, and the same for a spreadsheet, without geometries.
TABLE, SHEET = "strain.parquet", "strain.csv"


class StrainCall(Call):
    """The strain of the poses of one file."""

    poses: str = option(
        ..., "first", "Poses: an .sdf with 3D coordinates, plain or .gz", min_length=1
    )
    out: str = option("out/strain", "first", f"Folder for {TABLE}", min_length=1)
    csv: bool = option(False, "first", f"Write {SHEET} too, without geometries")
    conformers: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = option(
        "auto",
        "first",
        "Conformers to search the lowest minimum with; auto: by rotatable bonds and rings",
    )
    model: str = option("default", "first", "default, small, or a checkpoint", min_length=1)
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "first", "auto is cuda where there is one"
    )
    limit: int | None = option(None, "first", "Read no more than this many poses", ge=1)
    solvent: Literal["none", "water"] = option(
        "none",
        "first",
        "Add the energy of solvation in water to all geometries, which charged poses need; the "
        "extra [solvent] computes it",
    )
    solvent_seconds: float = option(
        120.0, "machine", "Seconds that solvation of one geometry may take", gt=0, le=86_400
    )
    flat_bottom: float = option(
        0.3, "relaxation", "Å that heavy atoms may go from the pose without a spring", ge=0, le=10
    )
    fmax: float = option(
        0.01, "relaxation", "Largest force left in geometries that are compared, eV/Å", gt=0, le=1
    )
    max_steps: int = option(1000, "relaxation", "Steps of each relaxation", ge=1, le=100_000)
    max_conformers: int = option(
        100, "molecules", "Most conformers with --conformers auto", ge=8, le=1000
    )
    max_atoms: int = option(250, "molecules", "Larger molecules are rejected", ge=1, le=2000)
    seed: int = option(20_260_101, "molecules", "Seed of the search", ge=0, le=2**31 - 1)
    backend: Literal["auto", "triton", "numba"] = option(
        "auto", "machine", "What computes the model"
    )
    workers: int | None = option(
        None, "machine", "Embedding processes; one for each usable core if not given", ge=1, le=1024
    )
    overwrite: bool = option(False, "results", "Replace the table of an earlier run there")


def run_strain(call: StrainCall, tell: Callable[[str], None]) -> "list[StrainRow]":
    """Compute the table and write it; returns its rows.

    Args:
        call: What is asked.
        tell: Told how far it is, in words.

    Raises:
        MlffError: What the call names cannot be used.
    """
    import pyarrow.csv
    import pyarrow.parquet

    from mlff_core.arrow import table_of
    from mlff_core.chem.molecule import ChemistrySettings
    from mlff_core.chem.pool import EmbeddingPool
    from mlff_core.library import open_library
    from mlff_core.models.reference import refer_to_model
    from mlff_core.properties.water import described
    from mlff_core.store import whole_file
    from mlff_core.tables.strain_row import StrainRow

    try:
        solvent = described() if call.solvent == "water" else "none"
    except ValueError as error:  # the extra is not there
        raise MlffError(str(error)) from error
    library = open_library(call.poses, poses=True)
    model = refer_to_model(call.model)
    out = Path(call.out).expanduser()
    if (out / TABLE).exists() and not call.overwrite:
        raise OutputError(f"{out / TABLE}: is there already; --overwrite replaces it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made: {error.strerror}") from error
    settings = ChemistrySettings(
        n_conformers=None if call.conformers == "auto" else call.conformers,
        max_conformers=call.max_conformers,
        max_atoms=call.max_atoms,
        seed=call.seed,
        elements=model.elements,
        min_charge=model.min_charge,
        max_charge=model.max_charge,
        from_3d="all",
    )
    with EmbeddingPool(settings, call.workers) as pool:
        rows = _rows(call, library, pool, tell)
    table = table_of(rows, StrainRow)
    about = {
        "model_name": model.name,
        "model_sha256": model.sha256,
        "solvent": solvent,
        "call": call.model_dump_json(),
    }
    with whole_file(out / TABLE) as stream:
        pyarrow.parquet.write_table(table.replace_schema_metadata(about), stream)
    if call.csv:
        plain = [name for name in table.column_names if not _is_list(table, name)]
        with whole_file(out / SHEET) as stream:
            pyarrow.csv.write_csv(table.select(plain), stream)
    return rows


def _is_list(table: "pa.Table", name: str) -> bool:
    return str(table.schema.field(name).type).startswith("list")


def _rows(
    call: StrainCall, library: "Library", pool: "EmbeddingPool", tell: Callable[[str], None]
) -> "list[StrainRow]":
    """All rows, in the order of the file."""
    from mlff_core.chem.pose import pose
    from mlff_core.models.potential import load_potential
    from mlff_core.properties.strain import StrainSettings, strain
    from mlff_core.shard import with_unreadable

    records = list(islice(library.records(), call.limit))
    readable = ((r.record, r.input_id, r.smiles, r.pose) for r in records if r.smiles is not None)
    poses = with_unreadable(list(pool.map(readable, pose)), records)
    potential = load_potential(call.model, device=call.device, backend=call.backend)
    tell(f"{len(poses):,} poses, model {potential.name} on {potential.device_name}")
    settings = StrainSettings(call.flat_bottom, call.fmax, call.max_steps)
    rows: list[StrainRow] = []
    with _water(call) as solvate:
        for group in _groups(poses):
            searched = _searched(group, pool, charged=solvate is not None)
            rows += strain(group, searched, potential, settings, solvate)
            tell(f"{len(rows):,} of {len(poses):,} poses")
    return sorted(rows, key=lambda row: row.record)


@contextmanager
def _water(call: StrainCall) -> "Iterator[Solvate | None]":
    """What gives energies of solvation, in processes of its own; None if none are wanted."""
    if call.solvent == "none":
        yield None
        return
    from mlff_core.chem.molecule import ChemistrySettings
    from mlff_core.chem.pool import EmbeddingPool
    from mlff_core.properties.water import solvate
    from mlff_core.units import EV_KCAL_MOL

    def energies(geometries: "Sequence[Geometry]") -> list[float | None]:
        tasks = ((k, None, "", *geometry) for k, geometry in enumerate(geometries))
        found = pool.map(tasks, solvate)
        return [one / EV_KCAL_MOL if isinstance(one, float) else None for one in found]

    settings = ChemistrySettings(hard_timeout_s=call.solvent_seconds)
    with EmbeddingPool(settings, call.workers) as pool:
        yield energies


def _groups(poses: "Sequence[PreparedMolecule]") -> "Iterator[list[PreparedMolecule]]":
    """Poses in groups of about `POSES_AT_ONCE`, those of one molecule together."""
    of: dict[str, list[PreparedMolecule]] = {}
    for one in poses:
        of.setdefault(one.smiles or "", []).append(one)
    group: list[PreparedMolecule] = []
    for own in of.values():
        if group and len(group) + len(own) > POSES_AT_ONCE:
            yield group
            group = []
        group += own
    if group:
        yield group


def _searched(
    poses: "Sequence[PreparedMolecule]", pool: "EmbeddingPool", *, charged: bool
) -> "dict[str, PreparedMolecule]":
    """The molecules of the poses whose strain means something, each with embedded conformers."""
    from mlff_core.chem.prepare import prepare
    from mlff_core.properties.strain import is_charged
    from mlff_core.status import MoleculeStatus

    names = dict.fromkeys(
        one.smiles
        for one in poses
        if one.status == MoleculeStatus.OK
        and one.smiles
        and (charged or not is_charged(one.smiles))
    )
    embedded = pool.map(((k, None, smiles) for k, smiles in enumerate(names)), prepare)
    return dict(zip(names, embedded, strict=True))


def summary(rows: "Sequence[StrainRow]", out: str) -> str:
    """What came of a file of poses, in a few lines."""
    statuses = Counter(str(row.status) for row in rows)
    lines = [f"{len(rows):,} poses: {counted(statuses)}"]
    reasons = Counter(str(row.reason) for row in rows if row.reason is not None)
    if reasons:
        lines.append(f"  {counted(reasons)}")
    found = sorted(
        (row.strain_restrained_kcal_mol, row.record, row.input_id or "")
        for row in rows
        if row.strain_restrained_kcal_mol is not None
    )
    if found:
        values = [value for value, _, _ in found]
        lines.append(
            f"strain within the flat bottom, kcal/mol: median {median(values):.1f}, "
            f"{values[0]:.1f} to {values[-1]:.1f}"
        )
        value, record, name = found[-1]
        lines.append(f"  the most: record {record} {printable(name)[:32]} {value:.1f}")
        by = Counter(str(row.global_found_by) for row in rows if row.global_found_by is not None)
        lines.append(f"lowest minimum found by: {counted(by)}")
    lines.append(f"table: {Path(out) / TABLE}")
    return "\n".join(lines)


def command(call: StrainCall, *, quiet: bool, as_json: bool) -> int:
    """Run it and say what came of it; returns the exit status.

    Raises:
        MlffError: The call was wrong.
    """
    silent = quiet or as_json
    rows = run_strain(call, (lambda text: None) if silent else _told)
    if as_json:
        statuses = Counter(str(row.status) for row in rows)
        print(json.dumps({"out": str(Path(call.out) / TABLE), "n_poses": len(rows), **statuses}))
    elif not quiet:
        print(summary(rows, call.out))
    return 0


def _told(text: str) -> None:
    print(f"mlff-screen: {text}", file=sys.stderr, flush=True)
