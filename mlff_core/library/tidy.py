"""Text as plain as can be, cut by array operations: the readers' fast path.

Each function returns what its reader's plain way does, several times faster, or None where a block
of text has something in it that needs a closer look: quotes, a `|`, blanks at the ends of a field,
control characters, letters beyond ASCII.
"""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlff_core.library.layout import ENTRIES_SCHEMA

_LF: Final = ord("\n")
_BLANK: Final = ord(" ")
_TAB: Final = ord("\t")


def tidy_lines(block: str) -> pa.RecordBatch | None:
    """The entries of lines that have a SMILES, and perhaps one blank and an id.

    Args:
        block: Whole lines with LF between them.
    """
    if not block.isascii() or "|" in block or '"' in block:
        return None
    text, begins, ends = _lines(block)
    is_blank = (text == _BLANK) | (text == _TAB)
    blanks = np.append(np.flatnonzero(is_blank), len(text))
    smiles_ends = np.minimum(blanks[np.searchsorted(blanks, begins)], ends)
    id_begins = np.minimum(smiles_ends + 1, ends)
    if (
        (smiles_ends == begins).any()
        or is_blank[id_begins].any()
        or is_blank[ends - 1].any()
        or _n_controls(text) != len(ends) + block.count("\t")
    ):
        return None
    return _batch(text, (id_begins, ends), (begins, smiles_ends))


def tidy_rows(
    block: str, delimiter: str, n_columns: int, smiles_at: int, id_at: int | None
) -> pa.RecordBatch | None:
    """The entries of rows that all have the fields of the header.

    Args:
        block: Whole lines with LF between them.
        delimiter: What stands between fields.
        n_columns: Fields in a row.
        smiles_at: Which of them, from 0, is the SMILES.
        id_at: Which is the id, if any.
    """
    if not block.isascii() or '"' in block or "|" in block or n_columns < 2:
        return None
    text, begins, ends = _lines(block)
    delimiters = np.flatnonzero(text == ord(delimiter))
    n_tabs = len(delimiters) if delimiter == "\t" else 0
    if len(delimiters) != len(ends) * (n_columns - 1) or _n_controls(text) != len(ends) + n_tabs:
        return None
    at = delimiters.reshape(len(ends), n_columns - 1)
    if (at[:, 0] < begins).any() or (at[:, -1] > ends).any():
        return None
    starts = np.column_stack([begins, at + 1])
    stops = np.column_stack([at, ends])
    fields = [(starts[:, k], stops[:, k]) for k in (smiles_at, id_at) if k is not None]
    # Nothing is stripped here: a field ends where a letter does.
    if any((text[b] == _BLANK).any() or (text[e - 1] == _BLANK).any() for b, e in fields):
        return None
    return _batch(text, fields[1] if id_at is not None else (ends, ends), fields[0])


Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]


def _lines(block: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of a block with an LF at its end, and where each line begins and ends."""
    text = np.frombuffer(f"{block}\n".encode("ascii"), np.uint8)
    ends = np.flatnonzero(text == _LF)
    return text, np.concatenate([[0], ends[:-1] + 1]), ends


def _n_controls(text: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(text < _BLANK))


def _batch(text: NDArray[np.uint8], ids: Bounds, smiles: Bounds) -> pa.RecordBatch:
    columns = [
        _slices(text, *ids, blank_is_null=True),
        _slices(text, *smiles, blank_is_null=False),
        pa.nulls(len(smiles[0]), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ENTRIES_SCHEMA)


def _slices(
    text: NDArray[np.uint8],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    *,
    blank_is_null: bool,
) -> pa.StringArray:
    """The parts of a text from each begin to its end; they follow one another and do not meet."""
    lengths = ends - begins
    change = np.zeros(len(text) + 1, np.int8)
    change[begins] += 1
    change[ends] -= 1
    inside = np.cumsum(change[:-1], dtype=np.int8).view(bool)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    nulls = np.packbits(lengths > 0, bitorder="little") if blank_is_null else None
    return pa.StringArray.from_buffers(
        len(lengths),
        pa.py_buffer(offsets),
        pa.py_buffer(text[inside]),
        None if nulls is None else pa.py_buffer(nulls),
    )
