"""Libraries in SD files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Final

import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library.columns import choose_id, choose_smiles, unique_and_full
from mlff_core.library.layout import LONGEST_RECORD, Layout, entries
from mlff_core.library.molblock import block_of, is_solid, smiles_of
from mlff_core.library.smi import SAMPLE_LINES
from mlff_core.library.text import text_blocks

_PROPERTY: Final = re.compile(r">.*?<([^>]*)>")
_ENTRIES_A_BATCH: Final = 1000


def fit_sdf(
    layout: Layout, lines: Sequence[str], smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    """Find out which property holds the ids, and the SMILES if the caller wants one for it.

    Args:
        layout: What is known so far.
        lines: The first lines of the file.
        smiles: Property of the SMILES; None for the mol block.
        ids: Property of the ids; None for the title line, or a property that is better.
        notes: Receives what was guessed.

    Raises:
        LibraryError: There is no such property.
    """
    sample = list(sd_entries([lines], layout.file))
    found = [properties(entry) for entry in sample]
    names = list(dict.fromkeys(name for one in found for name in one))

    def values(name: str) -> list[str]:
        return [one.get(name, "").strip() for one in found]

    smiles_column = None
    if layout.poses:
        if smiles is not None:
            raise LibraryError(
                f"{layout.file}: 3D structures are those of the mol blocks, and {smiles} cannot "
                "say another structure"
            )
        if layout.frozen is not None and layout.frozen not in names:
            found_names = ", ".join(names) or "none"
            raise LibraryError(
                f"{layout.file}: no property {layout.frozen} that names frozen atoms; "
                f"found: {found_names}"
            )
    elif smiles is not None:
        smiles_column = choose_smiles(layout.file, names, smiles, values, notes)
    else:
        if any(is_solid(entry) for entry in sample[:SAMPLE_LINES]):
            notes.append(
                "the 3D coordinates of the file are not used but for the stereo that they show: "
                "each molecule is embedded anew (--from-3d relaxes them)"
            )
    titles = [entry[0].strip() for entry in sample]
    id_column = None
    if ids is not None:
        id_column = choose_id(layout.file, names, ids, smiles_column, values, notes)
    elif not any(titles):
        notes.append("the title lines are blank")
        id_column = choose_id(layout.file, names, None, smiles_column, values, notes)
    elif not unique_and_full(titles):
        told: list[str] = []
        better = choose_id(layout.file, names, None, smiles_column, values, told)
        if better is not None and unique_and_full(values(better)):
            notes += ["the title lines are not unique or some are blank", *told]
            id_column = better
    return replace(layout, smiles_column=smiles_column, id_column=id_column)


def sd_entries(
    blocks: Iterator[Sequence[str]] | Sequence[Sequence[str]], file: str
) -> Iterator[list[str]]:
    """Yield the lines of each entry, up to its `$$$$`; blank lines after the last are no entry."""
    entry: list[str] = []
    size = 0
    for block in blocks:
        for line in block:
            if line.startswith("$$$$"):
                yield entry or [""]
                entry, size = [], 0
                continue
            entry.append(line)
            size += len(line)
            if size > LONGEST_RECORD:
                raise LibraryError(f"{file}: has an entry of more than {LONGEST_RECORD >> 20} MiB")
    if any(line.strip() for line in entry):
        yield entry


def properties(entry: Sequence[str]) -> dict[str, str]:
    """Return the data items of an SD entry: the lines after `> <NAME>` up to a blank one."""
    found: dict[str, str] = {}
    name = None
    for line in entry:
        if line.startswith(">") and (header := _PROPERTY.match(line)):
            name = header[1]
            found[name] = ""
        elif not line.strip():
            name = None
        elif name is not None:
            found[name] += ("\n" if found[name] else "") + line
    return found


def read_sdf(layout: Layout, stream: IO[bytes], notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the entries of an SD file; what was read before an error comes before it."""
    ids: list[str | None] = []
    smiles: list[str | None] = []
    odd: dict[int, str] = {}
    poses: list[str | None] = []

    def batch() -> pa.RecordBatch:
        return entries(ids, smiles, odd, poses if layout.poses else None)

    try:
        lines = (block.split("\n") for block in text_blocks(stream, layout, notes))
        for entry in sd_entries(lines, layout.file):
            named = (layout.smiles_column, layout.id_column, layout.frozen)
            data = properties(entry) if any(name is not None for name in named) else {}
            title = entry[0] if layout.id_column is None else data.get(layout.id_column, "")
            if layout.smiles_column is not None:
                smiles.append(data.get(layout.smiles_column, "").strip())
            else:
                structure, note = smiles_of(entry, posed=layout.poses)
                smiles.append(structure)
                if note is not None:
                    odd[len(ids)] = note
                if layout.poses:
                    poses.append(block_of(entry) + data.get(layout.frozen or "", ""))
            ids.append(title.strip() or None)
            if len(ids) == _ENTRIES_A_BATCH:
                yield batch()
                ids, smiles, odd, poses = [], [], {}, []
    except Exception:
        if ids:
            yield batch()
        raise
    if ids:
        yield batch()
