"""What a reader must know of a library's file, and what it hands on."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import pyarrow as pa

FORMATS: Final = ("smi", "csv", "tsv", "parquet", "sdf")

#: A file without line ends is not a library; the bound keeps it from filling the memory.
LONGEST_RECORD: Final = 1 << 26

#: What a reader yields: some entries of the file, in their order.
#: `smiles` is null where the entry holds nothing that could be read as a structure, and empty where
#: it holds nothing; `note` is what there is to say of this one entry, null if nothing.
ENTRIES_SCHEMA: Final = pa.schema(
    [("input_id", pa.string()), ("smiles", pa.string()), ("note", pa.string())]
)
#: The same where geometries are read: `pose` is a mol block, and behind its `M  END` what the entry
#: says of frozen atoms.
POSES_SCHEMA: Final = ENTRIES_SCHEMA.append(pa.field("pose", pa.string()))


class Record(NamedTuple):
    """One entry of a library.

    Attributes:
        record: Position in the library, from 0.
        input_id: Id in the input, None if there is none.
        smiles: SMILES or CXSMILES in the input; None if the entry cannot be read.
        note: What there is to say of this entry; says what is wrong where `smiles` is None.
        pose: Its mol block, and what it says of frozen atoms, where geometries are read.
    """

    record: int
    input_id: str | None
    smiles: str | None
    note: str | None
    pose: str | None = None


@dataclass(frozen=True)
class Layout:
    """How a library's file is to be read; holds no open file, so it may be pickled.

    Attributes:
        location: Path or URL as given.
        format: One of `FORMATS`.
        file: The file itself: `location`, or the library file in that folder.
        gzipped: Whether the file is compressed.
        smiles_column: Column of the SMILES; None where the format has none.
        id_column: Column of the ids; None where there are none, or where the format has no columns.
        notes: What was guessed or looks odd, in sentences for the log.
        encoding: Of the text, as Python names it.
        columns: Names of all columns, for files of lines that have a header.
        delimiter: What stands between columns, for files of lines that have a header.
        skip: Lines of a .smi, or rows of a file with columns, before the first record.
        id_first: Whether the ids of a .smi stand before the SMILES.
        tabbed: Whether a .smi without a header has further columns behind the id, after a tab.
        poses: Whether geometries are read, too.
        frozen: Property of an .sdf that names frozen atoms; None where it is not read.
    """

    location: str
    format: str
    file: str
    gzipped: bool = False
    smiles_column: str | None = None
    id_column: str | None = None
    notes: tuple[str, ...] = ()
    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    skip: int = 0
    id_first: bool = False
    tabbed: bool = False
    poses: bool = False
    frozen: str | None = None


def entries(
    ids: list[str | None],
    smiles: list[str | None],
    notes: dict[int, str] | None = None,
    poses: list[str | None] | None = None,
) -> pa.RecordBatch:
    """Make a batch of `ENTRIES_SCHEMA`, or of `POSES_SCHEMA`; `notes` by position in the batch."""
    if notes:
        note = pa.array([notes.get(i) for i in range(len(smiles))], pa.string())
    else:
        note = pa.nulls(len(smiles), pa.string())
    columns = [pa.array(ids, pa.string()), pa.array(smiles, pa.string()), note]
    if poses is None:
        return pa.RecordBatch.from_arrays(columns, schema=ENTRIES_SCHEMA)
    columns.append(pa.array(poses, pa.string()))
    return pa.RecordBatch.from_arrays(columns, schema=POSES_SCHEMA)
