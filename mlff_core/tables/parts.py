"""One shard's part of a table: written whole, found again, asked whose it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.errors import OutputError
from mlff_core.schema import ROWS, SCHEMA_VERSION
from mlff_core.store import Store, one_line, open_store
from mlff_core.tables.rows import SCHEMAS

#: Rows in a row group, so that a reader who wants a few records unpacks little more: some
#: megabytes in either table.
_ROW_GROUP: Final = {"molecules": 32_768, "conformers": 4_096}
_PREFIX: Final = "mlff_screen."
PART_NAME: Final = re.compile(r"part-(\d{6,})\.parquet")


def write_part(table: pa.Table, out: Store | Path, shard: int, metadata: Mapping[str, str]) -> str:
    """Write one shard's part of a table, whole or not at all, and return its name.

    Args:
        table: What `molecules_table` or `conformers_table` made.
        out: Where the tables lie.
        shard: Number of the shard.
        metadata: What the file's footer says of the run, beside the schema's version; `run_key`
            says whose it is.
    """
    if "run_key" not in metadata:
        raise ValueError(f"metadata: expected a run_key, found {sorted(metadata)}")
    what = next((name for name, known in SCHEMAS.items() if table.schema.equals(known)), None)
    if what is None:
        raise ValueError("expected a table made by molecules_table or conformers_table")
    key = ROWS[what].KEY
    footer = {"schema_version": SCHEMA_VERSION} | dict(metadata)
    table = table.sort_by([(name, "ascending") for name in key])
    table = table.replace_schema_metadata({f"{_PREFIX}{k}": v for k, v in footer.items()})
    name = f"{what}/part-{shard:06d}.parquet"
    with open_store(out).put(name) as stream:
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
            sorting_columns=[pq.SortingColumn(table.schema.get_field_index(name)) for name in key],
            write_page_index=True,
        )
    return name


def _is_float_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


def parts_in(out: Store, table: str) -> dict[int, str]:
    """Names of a table's parts by shard, in order."""
    found = ((PART_NAME.fullmatch(name.rpartition("/")[2]), name) for name in out.list(table))
    return dict(sorted((int(part[1]), name) for part, name in found if part))


def read_footer(out: Store, name: str) -> dict[str, str]:
    """What a part's footer says of its run; nothing if it is missing, torn or not ours."""
    try:
        with out.open(name) as stream:
            footer = pq.read_metadata(stream).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    told = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in footer.items()}
    return {k.removeprefix(_PREFIX): v for k, v in told.items() if k.startswith(_PREFIX)}


def read_part_key(out: Store, name: str) -> str | None:
    """The run key in a part's footer; None if the file is missing, torn or not ours."""
    return read_footer(out, name).get("run_key")


def finished_shards(out: Store | Path, run_key: str) -> set[int]:
    """Return the shards whose parts are there, whole, and of this run.

    Only a shard without any conformer may lack its part of `conformers`.
    """
    out = open_store(out)
    conformers = parts_in(out, "conformers")
    finished = set()
    for shard, name in parts_in(out, "molecules").items():
        if read_part_key(out, name) != run_key:
            continue
        other = conformers.get(shard)
        if (other is not None and read_part_key(out, other) == run_key) or (
            not read_columns(out, name, ["n_conformers"])["n_conformers"].to_numpy().any()
        ):
            finished.add(shard)
    return finished


def read_columns(out: Store, name: str, columns: list[str]) -> pa.Table:
    """Some columns of a part.

    Raises:
        OutputError: It cannot be read; names the file.
    """
    try:
        with out.open(name) as stream, pq.ParquetFile(stream) as part:
            return part.read(columns=columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise OutputError(f"{out.url(name)}: cannot be read: {one_line(error)}") from error
