"""Libraries of molecules: files of SMILES in five formats, told apart by name, read as a stream.

A record is one entry of the file, whatever is in it. Nothing is dropped here: what cannot be a
molecule is still handed on, as an empty or odd SMILES, for the chemistry to reject with a reason.

- `.smi`: one line, one record. The SMILES is what stands before the first space or tab, and a
  CXSMILES block `|...|` behind it; the rest of the line is the id. A blank line is a record with an
  empty SMILES; the line end at the end of the file starts no record. A first line that begins with
  the word `smiles` is a header; one that names several columns, with tabs between, makes the file
  one of columns. Where plainly the second word is the SMILES, the first is the id.
- `.csv`, `.tsv`: a header line, then one record a line, or several lines where a quoted field holds
  line ends. A blank line is a record with an empty SMILES, so is a row too short to have one. A
  first line `sep=;` is Excel's; one that holds a SMILES where the others do is a record as well.
- `.txt`: as `.csv` if its first line names a column of SMILES, else as `.smi`.
- `.parquet`: one row, one record; a null SMILES is an empty one.
- `.sdf`: one record up to each `$$$$`; its SMILES is that of the mol block, its id the title line.

Text is UTF-8, or UTF-16 with a byte order mark; bytes that are not become U+FFFD, which no SMILES
may hold. Memory does not grow with the length of the library; of Parquet it holds two columns of a
row group at most.

layout.py      what a reader must know of a file, and what it hands on
recognise.py   what a location means and what its file is
columns.py     which column holds the SMILES, and which the ids
files.py       opening a file: a path or a URL, plain or compressed
http.py        files behind http and https
text.py        the encoding of a text, and its lines
smi.py         .smi
tidy.py        plain text, cut by array operations
delimited.py   .csv, .tsv and their like
parquet.py     .parquet
pages.py       what the pages of a Parquet file become
sdf.py         .sdf
molblock.py    the mol block of an SD entry
hindered.py    axes of biaryls that its coordinates show
read.py        the entries of a file, whatever its format
records.py     shards of records, the files
ingest.py      one pass over a library: count it, hash it, cut it into shards
kept.py        other columns, beside what was computed of a record
"""

import io
import os
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library.delimited import fit_delimited, separator_of
from mlff_core.library.files import HashedStream, open_raw
from mlff_core.library.layout import ENTRIES_SCHEMA, FORMATS, Layout, Record
from mlff_core.library.parquet import fit_parquet
from mlff_core.library.read import read_entries
from mlff_core.library.recognise import (
    Sample,
    check_content,
    format_of,
    library_file,
    read_sample,
)
from mlff_core.library.sdf import fit_sdf
from mlff_core.library.smi import fit_smi, header_delimiter
from mlff_core.library.text import decoded, encoding_of, lines_of

__all__ = ["ENTRIES_SCHEMA", "FORMATS", "Layout", "Library", "Record", "open_library"]


class Library(Layout):
    """A library that was found readable."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the entries in batches of `ENTRIES_SCHEMA`.

        Raises:
            LibraryError: If the file breaks off or cannot be read on; says after which record.
        """
        with open_raw(self.file, seekable=self.format == "parquet") as stored:
            yield from read_entries(self, stored, [])

    def records(self) -> Iterator[Record]:
        """Yield the records one by one.

        Raises:
            LibraryError: As `batches`.
        """
        position = 0
        for batch in self.batches():
            for entry in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Record(position, *entry)
                position += 1

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes as they are stored, in hexadecimal."""
        with open_raw(self.file) as stored:
            return HashedStream(stored).sha256()


def open_library(
    location: str | os.PathLike[str],
    smiles_column: str | None = None,
    id_column: str | None = None,
    *,
    poses: bool = False,
    frozen: str | None = None,
) -> Library:
    """Find out how to read a library, and that it can be read; reads its begin only.

    Args:
        location: A file whose name ends in .smi, .csv, .tsv, .txt, .parquet or .sdf, or in one of
            these and .gz; a folder that holds exactly one such file; or a URL that fsspec opens.
        smiles_column: Column, or property in an .sdf, that holds the SMILES; None guesses.
        id_column: Column, or property in an .sdf, that holds the ids; None guesses.
        poses: Read geometries, too, of an .sdf.
        frozen: With them, the property that names frozen atoms.

    Raises:
        LibraryError: If there is no such file, it is not what its name says, it has no SMILES
            column, or it holds no records; or its format has no geometries where they are read. The
            message is one line.
    """
    location = os.fspath(location)
    notes: list[str] = []
    file = library_file(location, notes)
    kind, gzipped = format_of(file)
    if poses and kind != "sdf":
        raise LibraryError(f"{file}: holds no 3D structures; they are read from an .sdf")
    layout = Layout(location, kind, file, gzipped, poses=poses, frozen=frozen)
    with open_raw(file, seekable=kind == "parquet", sparing=True) as stored:
        if kind == "parquet" and not gzipped:
            sample = Sample(stored.read(4), whole=False)
        else:
            sample = read_sample(stored, layout)
        check_content(layout, sample)
        if kind == "parquet":
            stored.seek(0)
            layout = fit_parquet(layout, stored, smiles_column, id_column, notes)
        else:
            layout = _fit_text(layout, sample, smiles_column, id_column, notes)
    return Library(**vars(replace(layout, notes=tuple(notes))))


def _fit_text(
    layout: Layout, sample: Sample, smiles: str | None, ids: str | None, notes: list[str]
) -> Layout:
    layout = replace(layout, encoding=encoding_of(sample.data))
    text = decoded(sample.data, layout.encoding, whole=sample.whole)
    lines = lines_of(text, whole=sample.whole)
    delimiter = None
    if layout.format in ("", "smi"):
        delimiter = header_delimiter(lines, ("\t", " ") if layout.format else ("\t", ",", ";"))
        if not layout.format:
            columns = delimiter is not None or separator_of(lines[0]) is not None
            layout = replace(layout, format="csv" if columns else "smi")
            notes.append(f"the file is read as a .{layout.format}")
        layout = replace(layout, delimiter=delimiter)
    if layout.format == "sdf":
        layout = fit_sdf(layout, lines, smiles, ids, notes)
    elif layout.format == "smi" and delimiter is None:
        layout = fit_smi(layout, lines, smiles, ids, notes)
    else:
        layout = fit_delimited(layout, lines, smiles, ids, notes)
    plain = replace(layout, gzipped=False)
    if next(read_entries(plain, io.BytesIO(sample.data), notes), None) is None:
        raise LibraryError(f"{layout.file}: holds no records")
    return layout
