"""Libraries of molecules: files of SMILES in five formats, told apart by name, read as a stream.

A record is one entry of the file, whatever is in it. Nothing is dropped here: what cannot be a
molecule is still handed on, as an empty or odd SMILES, for the chemistry to reject with a reason.

- `.smi`: one line, one record. The SMILES is what stands before the first space or tab, the rest of
  the line is the id. A blank line is a record with an empty SMILES; the line end at the end of the
  file starts no record. A first line that begins with the word `smiles` is a header.
- `.csv`, `.tsv`: a header line, then one record a line, or several lines where a quoted field holds
  line ends. A blank line is a record with an empty SMILES, so is a row too short to have one.
- `.parquet`: one row, one record; a null SMILES is an empty one.
- `.sdf`: one record up to each `$$$$`; its SMILES is that of the mol block, its id the title line.

Text is UTF-8; bytes that are not become U+FFFD, which no SMILES may hold. Memory does not grow with
the length of the library; of Parquet it holds at most two columns of a row group.

layout.py      what a reader must know of a file, and what it hands on
recognise.py   what a location means and what its file is
columns.py     which column holds the SMILES, and which the ids
files.py       opening a file: a path or a URL, plain or compressed
text.py        .smi, .csv and .tsv
parquet.py     .parquet
sdf.py         .sdf
"""

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from typing import Final

from mlff_core.errors import LibraryError
from mlff_core.library.files import READ_ERRORS, is_url, one_line, open_bytes, open_raw
from mlff_core.library.layout import FORMATS, Entry, Layout, Record
from mlff_core.library.parquet import fit_parquet, open_parquet, read_parquet
from mlff_core.library.recognise import check_content, format_of, library_file, read_sample
from mlff_core.library.sdf import UNREADABLE_MOL_BLOCK, fit_sdf, read_sdf, sdf_entries
from mlff_core.library.text import fit_delimited, fit_smi, lines_of, read_delimited, read_smi

__all__ = ["FORMATS", "UNREADABLE_MOL_BLOCK", "Layout", "Library", "Record", "open_library"]


class Library(Layout):
    """A library that was found readable."""

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield (record, input_id, smiles) from record `start` to the end.

        Raises:
            LibraryError: If the file breaks off or cannot be read on; says after which record.
        """
        position = start
        try:
            for input_id, smiles in _entries(self, start):
                yield position, input_id, smiles
                position += 1
        except LibraryError:
            raise
        except Exception as error:
            # A remote file system raises whatever its driver raises; elsewhere it is our mistake.
            if not (is_url(self.file) or isinstance(error, READ_ERRORS)):
                raise
            where = f"after record {position - 1}" if position > start else f"before record {start}"
            raise LibraryError(
                f"{self.file}: cannot be read on {where}: {one_line(error)}"
            ) from error

    def shards(
        self, shard_size: int, limit: int | None = None
    ) -> Iterator[tuple[int, list[Record]]]:
        """Yield (shard index, its records); all shards but the last hold `shard_size` records.

        Args:
            shard_size: Records a shard, at least 1.
            limit: Stop after this many records of the library.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size: expected at least 1, found {shard_size}")
        records = islice(self.records(), limit)
        index = 0
        while shard := list(islice(records, shard_size)):
            yield index, shard
            index += 1

    def count(self) -> int:
        """Count the records; reads the file through, except that Parquet says it at once.

        Raises:
            LibraryError: As `records`.
        """
        try:
            if self.format == "parquet":
                with open_parquet(self) as table:
                    return int(table.metadata.num_rows)
            if self.format == "sdf":  # reading the mol blocks is what costs
                with open_bytes(self.file, self.gzipped) as stream:
                    return sum(1 for _ in sdf_entries(lines_of(stream, self.file), self.file))
        except READ_ERRORS:
            pass  # `records` says how far it came
        return sum(1 for _ in self.records())

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes as they are stored, in hexadecimal."""
        digest = hashlib.sha256()
        with open_raw(self.file) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def open_library(
    location: str | os.PathLike[str],
    smiles_column: str | None = None,
    id_column: str | None = None,
) -> Library:
    """Find out how to read a library, and that it can be read.

    Args:
        location: A file whose name ends in .smi, .csv, .tsv, .parquet or .sdf, or in one of these
            and .gz; a folder that holds exactly one such file; or a URL that fsspec opens.
        smiles_column: Column, or property in an .sdf, that holds the SMILES; None guesses.
        id_column: Column, or property in an .sdf, that holds the ids; None guesses.

    Raises:
        LibraryError: If there is no such file, it is not what its name says, it has no SMILES
            column, or it holds no records. The message is one line.
    """
    location = os.fspath(location)
    notes: list[str] = []
    file = library_file(location, notes)
    kind, gzipped = format_of(file)
    layout = Layout(location, kind, None, None, (), file, gzipped)
    sample = read_sample(layout)
    check_content(layout, sample)
    layout = _FITTERS[kind](layout, sample, smiles_column, id_column, notes)
    library = Library(**vars(layout) | {"notes": tuple(notes)})
    if next(library.records(), None) is None:
        raise LibraryError(f"{file}: holds no records")
    return library


_FITTERS: Final = {
    "smi": fit_smi,
    "csv": fit_delimited,
    "tsv": fit_delimited,
    "parquet": fit_parquet,
    "sdf": fit_sdf,
}

_LINE_READERS: Final = {
    "smi": read_smi,
    "csv": read_delimited,
    "tsv": read_delimited,
    "sdf": read_sdf,
}


def _entries(library: Library, start: int) -> Iterator[Entry]:
    if library.format == "parquet":
        yield from read_parquet(library, start)
    else:
        with open_bytes(library.file, library.gzipped) as stream:
            yield from _LINE_READERS[library.format](library, stream, start)
