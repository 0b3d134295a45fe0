"""Reading the entries of a library whose layout is known."""

from collections.abc import Iterator
from typing import IO, Final

import pyarrow as pa
import pyarrow.compute as pc

from mlff_core.errors import LibraryError
from mlff_core.library.delimited import read_delimited
from mlff_core.library.files import READ_ERRORS, is_url, one_line, unpacked
from mlff_core.library.layout import ENTRIES_SCHEMA, Layout, entries
from mlff_core.library.parquet import read_parquet
from mlff_core.library.sdf import read_sdf
from mlff_core.library.smi import read_smi

#: Bytes of the longest SMILES and of the longest id. Two thousand atoms with coordinates need half
#: of the former; a shard of ten thousand records is held in memory.
LONGEST_SMILES: Final = 1 << 16
LONGEST_ID: Final = 1 << 12
_LIMITS: Final = {"smiles": LONGEST_SMILES, "input_id": LONGEST_ID}


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
            yield _bounded(batch)
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
    with unpacked(stored, layout.gzipped, layout.file) as stream:
        if layout.format == "sdf":
            yield from read_sdf(layout, stream, notes)
        elif layout.delimiter is None:
            yield from read_smi(layout, stream, notes)
        else:
            yield from read_delimited(layout, stream, notes)


def _bounded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Entries without what is far too long: a SMILES is left out, an id is cut, and both noted."""
    lengths = (_longest(batch.column(name)) for name in _LIMITS)
    if all(n <= limit for n, limit in zip(lengths, _LIMITS.values(), strict=True)):
        return batch
    ids, smiles, notes = (batch.column(name).to_pylist() for name in ENTRIES_SCHEMA.names)
    noted = {i: note for i, note in enumerate(notes) if note is not None}
    for i, (one, text) in enumerate(zip(ids, smiles, strict=True)):
        if text is not None and len(text.encode()) > LONGEST_SMILES:
            smiles[i] = None
            noted[i] = (
                f"a SMILES of {len(text):,} characters; no more than {LONGEST_SMILES:,} are read"
            )
        if one is not None and len(one.encode()) > LONGEST_ID:
            ids[i] = one.encode()[:LONGEST_ID].decode("utf-8", "ignore")
            cut = f"an id of {len(one):,} characters is cut"
            noted[i] = f"{noted[i]}; {cut}" if i in noted else cut
    poses = batch.column("pose").to_pylist() if "pose" in batch.schema.names else None
    return entries(ids, smiles, noted, poses)


def _longest(texts: pa.Array) -> int:
    """Bytes of the longest text."""
    lengths = pc.call_function("binary_length", [texts])
    return pc.call_function("max", [lengths]).as_py() or 0
