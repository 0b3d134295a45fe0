"""The step that reads a library, once, and cuts it into shards of records."""

from pathlib import Path

from mlff_core.library import Library
from mlff_core.library.ingest import IngestReport
from mlff_core.library.ingest import ingest as ingest_library


def ingest(library: Library, work_dir: str, shard_size: int, limit: int | None) -> IngestReport:
    """Write the records of every shard into the work folder.

    Raises:
        LibraryError: The library breaks off or cannot be read on.
    """
    return ingest_library(library, Path(work_dir), shard_size, limit)
