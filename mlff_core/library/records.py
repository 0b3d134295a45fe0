"""Shards of records: what ingesting a library leaves for everything after it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import pyarrow as pa

from mlff_core.library.layout import ENTRIES_SCHEMA, POSES_SCHEMA, Record

#: A shard of records: `record` is the position in the library, the rest as the readers give it.
RECORDS_SCHEMA: Final = pa.schema([pa.field("record", pa.int64()), *ENTRIES_SCHEMA])
#: The same with geometries.
POSED_RECORDS_SCHEMA: Final = pa.schema([pa.field("record", pa.int64()), *POSES_SCHEMA])

#: Shards in one file, each of them a batch of it. A shard may hold but fifty records, and to make
#: a file may cost more than to read fifty lines.
SHARDS_A_FILE: Final = 100


def _file(folder: Path, shard: int) -> Path:
    return folder / f"records-{shard // SHARDS_A_FILE:06d}.arrow"


class ShardWriter:
    """Writes shards of records into a folder, one after the other.

    Nothing is renamed into place or forced to the disk: a pass over a library that is cut off is
    made again from its begin.
    """

    def __init__(self, folder: Path, first: int = 0) -> None:
        """Begin.

        Args:
            folder: Where the files go.
            first: Number of the first shard, where an earlier pass has those before it.
        """
        self.n_shards = first
        self._folder = folder
        self._open = ExitStack()
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._missing = first % SHARDS_A_FILE

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Write the next shard: its batches, of one of the two schemas, one after the other."""
        schema = batches[0].schema
        if self._writer is None or self.n_shards % SHARDS_A_FILE == 0:
            self._open.close()
            file = open(_file(self._folder, self.n_shards), "wb", buffering=1 << 20)  # noqa: SIM115
            self._open.enter_context(file)
            self._writer = self._open.enter_context(pa.ipc.new_file(file, schema))
            for _ in range(self._missing):  # a shard is the batch of its number
                self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))
            self._missing = 0
        self._writer.write_batch(batches[0] if len(batches) == 1 else pa.concat_batches(batches))
        self.n_shards += 1

    def __enter__(self) -> Self:
        """Of a `with` statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the last file."""
        self._open.close()


def read_records(folder: Path, shard: int) -> list[Record]:
    """Read a shard of records."""
    with pa.memory_map(str(_file(folder, shard))) as source:
        columns = pa.ipc.open_file(source).get_batch(shard % SHARDS_A_FILE).to_pydict()
    return [Record(*row) for row in zip(*columns.values(), strict=True)]
