"""One shard's part of a table: written whole, found again, asked whose it is and if it is whole.

A part carries the SHA-256 of itself: of all its bytes, with zeros in the place of the checksum,
which stands in the footer. No second file has to agree with it, and any byte that is not as it was
written is noticed.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.cores import usable_cores
from mlff_core.errors import OutputError
from mlff_core.schema import ROWS, SCHEMA_VERSION
from mlff_core.store import Location, Store, one_line, open_store
from mlff_core.tables.rows import SCHEMAS

#: Rows in a row group, so that a reader who wants a few records unpacks little more: some
#: megabytes in either table.
_ROW_GROUP: Final = {"molecules": 32_768, "conformers": 4_096}
_PREFIX: Final = "mlff_screen."
PART_NAME: Final = re.compile(r"part-(\d{6,})\.parquet")
_CHECKSUM_KEY: Final = f"{_PREFIX}sha256"
#: What stands in the place of the checksum while it is taken.
_NO_CHECKSUM: Final = b"0" * 64
#: The checksum in a footer: Thrift puts the kind and the length of a text between key and value.
_CHECKSUM: Final = re.compile(
    re.escape(_CHECKSUM_KEY.encode()) + rb"\x18\x40([0-9a-f]{64})", re.DOTALL
)
_BLOCK_BYTES: Final = 1 << 20
#: What pyarrow raises at what is not Parquet, wherever the damage is.
_DAMAGE: Final = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError)


def write_part(
    table: pa.Table, out: Store | Location, shard: int, metadata: Mapping[str, str]
) -> str:
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
    footer = {"schema_version": SCHEMA_VERSION, "shard": str(shard)} | dict(metadata)
    table = table.sort_by([(name, "ascending") for name in key])
    table = table.replace_schema_metadata({f"{_PREFIX}{k}": v for k, v in footer.items()})
    name = f"{what}/part-{shard:06d}.parquet"
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        table.schema,
        compression="zstd",
        # Coordinates and forces never repeat: no dictionary, and the bytes of like weight
        # side by side, which zstd packs better.
        use_dictionary=[c.name for c in table.schema if pa.types.is_string(c.type)],
        use_byte_stream_split=[
            f"{c.name}.list.element" for c in table.schema if _is_float_list(c.type)
        ],
        sorting_columns=[pq.SortingColumn(table.schema.get_field_index(name)) for name in key],
        write_page_index=True,
    ) as writer:
        writer.write_table(table, row_group_size=_ROW_GROUP[what])
        writer.add_key_value_metadata({_CHECKSUM_KEY: _NO_CHECKSUM.decode()})
    part = buffer.getbuffer()
    begin, _ = _checksum_in(part, len(part))
    part[begin : begin + 64] = hashlib.sha256(part).hexdigest().encode()
    with open_store(out).put(name) as stream:
        stream.write(part)
    return name


def _checksum_in(tail: bytes | memoryview, size: int) -> tuple[int, str]:
    """Where in a file of `size` bytes its checksum stands, and what it is.

    Args:
        tail: The last bytes of the file, its footer among them.
        size: Bytes of the file.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = list(_CHECKSUM.finditer(tail, max(0, len(tail) - 8 - _footer_bytes(tail))))
    if len(found) != 1:
        raise ValueError(f"expected one checksum, found {len(found)}")
    return size - len(tail) + found[0].start(1), found[0][1].decode()


def _footer_bytes(tail: bytes | memoryview) -> int:
    """Bytes of a Parquet file's footer, from the file's last eight."""
    return int.from_bytes(tail[-8:-4], "little")


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
    except _DAMAGE:
        return {}
    words = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in footer.items()}
    return {k.removeprefix(_PREFIX): v for k, v in words.items() if k.startswith(_PREFIX)}


def read_part_key(out: Store, name: str) -> str | None:
    """The run key in a part's footer; None if the file is missing, torn or not ours."""
    return read_footer(out, name).get("run_key")


def is_whole(out: Store, name: str) -> bool:
    """Whether every byte of a part is as it was written; reads all of it."""
    try:
        with out.open(name) as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(max(0, size - 8))
            wanted = _footer_bytes(stream.read(8)) + 8
            stream.seek(max(0, size - wanted))
            begin, stated = _checksum_in(stream.read(wanted), size)
            digest = hashlib.sha256()
            stream.seek(0)
            for piece in _pieces(stream, begin):
                digest.update(piece)
            digest.update(_NO_CHECKSUM)
            stream.seek(begin + len(_NO_CHECKSUM))
            for piece in _pieces(stream, size):
                digest.update(piece)
    except (OSError, ValueError):
        return False
    return digest.hexdigest() == stated


def _pieces(stream: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    """The next bytes of a stream, no more than so many."""
    while n_bytes > 0 and (piece := stream.read(min(n_bytes, _BLOCK_BYTES))):
        n_bytes -= len(piece)
        yield piece


def finished_shards(out: Store | Location, run_key: str, shards: range | None = None) -> set[int]:
    """Return the shards whose parts are there, of this run, and whole to the last byte.

    Only a shard without any conformer may lack its part of `conformers`. Reads every part.

    Args:
        out: Where the tables lie.
        run_key: Of the run.
        shards: Those to look at; None for all.
    """
    out = open_store(out)

    def is_own(shard: int, name: str) -> bool:
        return _is_of(read_footer(out, name), run_key, shard) and is_whole(out, name)

    parts = {
        table: {
            k: name for k, name in parts_in(out, table).items() if shards is None or k in shards
        }
        for table in ROWS
    }
    # Hashing lets other threads run, and so does waiting for a bucket.
    with ThreadPoolExecutor(max(4, usable_cores())) as threads:
        own = {
            table: [
                shard
                for shard, yes in zip(
                    names, threads.map(is_own, names, names.values()), strict=True
                )
                if yes
            ]
            for table, names in parts.items()
        }
    with_conformers = set(own["conformers"])
    return {
        shard
        for shard in own["molecules"]
        if shard in with_conformers
        or (
            shard not in parts["conformers"]
            and _counts_no_conformers(out, parts["molecules"][shard])
        )
    }


def _is_of(footer: Mapping[str, str], run_key: str, shard: int) -> bool:
    """Whether a part is of a run, and stands under the number that it was written for."""
    return footer.get("run_key") == run_key and footer.get("shard") == str(shard)


def _counts_no_conformers(out: Store, name: str) -> bool:
    return not read_columns(out, name, ["n_conformers"])["n_conformers"].to_numpy().any()


def read_columns(out: Store, name: str, columns: list[str]) -> pa.Table:
    """Some columns of a part.

    Raises:
        OutputError: It cannot be read; names the file.
    """
    try:
        with out.open(name) as stream, pq.ParquetFile(stream) as part:
            return part.read(columns=columns)
    except (*_DAMAGE, KeyError) as error:
        raise OutputError(f"{out.url(name)}: cannot be read: {one_line(error)}") from error
