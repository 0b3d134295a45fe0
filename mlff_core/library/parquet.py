"""Libraries in Parquet."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import repeat
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.errors import LibraryError
from mlff_core.library.columns import choose_id, choose_smiles
from mlff_core.library.files import READ_ERRORS, one_line, open_bytes
from mlff_core.library.layout import Entry, Layout

_ROWS_A_BATCH: Final = 8192
_TEXT_TYPES: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)


def fit_parquet(
    layout: Layout, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    try:
        with open_parquet(layout) as table:
            schema = table.schema_arrow
    except READ_ERRORS as error:
        raise LibraryError(
            f"{layout.file}: is not a whole Parquet file: {one_line(error)}"
        ) from error
    smiles_column = choose_smiles(layout.file, schema.names, smiles, notes)
    id_column = choose_id(layout.file, schema.names, ids, smiles_column, notes)
    kind = schema.field(smiles_column).type
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_it(value_type) for is_it in _TEXT_TYPES):
        raise LibraryError(
            f"{layout.file}: column {smiles_column!r} holds {kind}; expected text for the SMILES"
        )
    return replace(layout, smiles_column=smiles_column, id_column=id_column)


@contextmanager
def open_parquet(layout: Layout) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        stream = stack.enter_context(open_bytes(layout.file, layout.gzipped))
        if layout.gzipped:  # Parquet is read from its end, which gzip cannot do
            spooled = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, spooled, 1 << 20)
            stream = spooled
        # Without pre-buffering, no more than one row group's pages of a column are in memory.
        yield stack.enter_context(pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 16))


def _strings(column: pa.Array) -> list[str | None]:
    """Return the values of a column as text, whatever its type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        return [None if v is None else str(v) for v in column.to_pylist()]
    if any(is_it(column.type) for is_it in _TEXT_TYPES):
        # By way of bytes: a writer may have put into a text column what is not UTF-8.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if v is None else v.decode("utf-8", "replace") for v in raw]
    return column.cast(pa.large_string()).to_pylist()


def read_parquet(layout: Layout, start: int) -> Iterator[Entry]:
    assert layout.smiles_column is not None
    columns = [layout.smiles_column, *([layout.id_column] if layout.id_column else [])]
    with open_parquet(layout) as table:
        skip, groups = start, list(range(table.num_row_groups))
        while groups and skip >= (rows := table.metadata.row_group(groups[0]).num_rows):
            skip -= rows
            groups.pop(0)
        for batch in table.iter_batches(_ROWS_A_BATCH, row_groups=groups, columns=columns):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            batch = batch.slice(skip)
            skip = 0
            smiles = _strings(batch.column(columns[0]))
            ids = _strings(batch.column(columns[-1])) if len(columns) > 1 else repeat(None)
            for one_id, one_smiles in zip(ids, smiles, strict=False):
                yield (one_id or "").strip() or None, (one_smiles or "").strip()
