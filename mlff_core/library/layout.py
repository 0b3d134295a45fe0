"""What a reader must know of a library's file, and what it hands on."""

from dataclasses import dataclass
from typing import Final, TypeAlias

#: (position in the library, id in the input, SMILES in the input)
Record: TypeAlias = tuple[int, str | None, str]
Entry: TypeAlias = tuple[str | None, str]

FORMATS: Final = ("smi", "csv", "tsv", "parquet", "sdf")

#: A file without line ends is not a library; the bound keeps it from filling the memory.
LONGEST_RECORD: Final = 1 << 26


@dataclass(frozen=True)
class Layout:
    """How a library's file is to be read; holds no open file, so it may be pickled.

    Attributes:
        location: Path or URL as given.
        format: One of `FORMATS`.
        smiles_column: Column of the SMILES; None where the format has none.
        id_column: Column of the ids; None where there are none, or where the format has no columns.
        notes: What was guessed or looks odd, in sentences for the log.
        file: The file itself: `location`, or the library file in that folder.
        gzipped: Whether the file is compressed.
        delimiter: What stands between columns, for .csv and .tsv.
        has_header: Whether the first line of a .smi names columns.
    """

    location: str
    format: str
    smiles_column: str | None
    id_column: str | None
    notes: tuple[str, ...]
    file: str
    gzipped: bool = False
    delimiter: str | None = None
    has_header: bool = False
