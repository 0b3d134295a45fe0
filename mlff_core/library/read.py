"""Reading the entries of a library whose layout is known."""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library.delimited import read_delimited
from mlff_core.library.files import READ_ERRORS, is_url, one_line, unpacked
from mlff_core.library.layout import Layout
from mlff_core.library.parquet import read_parquet
from mlff_core.library.sdf import read_sdf
from mlff_core.library.smi import read_smi


def read_entries(layout: Layout, stored: IO[bytes], notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the entries of a library in batches of `ENTRIES_SCHEMA`, none of them empty.

    Args:
        layout: How the file is laid out.
        stored: The bytes of the file as they are stored, at their begin.
        notes: Receives what is odd about the file as a whole, when it is found.

    Raises:
        LibraryError: If the file breaks off or cannot be read on; says after which record.
    """
    position = 0
    try:
        for batch in _batches(layout, stored, notes):
            yield batch
            position += len(batch)
    except LibraryError:
        raise
    except Exception as error:
        # A remote file system raises whatever its driver raises; elsewhere it is our mistake.
        if not (is_url(layout.file) or isinstance(error, READ_ERRORS)):
            raise
        where = f"after record {position - 1}" if position else "before record 0"
        raise LibraryError(
            f"{layout.file}: cannot be read on {where}: {one_line(error)}"
        ) from error


def _batches(layout: Layout, stored: IO[bytes], notes: list[str]) -> Iterator[pa.RecordBatch]:
    if layout.format == "parquet":
        yield from read_parquet(layout, stored)
        return
    with unpacked(stored, layout.gzipped) as stream:
        if layout.format == "sdf":
            yield from read_sdf(layout, stream, notes)
        elif layout.delimiter is None:
            yield from read_smi(layout, stream, notes)
        else:
            yield from read_delimited(layout, stream, notes)
