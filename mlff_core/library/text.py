"""Libraries of lines: .smi, .csv and .tsv."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import IO, Final

from mlff_core.errors import LibraryError
from mlff_core.library.columns import (
    SMILES_NAMES,
    choose_id,
    choose_smiles,
    guess,
    listed,
    match,
    plain_name,
)
from mlff_core.library.layout import LONGEST_RECORD, Entry, Layout

#: Lines that one quoted field may span before its opening quote is taken for a stray character.
_MOST_LINES_A_FIELD: Final = 100
_BLANKS: Final = re.compile(r"[ \t]+")


def first_line(sample: bytes) -> str:
    return sample.decode("utf-8-sig", "replace").partition("\n")[0].removesuffix("\r")


def note_encoding(sample: bytes, notes: list[str]) -> None:
    # The sample may end within a character, so its last three bytes prove nothing.
    if "\ufffd" in sample[: max(len(sample) - 3, 1)].decode("utf-8", "replace"):
        notes.append("some bytes are not UTF-8; each is read as U+FFFD, which no SMILES may hold")


def fit_smi(
    layout: Layout, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    line = first_line(sample)
    first, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
    if guess(SMILES_NAMES, re.split("[,;]", first)) is not None and re.search("[,;]", first):
        raise LibraryError(
            f"{layout.file}: is named .smi, but its first line has columns: {listed([line])}; "
            "expected a name that ends in .csv"
        )
    has_header = plain_name(first) in SMILES_NAMES
    if has_header:
        notes.append(f"the first line is taken for a header: {line!r}")
    for wanted, found, what in ((smiles, first, "SMILES"), (ids, rest, "id")):
        if wanted is not None and not (has_header and match(wanted, [found.strip()])):
            raise LibraryError(
                f"{layout.file}: no column {wanted!r} for the {what}; a .smi has the SMILES "
                "before the first space or tab and the id after it"
            )
    note_encoding(sample, notes)
    return replace(layout, has_header=has_header)


def fit_delimited(
    layout: Layout, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    own = {"csv": ",", "tsv": "\t"}[layout.format]
    headers = {
        delimiter: next(_delimited_rows(lines_of(io.BytesIO(sample), layout.file), delimiter))
        for delimiter in (own, *(d for d in ",;\t|" if d != own))
    }
    delimiter = next(
        (
            d
            for d, columns in headers.items()
            if (match(smiles, columns) if smiles else guess(SMILES_NAMES, columns)) is not None
        ),
        max(headers, key=lambda d: len(headers[d])),
    )
    if delimiter != own:
        notes.append(f"{delimiter!r} is taken for what stands between the columns")
    columns = headers[delimiter]
    smiles_column = choose_smiles(layout.file, columns, smiles, notes)
    id_column = choose_id(layout.file, columns, ids, smiles_column, notes)
    note_encoding(sample, notes)
    return replace(layout, smiles_column=smiles_column, id_column=id_column, delimiter=delimiter)


def lines_of(stream: IO[bytes], file: str) -> Iterator[str]:
    """Yield the lines without their ends; a byte order mark is dropped."""
    encoding = "utf-8-sig"
    while raw := stream.readline(LONGEST_RECORD):
        if len(raw) == LONGEST_RECORD:
            raise LibraryError(f"{file}: has a line of more than {LONGEST_RECORD >> 20} MiB")
        yield raw.decode(encoding, "replace").removesuffix("\n").removesuffix("\r")
        encoding = "utf-8"


def read_smi(layout: Layout, stream: IO[bytes], start: int) -> Iterator[Entry]:
    lines = lines_of(stream, layout.file)
    for line in islice(lines, start + layout.has_header, None):
        smiles, *rest = _BLANKS.split(line.lstrip(" "), maxsplit=1)
        yield (rest[0].strip() or None if rest else None), smiles


def _delimited_rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of each record.

    A quoted field may hold delimiters and line ends. A quote that nothing closes within
    `_MOST_LINES_A_FIELD` lines, or that is closed in mid-field, spoils its own line only: a plain
    CSV reader would take all that follows, up to the next quote, for one field.
    """
    pushed_back: deque[str] = deque()

    def next_line() -> str | None:
        return pushed_back.popleft() if pushed_back else next(lines, None)

    def one_record(line: str, taken: list[str]) -> Iterator[str]:
        yield line + "\n"
        for following in islice(iter(next_line, None), _MOST_LINES_A_FIELD - 1):
            taken.append(following)
            yield following + "\n"

    for line in iter(next_line, None):
        if '"' not in line:
            yield line.split(delimiter)
            continue
        taken: list[str] = []  # the lines that the reader asked for beyond the first
        try:
            row = next(csv.reader(one_record(line, taken), delimiter=delimiter, strict=True))
        except csv.Error:
            pushed_back.extendleft(reversed(taken))
            row = line.split(delimiter)
        yield row


def read_delimited(layout: Layout, stream: IO[bytes], start: int) -> Iterator[Entry]:
    assert layout.delimiter is not None
    assert layout.smiles_column is not None
    rows = _delimited_rows(lines_of(stream, layout.file), layout.delimiter)
    columns = next(rows)
    smiles_at = columns.index(layout.smiles_column)
    id_at = len(columns) if layout.id_column is None else columns.index(layout.id_column)
    for row in islice(rows, start, None):
        yield (
            (row[id_at].strip() or None) if id_at < len(row) and id_at < len(columns) else None,
            row[smiles_at].strip() if smiles_at < len(row) else "",
        )
