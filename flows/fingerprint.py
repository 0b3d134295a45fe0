"""Which records a run reads, as data."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class LibraryFingerprint(BaseModel):
    """Which records a run reads.

    Attributes:
        location: Path or URL as given.
        sha256: Of the library's bytes, or of the records that were read, as `hashed` says.
        hashed: "records" where a limit kept the rest of the library unread, else "file".
        n_records: Records that are read, the limit applied.
        smiles_column: Column of the SMILES, if the format has any.
        id_column: Column of the ids, if there is one.
        notes: What was guessed, or looks odd.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str
    sha256: str
    hashed: Literal["file", "records"]
    n_records: int
    smiles_column: str | None
    id_column: str | None
    notes: tuple[str, ...]
