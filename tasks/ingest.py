"""The step that reads a library, once, and cuts it into shards of records."""

from dataclasses import dataclass
from pathlib import Path

from mlff_core.library import Library
from mlff_core.shard import ShardFiles, write_records


@dataclass(frozen=True)
class Ingested:
    """What was read.

    Attributes:
        n_records: Records.
        sha256: Of the library's bytes.
    """

    n_records: int
    sha256: str


def ingest(library: Library, work_dir: str, shard_size: int, limit: int | None) -> Ingested:
    """Write the records of every shard into the work folder.

    Raises:
        LibraryError: The library breaks off or cannot be read on.
    """
    n_records = 0
    for shard, records in library.shards(shard_size, limit):
        write_records(records, ShardFiles.of(Path(work_dir), shard).records)
        n_records += len(records)
    return Ingested(n_records, library.sha256())
