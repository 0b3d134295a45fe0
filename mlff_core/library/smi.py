"""Libraries of plain lines (.smi): the SMILES, and behind it the id."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Final

import pyarrow as pa
from rdkit import Chem, rdBase

from mlff_core.errors import LibraryError
from mlff_core.library.columns import SMILES_NAMES, guess, listed, match, plain_name
from mlff_core.library.layout import Layout, entries
from mlff_core.library.text import text_blocks
from mlff_core.library.tidy import tidy_lines

#: Lines of a sample that are looked at to find out how a file is laid out.
SAMPLE_LINES: Final = 200
#: A line of a .smi: its first word, and the rest.
_LINE: Final = re.compile(r"^ *([^ \t\n]*)[ \t]*([^\n]*)", re.MULTILINE)
#: What a rest begins with where the SMILES goes on as CXSMILES.
_EXTENSION: Final = re.compile(r"\|[^|]*\|")


def is_smiles(text: str) -> bool:
    """Whether RDKit can read a text as SMILES, possible as a molecule or not."""
    words = text.split(maxsplit=1)
    if not words or not words[0].isascii():
        return False
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(words[0], sanitize=False) is not None


def fit_smi(
    layout: Layout, lines: Sequence[str], smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    """Find out how the lines of a .smi without tabs in its header are laid out.

    Args:
        layout: What is known so far.
        lines: The first lines of the file.
        smiles: Name of the SMILES column, if the caller gave one; it can only be in a header.
        ids: Name of the id column, likewise.
        notes: Receives what was guessed.
    """
    first, *rest = lines[0].split(maxsplit=1)[:2] or [""]
    if re.search("[,;]", first) and guess(SMILES_NAMES, re.split("[,;]", first)) is not None:
        raise LibraryError(
            f"{layout.file}: is named .smi, but its first line has columns: {listed(lines[:1])}; "
            "expected a name that ends in .csv"
        )
    header = header_of(lines[0], None)
    if header:
        notes.append(f"the first line is taken for a header: {lines[0]!r}")
        id_first = plain_name(header[0]) not in SMILES_NAMES
        layout = replace(layout, skip=1, id_first=id_first)
    columns = [first, "".join(rest).strip()] if not layout.id_first else [*rest, first]
    for wanted, found, what in zip((smiles, ids), columns, ("SMILES", "id"), strict=True):
        if wanted is not None and not (header and match(wanted, [found])):
            raise LibraryError(
                f"{layout.file}: no column {wanted!r} for the {what}; a .smi has the SMILES "
                "before the first space or tab and the id after it"
            )
    return layout if header else _fit_bare(layout, lines, notes)


def header_of(line: str, delimiter: str | None) -> list[str]:
    """Return the words of a line if they are names of columns, one of them the SMILES; else []."""
    words = [word.strip().strip('"') for word in line.split(delimiter)]
    names_smiles = any(plain_name(word) in SMILES_NAMES for word in words)
    return words if names_smiles and not is_smiles(words[0]) else []


def header_delimiter(lines: Sequence[str], possible: Sequence[str]) -> str | None:
    """Return what stands between the columns of a file whose first line may name some."""
    body = [line for line in lines[1 : SAMPLE_LINES + 1] if line.strip()]
    for delimiter in possible:
        words = header_of(lines[0], delimiter)
        n_alike = sum(line.count(delimiter) == len(words) - 1 for line in body)
        # A blank parts columns only where there are three or more, else it parts SMILES and id.
        if len(words) > (2 if delimiter == " " else 1) and 2 * n_alike > len(body):
            return delimiter
    return None


def _fit_bare(layout: Layout, lines: Sequence[str], notes: list[str]) -> Layout:
    """Look at lines without a header: is the id first, and are there further columns?"""
    pairs = [pair for line in lines[:SAMPLE_LINES] for pair in _LINE.findall(line) if all(pair)]
    if not pairs:
        return layout
    n_first = sum(is_smiles(first) for first, _ in pairs)
    n_second = sum(is_smiles(rest) for _, rest in pairs)
    if n_first < len(pairs) / 10 and n_second > 0.9 * len(pairs):
        notes.append(
            "the columns look swapped: the second word of a line is taken for the SMILES, the "
            f"first for the id (of {len(pairs)} lines, {n_second} have a SMILES second and "
            f"{n_first} have one first)"
        )
        return replace(layout, id_first=True)
    if n_first < len(pairs) / 2 < n_second:
        notes.append(
            f"the columns look swapped: of {len(pairs)} lines, {n_second} have a SMILES second "
            f"and {n_first} have one first; the first word of a line is taken for the SMILES"
        )
    widths = {line.count("\t") for line in lines[:SAMPLE_LINES] if line}
    if len(widths) == 1 and (n_columns := widths.pop() + 1) > 2:
        notes.append(f"the lines have {n_columns} columns; the second is taken for the id")
        return replace(layout, tabbed=True)
    return layout


def read_smi(layout: Layout, stream: IO[bytes], notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the entries of a .smi."""
    skip = layout.skip
    for block in text_blocks(stream, layout, notes):
        plain = None if skip or layout.id_first or layout.tabbed else tidy_lines(block)
        if plain is not None:
            yield plain
            continue
        pairs = _LINE.findall(block)
        if skip:
            pairs, skip = pairs[skip:], max(0, skip - len(pairs))
        if not pairs:
            continue
        if '"' in block:
            pairs = [_unquoted(*pair) for pair in pairs]
        if layout.id_first:
            ids = [first for first, _ in pairs]
            pairs = [_with_extension(*_LINE.findall(rest)[0]) for _, rest in pairs]
            smiles = [smiles for smiles, _ in pairs]
        else:
            if "|" in block:
                pairs = [_with_extension(*pair) for pair in pairs]
            smiles, ids = map(list, zip(*pairs, strict=True))
        if layout.tabbed:
            ids = [one.partition("\t")[0] for one in ids]
        yield entries([one.strip() or None for one in ids], smiles)


def _unquoted(first: str, rest: str) -> tuple[str, str]:
    """Take quotes off, which stand around the first word as a spreadsheet writes them."""
    if len(first) > 1 and first[0] == first[-1] == '"':
        rest = rest.rstrip()
        quoted = len(rest) > 1 and rest[0] == rest[-1] == '"'
        return first[1:-1], rest[1:-1] if quoted else rest
    return first, rest


def _with_extension(smiles: str, rest: str) -> tuple[str, str]:
    """Give the SMILES what the rest of its line begins with, if that is CXSMILES."""
    found = _EXTENSION.match(rest)
    return (f"{smiles} {found[0]}", rest[found.end() :].lstrip()) if found else (smiles, rest)
