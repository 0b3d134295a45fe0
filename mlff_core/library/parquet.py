"""Libraries in Parquet."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlff_core.errors import LibraryError
from mlff_core.library.columns import choose_id, choose_smiles, match
from mlff_core.library.files import READ_ERRORS, check_expansion, one_line, unpacked
from mlff_core.library.layout import ENTRIES_SCHEMA, Layout
from mlff_core.library.pages import unpacked_bytes

_ROWS_A_BATCH: Final = 16_384
#: The same where nothing but the footer says how large the rows are.
_ROWS_UNSEEN: Final = 256
#: Bytes of text that a batch may become where a dictionary holds long values.
_BYTES_A_BATCH: Final = 1 << 26
_SAMPLE_ROWS: Final = 1000
_TEXT_TYPES: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)


def fit_parquet(
    layout: Layout, stored: IO[bytes], smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    """Find out which columns hold the SMILES and the ids.

    Args:
        layout: What is known so far.
        stored: The file, at its begin.
        smiles: Name of the SMILES column, if the caller gave one.
        ids: Name of the id column, if the caller gave one.
        notes: Receives what was guessed.

    Raises:
        LibraryError: It is not whole, has no rows, or no column that is plainly the SMILES.
    """
    try:
        with _opened(layout, stored) as (table, source):
            return _fitted(layout, table, source, smiles, ids, notes)
    except READ_ERRORS as error:
        raise LibraryError(
            f"{layout.file}: is not a whole Parquet file: {one_line(error)}"
        ) from error


def _fitted(
    layout: Layout,
    table: pq.ParquetFile,
    source: IO[bytes],
    smiles: str | None,
    ids: str | None,
    notes: list[str],
) -> Layout:
    schema = table.schema_arrow

    def values(column: str) -> list[str]:
        rows = min(_SAMPLE_ROWS, _rows_a_batch(layout, table, source, 0, [column]))
        first = next(table.iter_batches(rows, row_groups=[0], columns=[column]), None)
        texts = [] if first is None else _texts(first.column(0)).to_pylist()
        return [(text or "").strip() for text in texts]

    if table.metadata.num_rows == 0:
        raise LibraryError(f"{layout.file}: holds no records")
    # A row of lists may repeat a long value any number of times: such a column is not even tried.
    flat = [name for name in schema.names if not pa.types.is_nested(schema.field(name).type)]
    smiles_column = choose_smiles(
        layout.file, flat if smiles is None else schema.names, smiles, values, notes
    )
    kind = schema.field(smiles_column).type
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_it(value_type) for is_it in _TEXT_TYPES):
        raise LibraryError(
            f"{layout.file}: column {smiles_column!r} holds {kind}; expected text for the SMILES"
        )
    if ids is not None and (wanted := match(ids, schema.names)) not in (None, *flat):
        raise LibraryError(
            f"{layout.file}: column {wanted!r} holds {schema.field(wanted).type}; expected text or "
            "numbers for the id"
        )
    id_column = choose_id(layout.file, flat, ids, smiles_column, values, notes)
    return replace(layout, smiles_column=smiles_column, id_column=id_column)


@contextmanager
def _opened(layout: Layout, stored: IO[bytes]) -> Iterator[tuple[pq.ParquetFile, IO[bytes]]]:
    with ExitStack() as stack:
        if layout.gzipped:  # Parquet is read from its end, which gzip cannot do
            spooled = stack.enter_context(tempfile.TemporaryFile())
            with unpacked(stored, True, layout.file) as stream:
                shutil.copyfileobj(stream, spooled, 1 << 20)
            stored = spooled
        # Without pre-buffering, no more than one row group's pages of a column are in memory.
        table = pq.ParquetFile(stored, pre_buffer=False, buffer_size=1 << 16)
        yield stack.enter_context(table), stored


def read_parquet(layout: Layout, stored: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield the entries of a Parquet file that is open at its begin."""
    assert layout.smiles_column is not None
    columns = [layout.smiles_column, *([layout.id_column] if layout.id_column else [])]
    with _opened(layout, stored) as (table, source):
        n_stored = sum(_compressed(table, group, columns) for group in range(table.num_row_groups))
        n_unpacked = 0
        for group in range(table.num_row_groups):
            rows = _rows_a_batch(layout, table, source, group, columns)
            for batch in table.iter_batches(rows, row_groups=[group], columns=columns):
                smiles = pc.fill_null(_trimmed(batch.column(columns[0])), "")
                ids = pa.nulls(len(batch), pa.string())
                if len(columns) > 1:
                    ids = _trimmed(batch.column(columns[1]))
                    blank = pc.call_function("equal", [ids, pa.scalar("")])
                    ids = pc.call_function("if_else", [blank, pa.scalar(None, pa.string()), ids])
                n_unpacked += smiles.nbytes + ids.nbytes
                check_expansion(layout.file, n_stored, n_unpacked)
                note = pa.nulls(len(batch), pa.string())
                yield pa.RecordBatch.from_arrays([ids, smiles, note], schema=ENTRIES_SCHEMA)


def _chunks(
    table: pq.ParquetFile, group: int, columns: list[str]
) -> Iterator[pq.ColumnChunkMetaData]:
    """The pieces of some columns in a row group."""
    about = table.metadata.row_group(group)
    for i in range(about.num_columns):
        if about.column(i).path_in_schema in columns:
            yield about.column(i)


def _compressed(table: pq.ParquetFile, group: int, columns: list[str]) -> int:
    return sum(chunk.total_compressed_size for chunk in _chunks(table, group, columns))


def _rows_a_batch(
    layout: Layout, table: pq.ParquetFile, source: IO[bytes], group: int, columns: list[str]
) -> int:
    """Rows of a row group that can be read at once, whatever its dictionaries repeat.

    Raises:
        LibraryError: Its pages become far larger than they are stored.
    """
    chunks, most_rows = list(_chunks(table, group, columns)), _ROWS_A_BATCH
    for chunk in chunks:
        unpacked = _by_its_pages(source, chunk)
        if unpacked is None:
            most_rows = _ROWS_UNSEEN
        claimed = max(chunk.total_uncompressed_size, unpacked or 0)
        check_expansion(layout.file, chunk.total_compressed_size, claimed)
    names = [c.path_in_schema for c in chunks if c.has_dictionary_page]
    # One row brings the dictionary as it is, where rows would repeat its values.
    probe = pq.ParquetFile(source, metadata=table.metadata, read_dictionary=names, pre_buffer=False)
    longest = 0
    for batch in probe.iter_batches(1, row_groups=[group], columns=names) if names else ():
        for column in batch.columns:
            if pa.types.is_dictionary(column.type):
                lengths = pc.call_function(
                    "binary_length", [column.dictionary.cast(pa.large_binary())]
                )
                longest = max(longest, pc.call_function("max", [lengths]).as_py() or 0)
        break
    return max(1, min(most_rows, _BYTES_A_BATCH // max(longest, 1)))


def _by_its_pages(source: IO[bytes], chunk: pq.ColumnChunkMetaData) -> int | None:
    """Bytes that a chunk becomes, as its pages say: the footer may be made to say less."""
    try:
        source.fileno()
    except (AttributeError, OSError):  # behind a network: each page would be a request
        return None
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
        begin = chunk.dictionary_page_offset
    return unpacked_bytes(source, begin, chunk.total_compressed_size)


def _trimmed(column: pa.Array) -> pa.StringArray:
    return pc.call_function("utf8_trim_whitespace", [_texts(column)])


def _texts(column: pa.Array) -> pa.StringArray:
    """Return the values of a column as text, whatever its type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not any(is_it(column.type) for is_it in _TEXT_TYPES):
        return column.cast(pa.string())
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:  # a writer may have put into a text column what is not UTF-8
        raw = column.cast(pa.large_binary()).to_pylist()
        return pa.array(
            [None if v is None else v.decode("utf-8", "replace") for v in raw], pa.string()
        )
