"""Columns of a library that a screen has no use for, beside what it computed: read when wanted."""

from collections.abc import Iterator, Sequence

from mlff_core.errors import LibraryError
from mlff_core.library import open_library


class KeptColumns:
    """Values of some columns, or properties of an SD file, by record; read once, in order.

    The reader that found the ids reads each column, so that records are counted as they were.

    Args:
        files: Of the library, in the order of the records.
        smiles_column: That was screened; None where the format has none.
        names: Of the columns.

    Raises:
        LibraryError: A file cannot be read, or has no such column.
    """

    def __init__(self, files: Sequence[str], smiles_column: str | None, names: Sequence[str]):
        self.names = tuple(names)
        self._rows = _rows(files, smiles_column, self.names)
        self._next = 0
        self._row: tuple[str | None, list[str | None]] = None, []

    def of(self, record: int, input_smiles: str) -> dict[str, str]:
        """What the columns hold for a record; those that are blank are left out.

        Args:
            record: Not before the one that was asked for last.
            input_smiles: Of the record, as the tables have it.

        Raises:
            LibraryError: The library is no longer the one that was screened.
        """
        while self._next <= record:
            row = next(self._rows, None)
            if row is None:
                raise LibraryError(f"the library has no record {record} any more")
            self._row = row
            self._next += 1
        smiles, values = self._row
        if (smiles or "") != input_smiles:
            raise LibraryError(
                f"the library is no longer the one that was screened: record {record} was "
                f"{input_smiles}, is {smiles}"
            )
        pairs = zip(self.names, values, strict=True)
        return {name: value for name, value in pairs if value is not None}


def _rows(
    files: Sequence[str], smiles_column: str | None, names: Sequence[str]
) -> Iterator[tuple[str | None, list[str | None]]]:
    for file in files:
        readers = [open_library(file, smiles_column, name).records() for name in names]
        for entries in zip(*readers, strict=True):
            yield entries[0].smiles, [entry.input_id for entry in entries]
