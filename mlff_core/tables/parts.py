"""One shard's part of a table: written whole, found again, asked whose it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.errors import OutputError
from mlff_core.store import whole_file
from mlff_core.tables.schema import KEYS, SCHEMA_VERSION, SCHEMAS, TABLES

#: Rows in a row group, so that a reader who wants a few records unpacks little more: some
#: megabytes in either table.
_ROW_GROUP: Final = {"molecules": 32_768, "conformers": 4_096}
_PREFIX: Final = "mlff_screen."
_PART_NAME: Final = re.compile(r"part-(\d{6,})\.parquet")


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
    what = next((name for name in TABLES if table.schema.equals(SCHEMAS[name])), None)
    if what is None:
        raise ValueError("expected a table made by molecules_table or conformers_table")
    footer = {"schema_version": SCHEMA_VERSION} | dict(metadata)
    table = table.sort_by([(name, "ascending") for name in KEYS[what]])
    table = table.replace_schema_metadata({f"{_PREFIX}{k}": v for k, v in footer.items()})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{shard:06d}.parquet"
    with whole_file(path) as stream:
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
                pq.SortingColumn(table.schema.get_field_index(name)) for name in KEYS[what]
            ],
            write_page_index=True,
        )
    return path


def _is_float_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


def parts_in(folder: Path) -> dict[int, Path]:
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
    conformers = parts_in(out_dir / "conformers")
    finished = set()
    for shard, path in parts_in(out_dir / "molecules").items():
        if read_part_key(path) != run_key:
            continue
        other = conformers.get(shard)
        if (other is not None and read_part_key(other) == run_key) or (
            not read_columns(path, ["n_conformers"])["n_conformers"].to_numpy().any()
        ):
            finished.add(shard)
    return finished


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as part:
            return part.read(columns=columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise OutputError(f"{path}: cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Say an error in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
