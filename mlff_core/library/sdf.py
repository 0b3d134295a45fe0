"""Libraries in SD files."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import IO, Final

from rdkit import Chem, rdBase

from mlff_core.errors import LibraryError
from mlff_core.library.columns import choose_id, choose_smiles
from mlff_core.library.layout import LONGEST_RECORD, Entry, Layout
from mlff_core.library.text import lines_of, note_encoding

_PROPERTY: Final = re.compile(r">.*?<([^>]*)>")
#: Stands for a mol block that RDKit cannot read: not a SMILES, so that its record is rejected.
UNREADABLE_MOL_BLOCK: Final = "<unreadable mol block>"


def fit_sdf(
    layout: Layout, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    entries = list(sdf_entries(lines_of(io.BytesIO(sample), layout.file), layout.file))
    properties = list(dict.fromkeys(name for entry in entries for name in _properties(entry)))
    smiles_column = None
    if smiles is not None:
        smiles_column = choose_smiles(layout.file, properties, smiles, notes)
    id_column = None
    if ids is not None:
        id_column = choose_id(layout.file, properties, ids, smiles_column, notes)
    elif not any(entry[0].strip() for entry in entries):
        notes.append("the title lines are blank")
        id_column = choose_id(layout.file, properties, None, smiles_column, notes)
    note_encoding(sample, notes)
    return replace(layout, smiles_column=smiles_column, id_column=id_column)


def sdf_entries(lines: Iterator[str], file: str) -> Iterator[list[str]]:
    """Yield the lines of each entry, up to its `$$$$`; blank lines after the last are no entry."""
    entry: list[str] = []
    size = 0
    for line in lines:
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


def _properties(entry: Sequence[str]) -> dict[str, str]:
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


def _mol_block_smiles(entry: Sequence[str]) -> str:
    """Write the SMILES of an SD entry's mol block.

    What RDKit reads but does not accept, such as five bonds to a carbon, is written as it stands:
    the chemistry then rejects the record and says why.
    """
    end = next((i for i, line in enumerate(entry) if line.startswith("M  END")), None)
    if end is None:
        return "" if not any(line.strip() for line in entry) else UNREADABLE_MOL_BLOCK
    block = "\n".join([*entry[: end + 1], ""])
    with rdBase.BlockLogs():  # one line a bad record, on a stream that is not ours
        for sanitize in (True, False):
            # A bad block gives None or, for some counts lines, an exception of several kinds.
            with suppress(RuntimeError, ValueError):
                mol = Chem.MolFromMolBlock(block, sanitize=sanitize, removeHs=sanitize)
                if mol is not None:
                    return str(Chem.MolToSmiles(mol))
    return UNREADABLE_MOL_BLOCK


def read_sdf(layout: Layout, stream: IO[bytes], start: int) -> Iterator[Entry]:
    needs_properties = layout.smiles_column is not None or layout.id_column is not None
    for entry in islice(sdf_entries(lines_of(stream, layout.file), layout.file), start, None):
        properties = _properties(entry) if needs_properties else {}
        ids, smiles = layout.id_column, layout.smiles_column
        yield (
            (entry[0] if ids is None else properties.get(ids, "")).strip() or None,
            _mol_block_smiles(entry) if smiles is None else properties.get(smiles, "").strip(),
        )
