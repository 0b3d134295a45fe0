"""Libraries with a header and columns: .csv, .tsv, and what else is laid out as they are."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import IO, Final

import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library.columns import SMILES_NAMES, choose_id, choose_smiles, guess, match
from mlff_core.library.layout import Layout, entries
from mlff_core.library.smi import SAMPLE_LINES, is_smiles
from mlff_core.library.text import text_blocks
from mlff_core.library.tidy import tidy_rows

#: Lines that one quoted field may span before its opening quote is taken for a stray character.
_MOST_LINES_A_FIELD: Final = 100
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
#: How Excel says what stands between the columns.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
#: A field that ends within a CXSMILES extension, which a delimiter has cut.
_CUT_EXTENSION: Final = re.compile(r"\S \|[^|]*")


def fit_delimited(
    layout: Layout, lines: Sequence[str], smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    """Find out what stands between the columns, and which hold the SMILES and the ids.

    Args:
        layout: What is known so far.
        lines: The first lines of the file.
        smiles: Name of the SMILES column, if the caller gave one.
        ids: Name of the id column, if the caller gave one.
        notes: Receives what was guessed.

    Raises:
        LibraryError: There is no such column, or none is plainly the SMILES.
    """
    own = layout.delimiter or _DELIMITERS[layout.format]
    skip = 1
    if declared := separator_of(lines[0]):
        own, skip = declared, 2
        notes.append(f"{own!r} stands between the columns, as the first line says")
        if len(lines) == 1:
            raise LibraryError(f"{layout.file}: holds no records (its only line is {lines[0]!r})")
    headers = {
        delimiter: parse_rows(lines[:_MOST_LINES_A_FIELD], delimiter, final=True)[0][skip - 1]
        for delimiter in (own, *(d for d in ",;\t|" if d != own))
    }
    delimiter = next(
        (
            d
            for d, columns in headers.items()
            if (match(smiles, columns) if smiles else guess(SMILES_NAMES, columns)) is not None
        ),
        own if declared else max(headers, key=lambda d: len(headers[d])),
    )
    if delimiter != own:
        notes.append(f"{delimiter!r} is taken for what stands between the columns")
    header, *body = parse_rows(lines, delimiter, final=True)[0][skip - 1 :]
    columns = tuple(name.strip() for name in header)
    if smiles is None and ids is None and _is_a_record(columns, body):
        columns = tuple(f"column {k}" for k in range(1, len(columns) + 1))
        notes.append(f"the first line names no columns, it is a record: {lines[skip - 1]!r}")
        body, skip = [header, *body], skip - 1
        smiles = columns[_smiles_fields(header)[0]]
        notes.append(f"{smiles} is taken for the SMILES")
        ids = next((c for c in columns if c != smiles), None)
        if ids:
            notes.append(f"{ids} is taken for the id")

    def values(column: str) -> list[str]:
        at = columns.index(column)
        return [row[at].strip() if at < len(row) else "" for row in body if row != [""]]

    smiles_column = choose_smiles(layout.file, columns, smiles, values, notes)
    id_column = choose_id(layout.file, columns, ids, smiles_column, values, notes)
    return replace(
        layout,
        smiles_column=smiles_column,
        id_column=id_column,
        columns=columns,
        delimiter=delimiter,
        skip=skip,
    )


def _smiles_fields(row: Sequence[str]) -> list[int]:
    return [k for k, field in enumerate(row) if is_smiles(field)]


def _is_a_record(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a first row is no header: one field of it is a SMILES, as it is in the rows below."""
    fields = _smiles_fields(first)
    if guess(SMILES_NAMES, first) is not None or len(fields) != 1:
        return False
    below = [row[fields[0]] for row in body[:SAMPLE_LINES] if len(row) > fields[0]]
    return bool(below) and sum(map(is_smiles, below)) > 0.9 * len(body[:SAMPLE_LINES])


def separator_of(line: str) -> str | None:
    """Return what a first line `sep=;` says stands between the columns, None if it says nothing."""
    found = _SEPARATOR_LINE.fullmatch(line.strip(" "))
    return found[1] if found else None


def parse_rows(lines: Sequence[str], delimiter: str, *, final: bool) -> tuple[list[list[str]], int]:
    """Return the fields of each record, and how many lines they took.

    A quoted field may hold delimiters and line ends. A quote that nothing closes within
    `_MOST_LINES_A_FIELD` lines, or that is closed in mid-field, spoils its own line only: a plain
    CSV reader would take all that follows, up to the next quote, for one field.

    Args:
        lines: Without their ends.
        delimiter: What stands between fields.
        final: Whether no more lines follow; if some do, the last record may wait for them.
    """
    with suppress(csv.Error):
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
        if len(rows) == len(lines):  # each line is a record, as nearly always
            return [row or [""] for row in rows], len(lines)
    rows = []
    begun = taken = 0  # first line of the record being read, first line that it has not asked for

    def asked_for() -> Iterator[str]:
        nonlocal taken
        while taken < min(len(lines), begun + _MOST_LINES_A_FIELD):
            taken += 1
            yield f"{lines[taken - 1]}\n"

    while begun < len(lines):
        try:
            for row in csv.reader(asked_for(), delimiter=delimiter, strict=True):
                rows.append(row or [""])
                begun = taken
        except csv.Error:
            in_need = taken == len(lines) and taken - begun < _MOST_LINES_A_FIELD
            if in_need and not final and '"' in lines[begun]:
                break
            rows.append(lines[begun].split(delimiter))
            begun = taken = begun + 1
    return rows, begun


def _row_blocks(
    blocks: Iterator[str], delimiter: str, tidy: Callable[[str], pa.RecordBatch | None]
) -> Iterator[pa.RecordBatch | tuple[list[list[str]], bool]]:
    """Yield what `tidy` makes of a block of text, else its rows and whether a `|` is in it."""
    waiting: list[str] = []
    for n_before, block in enumerate(blocks):
        lines, has_bar = block.split("\n"), bool(waiting) or "|" in block
        if not waiting and '"' not in block:
            batch = tidy(block) if n_before else None  # the first block has the header
            yield batch or ([line.split(delimiter) for line in lines], has_bar)
            continue
        lines = waiting + lines
        rows, used = parse_rows(lines, delimiter, final=False)
        waiting = lines[used:]
        yield rows, has_bar
    if waiting:
        yield parse_rows(waiting, delimiter, final=True)[0], True


def read_delimited(layout: Layout, stream: IO[bytes], notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the entries of a file with a header and columns."""
    assert layout.delimiter is not None
    assert layout.smiles_column is not None
    n_columns = len(layout.columns)
    smiles_at = layout.columns.index(layout.smiles_column)
    id_at = None if layout.id_column is None else layout.columns.index(layout.id_column)
    tidy = partial(
        tidy_rows,
        delimiter=layout.delimiter,
        n_columns=n_columns,
        smiles_at=smiles_at,
        id_at=id_at,
    )
    skip = layout.skip
    for piece in _row_blocks(text_blocks(stream, layout, notes), layout.delimiter, tidy):
        if isinstance(piece, pa.RecordBatch):
            yield piece
            continue
        rows, has_bar = piece
        if skip:
            rows, skip = rows[skip:], max(0, skip - len(rows))
        if not rows:
            continue
        if has_bar and layout.delimiter != "|":
            rows = [_mended(row, smiles_at, layout.delimiter) for row in rows]
        odd: dict[int, str] = {}
        if set(map(len, rows)) != {n_columns}:
            odd = _odd_rows(rows, n_columns, smiles_at)
            rows = [row + [""] * (n_columns - len(row)) for row in rows]
        smiles: list[str | None] = [row[smiles_at].strip() for row in rows]
        ids: list[str | None] = [None] * len(rows)
        if id_at is not None:
            ids = [row[id_at].strip() or None for row in rows]
        yield entries(ids, smiles, odd)


def _mended(row: list[str], smiles_at: int, delimiter: str) -> list[str]:
    """Put a CXSMILES together again that the delimiter has cut, because nobody quoted it."""
    if smiles_at < len(row) and _CUT_EXTENSION.search(row[smiles_at]) is not None:
        begin = row[smiles_at]
        for end in range(smiles_at + 1, len(row)):
            if begin.count("|") == 1 and "|" in row[end]:
                whole = delimiter.join(row[smiles_at : end + 1])
                return [*row[:smiles_at], whole, *row[end + 1 :]]
    return row


def _odd_rows(rows: list[list[str]], n_columns: int, smiles_at: int) -> dict[int, str]:
    """Say of which rows the fields are more than the header's, or too few to have a SMILES."""
    notes = {}
    for i, row in enumerate(rows):
        too_long = any(field.strip() for field in row[n_columns:])
        if too_long or (len(row) <= smiles_at and row != [""]):
            fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
            notes[i] = f"the row has {fields}, the header {n_columns}"
    return notes
