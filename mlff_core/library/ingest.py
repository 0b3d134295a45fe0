"""One pass over a library: count it, hash it, and cut it into shards of records.

Everything after it reads a shard by its number and never the library again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, cast

import numpy as np
import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library import Library
from mlff_core.library.files import HashedStream, is_url, open_raw
from mlff_core.library.read import read_entries
from mlff_core.library.records import POSED_RECORDS_SCHEMA, RECORDS_SCHEMA, ShardWriter

#: Records whose notes are told one by one; of the others their number is told.
_NOTES_TOLD: Final = 3


@dataclass(frozen=True)
class IngestReport:
    """What one pass over a library found; plain data.

    Attributes:
        n_records: Records that were read.
        shard_size: Records in every shard but the last.
        n_shards: Number of shards; they are counted from 0.
        sha256: In hexadecimal, of what `hashed` says.
        hashed: "file": the bytes of the file as they are stored. "records": the records that were
            read, for a limit, which must not read the rest of a large file. Equal records give
            equal hashes, wherever they come from and however they were compressed.
        smiles_column: Column that the SMILES were read from; None where the format has none.
        id_column: Column that the ids were read from; None where there is none.
        notes: What was guessed or is odd, in sentences.
    """

    n_records: int
    shard_size: int
    n_shards: int
    sha256: str
    hashed: Literal["file", "records"]
    smiles_column: str | None
    id_column: str | None
    notes: tuple[str, ...]

    def records_in(self, shard: int) -> range:
        """The records of a shard."""
        if not 0 <= shard < self.n_shards:
            raise IndexError(f"shard: expected 0 to {self.n_shards - 1}, found {shard}")
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.n_records))


def ingest(
    library: Library, out_dir: Path, shard_size: int, limit: int | None = None
) -> IngestReport:
    """Read a library once, from its begin to its end or to the limit, and write its shards.

    Memory holds one shard, whatever the length of the library. Files of an earlier pass are
    overwritten.

    Args:
        library: The opened library.
        out_dir: Folder of the shards; it is made if it is not there.
        shard_size: Records a shard, at least 1.
        limit: Stop after this many records; no more of the file is read than they need.

    Raises:
        LibraryError: The library is damaged; says after which record. Or it was changed meanwhile.
        OSError: A shard cannot be written.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size: expected at least 1, found {shard_size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, found {limit}")
    out_dir.mkdir(parents=True, exist_ok=True)
    notes = list(library.notes)
    with (
        _unchanged(library.file),
        _opened(library, out_dir, whole=limit is None) as (stored, hashed),
        ShardWriter(out_dir) as writer,
    ):
        shards = _Shards(writer, shard_size)
        digest = hashlib.sha256()
        for batch in read_entries(library, stored, notes):
            if limit is not None:
                batch = batch.slice(0, limit - shards.n_records)
                _hash_records(digest, batch)
            shards.add(batch)
            if shards.n_records == limit:
                break
        shards.end()
        sha256 = digest.hexdigest() if hashed is None else hashed.sha256()
    return IngestReport(
        n_records=shards.n_records,
        shard_size=shard_size,
        n_shards=writer.n_shards,
        sha256=sha256,
        hashed="records" if limit is not None else "file",
        smiles_column=library.smiles_column,
        id_column=library.id_column,
        notes=(*notes, *shards.notes()),
    )


@contextmanager
def _unchanged(file: str) -> Iterator[None]:
    """Notice that a local file is written to while it is read: its hash would name no version.

    Raises:
        LibraryError: It is another file now, or has another size or time than before.
    """
    before = _state_of(file)
    yield
    if _state_of(file) != before:
        raise LibraryError(f"{file}: was changed while it was read; run again when it is at rest")


def _state_of(file: str) -> tuple[int, ...] | None:
    if is_url(file):
        return None
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _opened(
    library: Library, out_dir: Path, whole: bool
) -> Iterator[tuple[IO[bytes], HashedStream | None]]:
    """Open a library for one pass; yields its bytes, and what hashes them if it is read whole."""
    if not whole:
        parquet = library.format == "parquet"
        with open_raw(library.file, seekable=parquet, sparing=True) as stored:
            yield stored, None
        return
    with open_raw(library.file) as stored:
        hashed = HashedStream(stored)
        if library.format != "parquet":
            yield cast(IO[bytes], hashed), hashed
        elif not is_url(library.file):  # read from its end, while the hash goes from its begin
            with open_raw(library.file, seekable=True) as seekable:
                yield seekable, hashed
        else:  # one transfer: the hash is taken on the way to the disk
            with tempfile.TemporaryFile(dir=out_dir) as spooled:
                while piece := hashed.read(1 << 20):
                    spooled.write(piece)
                spooled.seek(0)
                yield cast(IO[bytes], spooled), hashed


def _hash_records(digest: "hashlib._Hash", batch: pa.RecordBatch) -> None:
    columns = (column.to_pylist() for column in batch.columns)
    for entry in zip(*columns, strict=True):
        digest.update(json.dumps(entry).encode() + b"\n")


class _Shards:
    """Cuts records into shards of one size, as they come."""

    def __init__(self, writer: ShardWriter, shard_size: int) -> None:
        self.n_records = 0
        self._writer = writer
        self._shard_size = shard_size
        self._waiting: list[pa.RecordBatch] = []
        self._n_waiting = 0
        self._n_noted = 0
        self._first_notes: list[str] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch of entries, and write every shard that is full."""
        self._look_at_notes(batch)
        record = np.arange(self.n_records, self.n_records + len(batch), dtype=np.int64)
        schema = POSED_RECORDS_SCHEMA if "pose" in batch.schema.names else RECORDS_SCHEMA
        records = pa.RecordBatch.from_arrays([pa.array(record), *batch.columns], schema=schema)
        begin = 0
        while begin < len(records):
            part = records.slice(begin, self._shard_size - self._n_waiting)
            begin += len(part)
            self._waiting.append(part)
            self._n_waiting += len(part)
            self.n_records += len(part)
            if self._n_waiting == self._shard_size:
                self._write()

    def end(self) -> None:
        """Write the last shard, which may be short."""
        if self._n_waiting:
            self._write()

    def notes(self) -> list[str]:
        """What the readers said of single records."""
        more = self._n_noted - len(self._first_notes)
        return self._first_notes + ([f"and {more} more records like these"] if more else [])

    def _look_at_notes(self, batch: pa.RecordBatch) -> None:
        note = batch.column("note")
        if note.null_count == len(note):
            return
        for i, sentence in enumerate(note.to_pylist()):
            if sentence is not None:
                self._n_noted += 1
                if len(self._first_notes) < _NOTES_TOLD:
                    self._first_notes.append(f"record {self.n_records + i}: {sentence}")

    def _write(self) -> None:
        self._writer.write(self._waiting)
        self._waiting, self._n_waiting = [], 0
