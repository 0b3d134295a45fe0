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
"""

import csv
import gzip
import hashlib
import io
import os
import re
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import IO, Final, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, rdBase

from mlff_core.errors import LibraryError

#: (position in the library, id in the input, SMILES in the input)
Record: TypeAlias = tuple[int, str | None, str]
_Entry: TypeAlias = tuple[str | None, str]

FORMATS: Final = ("smi", "csv", "tsv", "parquet", "sdf")

#: Column names that mean SMILES or an id, best first, as `_plain_name` writes them.
SMILES_NAMES: Final = (
    "smiles",
    "canonical_smiles",
    "isomeric_smiles",
    "rdkit_smiles",
    "smiles_string",
    "smi",
)
ID_NAMES: Final = (
    "id",
    "input_id",
    "name",
    "identifier",
    "compound_id",
    "molecule_id",
    "mol_id",
    "chembl_id",
    "molecule_chembl_id",
    "zinc_id",
    "zincid",
    "drugbank_id",
    "pubchem_cid",
    "cid",
    "catalog_id",
    "idnumber",
    "title",
    "compound_name",
    "pref_name",
    "_name",
)

_SAMPLE_BYTES: Final = 1 << 20
#: A file without line ends is not a library; the bound keeps it from filling the memory.
_LONGEST_RECORD: Final = 1 << 26
#: Lines that one quoted field may span before its opening quote is taken for a stray character.
_MOST_LINES_A_FIELD: Final = 100
_ROWS_A_BATCH: Final = 8192
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_BLANKS: Final = re.compile(r"[ \t]+")
_PROPERTY: Final = re.compile(r">.*?<([^>]*)>")
_READ_ERRORS: Final = (OSError, EOFError, zlib.error, pa.ArrowException)
#: Stands for a mol block that RDKit cannot read: not a SMILES, so that its record is rejected.
UNREADABLE_MOL_BLOCK: Final = "<unreadable mol block>"


@dataclass(frozen=True)
class Library:
    """A library that was found readable; holds no open file, so it may be pickled.

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
            if not (_is_url(self.file) or isinstance(error, _READ_ERRORS)):
                raise
            where = f"after record {position - 1}" if position > start else f"before record {start}"
            raise LibraryError(f"{self.file}: cannot be read on {where}: {_line(error)}") from error

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
                with _parquet(self) as table:
                    return int(table.metadata.num_rows)
            if self.format == "sdf":  # reading the mol blocks is what costs
                with _open(self.file, self.gzipped) as stream:
                    return sum(1 for _ in _sdf_entries(_lines(stream, self.file), self.file))
        except _READ_ERRORS:
            pass  # `records` says how far it came
        return sum(1 for _ in self.records())

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes as they are stored, in hexadecimal."""
        digest = hashlib.sha256()
        with _open_raw(self.file) as stream:
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
    file = _library_file(location, notes)
    kind, gzipped = _format_of(file)
    library = Library(location, kind, None, None, (), file, gzipped)
    sample = _read_sample(library)
    _check_content(library, sample)
    library = _FITTERS[kind](library, sample, smiles_column, id_column, notes)
    if next(library.records(), None) is None:
        raise LibraryError(f"{file}: holds no records")
    return replace(library, notes=tuple(notes))


# --- where it is and what it is ---------------------------------------------------------------


def _is_url(location: str) -> bool:
    return _URL.match(location) is not None


def _line(error: BaseException) -> str:
    """Say an error in one line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(reason).split())


def _library_file(location: str, notes: list[str]) -> str:
    """Return the path or URL of the file that `location` means."""
    if _is_url(location):
        return location
    path = Path(location).expanduser()
    try:
        if path.is_dir():
            files = sorted(
                f for f in path.iterdir() if f.is_file() and _format_or_none(f.name) is not None
            )
            if len(files) != 1:
                found = ", ".join(f.name for f in files[:5]) or "none"
                raise LibraryError(
                    f"{location}: is a folder; expected exactly one library file in it, "
                    f"found: {found}"
                )
            notes.append(f"the library file is {files[0]}")
            return str(files[0])
        if not path.exists():
            raise LibraryError(f"{location}: no such file")
        if not path.is_file():
            raise LibraryError(f"{location}: is not a regular file")
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder closed to us
        raise LibraryError(f"{location!r}: cannot be read: {_line(error)}") from error
    return str(path)


def _format_or_none(name: str) -> tuple[str, bool] | None:
    """Return (format, gzipped) as a file's name says, None if it says nothing we know."""
    name = name.lower()
    gzipped = name.endswith(".gz")
    suffix = name.removesuffix(".gz").rpartition(".")[2]
    return (suffix, gzipped) if suffix in FORMATS else None


def _format_of(file: str) -> tuple[str, bool]:
    name = file
    if _is_url(file):
        # In a chain such as simplecache::s3://bucket/lib.smi the last link that has a path counts.
        links = [link for link in file.split("::") if "://" in link]
        name = links[0] if links else file
        if name.startswith(("http://", "https://")):
            name = name.partition("?")[0].partition("#")[0]
    found = _format_or_none(name)
    if found is None:
        known = ", ".join(f".{f}" for f in FORMATS)
        raise LibraryError(f"{file}: unknown kind of library; expected {known}, plain or with .gz")
    return found


@contextmanager
def _open_raw(file: str) -> Iterator[IO[bytes]]:
    """Open the bytes of a file as they are stored."""
    try:
        if _is_url(file):
            # `fs` lives as long as this frame: an archive closes its files when it is collected.
            fs, path = fsspec.core.url_to_fs(file)
            stream = fs.open(path, "rb")
        else:
            stream = open(file, "rb")  # noqa: SIM115
    except ImportError as error:  # fsspec names the package that drives this protocol
        raise LibraryError(f"{file}: a package is missing: {_line(error)}") from error
    except FileNotFoundError as error:
        raise LibraryError(f"{file}: no such file") from error
    except Exception as error:
        if not (_is_url(file) or isinstance(error, OSError)):
            raise
        raise LibraryError(f"{file}: cannot be read: {_line(error)}") from error
    with stream:
        yield stream


@contextmanager
def _open(file: str, gzipped: bool) -> Iterator[IO[bytes]]:
    """Open the uncompressed bytes of a file."""
    with _open_raw(file) as raw:
        if not gzipped:
            yield raw
        else:
            # No buffer around it: when the stream breaks off, a buffer loses what came before.
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked  # type: ignore[misc]


def _read_sample(library: Library) -> bytes:
    """Return the first bytes of the uncompressed file."""
    with _open_raw(library.file) as raw:
        head = raw.read(2)
    if library.gzipped and head != b"\x1f\x8b":
        raise LibraryError(f"{library.file}: is not gzip although its name ends in .gz")
    sample = b""
    try:
        with _open(library.file, library.gzipped) as stream:
            read = stream.read1 if isinstance(stream, gzip.GzipFile) else stream.read
            while len(sample) < _SAMPLE_BYTES and (chunk := read(_SAMPLE_BYTES)):
                sample += chunk
    except _READ_ERRORS as error:
        # What came before the damage may well be records; reading them will say where they end.
        if not sample:
            raise LibraryError(f"{library.file}: cannot be read: {_line(error)}") from error
    return sample


#: How other kinds of files begin, or what stands in them somewhere early.
_TELLTALES: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("a Parquet file", lambda b: b.startswith(b"PAR1")),
    ("a gzip file (its name should end in .gz)", lambda b: b.startswith(b"\x1f\x8b")),
    ("a ZIP archive", lambda b: b.startswith(b"PK\x03\x04")),
    ("a Zstandard file", lambda b: b.startswith(b"\x28\xb5\x2f\xfd")),
    ("a PDF document", lambda b: b.startswith(b"%PDF-")),
    ("a web page", lambda b: b.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))),
    ("UTF-16 text (expected UTF-8)", lambda b: b.startswith((b"\xff\xfe", b"\xfe\xff"))),
    ("an SD file (.sdf)", lambda b: re.search(rb"^M  END\r?$", b, re.MULTILINE) is not None),
)


def _check_content(library: Library, sample: bytes) -> None:
    """Refuse content that contradicts the file's name."""
    name = f".{library.format}" + (".gz" if library.gzipped else "")
    if not sample:
        raise LibraryError(f"{library.file}: holds no records (the file is empty)")
    own = {"parquet": "a Parquet file", "sdf": "an SD file (.sdf)"}.get(library.format)
    kind = next((what for what, is_it in _TELLTALES if is_it(sample)), None)
    if kind is not None and kind != own:
        raise LibraryError(f"{library.file}: is named {name}, but its content is that of {kind}")
    if own is not None and kind is None:
        raise LibraryError(f"{library.file}: is named {name}, but its content is not that of {own}")
    if library.format == "parquet":
        return
    text = sample.decode("utf-8", "replace")
    odd = sum(text.count(c) for c in {"\ufffd", *map(chr, range(32))} - set("\t\n\r"))
    if 4 * odd > len(text):
        raise LibraryError(f"{library.file}: is named {name}, but holds binary data, not text")
    if "\r" in text and "\n" not in text:
        raise LibraryError(
            f"{library.file}: its lines end in CR alone; expected LF or CR LF at the end of a line"
        )


# --- which columns ----------------------------------------------------------------------------


def _plain_name(column: str) -> str:
    return re.sub(r"[\s.\-]+", "_", column.strip().lower())


def _match(wanted: str, columns: Sequence[str]) -> str | None:
    """Return the column that the user means by `wanted`: this very name, else another case."""
    if wanted in columns:
        return wanted
    return next((c for c in columns if c.lower() == wanted.lower()), None)


def _guess(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column whose name stands first in `names`."""
    plain = [_plain_name(c) for c in columns]
    return next((columns[plain.index(n)] for n in names if n in plain), None)


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(c if c.isprintable() and c else repr(c) for c in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def _choose_smiles(file: str, columns: Sequence[str], wanted: str | None, notes: list[str]) -> str:
    if wanted is not None:
        found = _match(wanted, columns)
        if found is None:
            raise LibraryError(f"{file}: no column {wanted!r}; its columns are: {_list(columns)}")
        return found
    found = _guess(SMILES_NAMES, columns)
    if found is None:
        some = [c for c in columns if "smiles" in c.lower()]
        if len(some) != 1:
            raise LibraryError(
                f"{file}: no column is plainly the SMILES; name one with --smiles-column. "
                f"Its columns are: {_list(columns)}"
            )
        found = some[0]
    notes.append(f"column {found!r} is taken for the SMILES (of: {_list(columns)})")
    return found


def _choose_id(
    file: str, columns: Sequence[str], wanted: str | None, smiles: str | None, notes: list[str]
) -> str | None:
    if wanted is not None:
        found = _match(wanted, columns)
        if found is None:
            raise LibraryError(f"{file}: no column {wanted!r}; its columns are: {_list(columns)}")
        return found
    found = _guess(ID_NAMES, [c for c in columns if c != smiles])
    if found is None:
        notes.append("no column is taken for the id (name one with --id-column)")
    else:
        notes.append(f"column {found!r} is taken for the id")
    return found


def _first_line(sample: bytes) -> str:
    return sample.decode("utf-8-sig", "replace").partition("\n")[0].removesuffix("\r")


def _note_encoding(sample: bytes, notes: list[str]) -> None:
    # The sample may end within a character, so its last three bytes prove nothing.
    if "\ufffd" in sample[: max(len(sample) - 3, 1)].decode("utf-8", "replace"):
        notes.append("some bytes are not UTF-8; each is read as U+FFFD, which no SMILES may hold")


def _fit_smi(
    library: Library, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Library:
    line = _first_line(sample)
    first, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
    if _guess(SMILES_NAMES, re.split("[,;]", first)) is not None and re.search("[,;]", first):
        raise LibraryError(
            f"{library.file}: is named .smi, but its first line has columns: {_list([line])}; "
            "expected a name that ends in .csv"
        )
    has_header = _plain_name(first) in SMILES_NAMES
    if has_header:
        notes.append(f"the first line is taken for a header: {line!r}")
    for wanted, found, what in ((smiles, first, "SMILES"), (ids, rest, "id")):
        if wanted is not None and not (has_header and _match(wanted, [found.strip()])):
            raise LibraryError(
                f"{library.file}: no column {wanted!r} for the {what}; a .smi has the SMILES "
                "before the first space or tab and the id after it"
            )
    _note_encoding(sample, notes)
    return replace(library, has_header=has_header)


def _fit_delimited(
    library: Library, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Library:
    own = {"csv": ",", "tsv": "\t"}[library.format]
    headers = {
        delimiter: next(_delimited_rows(_lines(io.BytesIO(sample), library.file), delimiter))
        for delimiter in (own, *(d for d in ",;\t|" if d != own))
    }
    delimiter = next(
        (
            d
            for d, columns in headers.items()
            if (_match(smiles, columns) if smiles else _guess(SMILES_NAMES, columns)) is not None
        ),
        max(headers, key=lambda d: len(headers[d])),
    )
    if delimiter != own:
        notes.append(f"{delimiter!r} is taken for what stands between the columns")
    columns = headers[delimiter]
    smiles_column = _choose_smiles(library.file, columns, smiles, notes)
    id_column = _choose_id(library.file, columns, ids, smiles_column, notes)
    _note_encoding(sample, notes)
    return replace(library, smiles_column=smiles_column, id_column=id_column, delimiter=delimiter)


def _fit_parquet(
    library: Library, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Library:
    try:
        with _parquet(library) as table:
            schema = table.schema_arrow
    except _READ_ERRORS as error:
        raise LibraryError(
            f"{library.file}: is not a whole Parquet file: {_line(error)}"
        ) from error
    smiles_column = _choose_smiles(library.file, schema.names, smiles, notes)
    id_column = _choose_id(library.file, schema.names, ids, smiles_column, notes)
    kind = schema.field(smiles_column).type
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_it(value_type) for is_it in _TEXT_TYPES):
        raise LibraryError(
            f"{library.file}: column {smiles_column!r} holds {kind}; expected text for the SMILES"
        )
    return replace(library, smiles_column=smiles_column, id_column=id_column)


def _fit_sdf(
    library: Library, sample: bytes, smiles: str | None, ids: str | None, notes: list[str]
) -> Library:
    entries = list(_sdf_entries(_lines(io.BytesIO(sample), library.file), library.file))
    properties = list(dict.fromkeys(name for entry in entries for name in _properties(entry)))
    smiles_column = None
    if smiles is not None:
        smiles_column = _choose_smiles(library.file, properties, smiles, notes)
    id_column = None
    if ids is not None:
        id_column = _choose_id(library.file, properties, ids, smiles_column, notes)
    elif not any(entry[0].strip() for entry in entries):
        notes.append("the title lines are blank")
        id_column = _choose_id(library.file, properties, None, smiles_column, notes)
    _note_encoding(sample, notes)
    return replace(library, smiles_column=smiles_column, id_column=id_column)


_FITTERS: Final = {
    "smi": _fit_smi,
    "csv": _fit_delimited,
    "tsv": _fit_delimited,
    "parquet": _fit_parquet,
    "sdf": _fit_sdf,
}


# --- reading ----------------------------------------------------------------------------------


def _entries(library: Library, start: int) -> Iterator[_Entry]:
    if library.format == "parquet":
        yield from _read_parquet(library, start)
    else:
        with _open(library.file, library.gzipped) as stream:
            yield from _LINE_READERS[library.format](library, stream, start)


def _lines(stream: IO[bytes], file: str) -> Iterator[str]:
    """Yield the lines without their ends; a byte order mark is dropped."""
    encoding = "utf-8-sig"
    while raw := stream.readline(_LONGEST_RECORD):
        if len(raw) == _LONGEST_RECORD:
            raise LibraryError(f"{file}: has a line of more than {_LONGEST_RECORD >> 20} MiB")
        yield raw.decode(encoding, "replace").removesuffix("\n").removesuffix("\r")
        encoding = "utf-8"


def _read_smi(library: Library, stream: IO[bytes], start: int) -> Iterator[_Entry]:
    lines = _lines(stream, library.file)
    for line in islice(lines, start + library.has_header, None):
        smiles, *rest = _BLANKS.split(line.lstrip(" "), maxsplit=1)
        yield (rest[0].strip() or None if rest else None), smiles


def _delimited_rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of each record.

    A quoted field may hold delimiters and line ends. A quote that nothing closes within
    `_MOST_LINES_A_FIELD` lines, or that is closed in mid-field, spoils its own line only: a plain
    CSV reader would take all that follows, up to the next quote, for one field.
    """
    pushed_back: deque[str] = deque()

    def next_line() -> str | None:
        return pushed_back.popleft() if pushed_back else next(lines, None)

    def one_record(line: str, taken: list[str]) -> Iterator[str]:
        yield line + "\n"
        for following in islice(iter(next_line, None), _MOST_LINES_A_FIELD - 1):
            taken.append(following)
            yield following + "\n"

    for line in iter(next_line, None):
        if '"' not in line:
            yield line.split(delimiter)
            continue
        taken: list[str] = []  # the lines that the reader asked for beyond the first
        try:
            row = next(csv.reader(one_record(line, taken), delimiter=delimiter, strict=True))
        except csv.Error:
            pushed_back.extendleft(reversed(taken))
            row = line.split(delimiter)
        yield row


def _read_delimited(library: Library, stream: IO[bytes], start: int) -> Iterator[_Entry]:
    assert library.delimiter is not None
    assert library.smiles_column is not None
    rows = _delimited_rows(_lines(stream, library.file), library.delimiter)
    columns = next(rows)
    smiles_at = columns.index(library.smiles_column)
    id_at = len(columns) if library.id_column is None else columns.index(library.id_column)
    for row in islice(rows, start, None):
        yield (
            (row[id_at].strip() or None) if id_at < len(row) and id_at < len(columns) else None,
            row[smiles_at].strip() if smiles_at < len(row) else "",
        )


_TEXT_TYPES: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)


@contextmanager
def _parquet(library: Library) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        stream = stack.enter_context(_open(library.file, library.gzipped))
        if library.gzipped:  # Parquet is read from its end, which gzip cannot do
            spooled = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, spooled, 1 << 20)
            stream = spooled
        # Without pre-buffering, no more than one row group's pages of a column are in memory.
        yield stack.enter_context(pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 16))


def _strings(column: pa.Array) -> list[str | None]:
    """Return the values of a column as text, whatever its type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        return [None if v is None else str(v) for v in column.to_pylist()]
    if any(is_it(column.type) for is_it in _TEXT_TYPES):
        # By way of bytes: a writer may have put into a text column what is not UTF-8.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if v is None else v.decode("utf-8", "replace") for v in raw]
    return column.cast(pa.large_string()).to_pylist()


def _read_parquet(library: Library, start: int) -> Iterator[_Entry]:
    assert library.smiles_column is not None
    columns = [library.smiles_column, *([library.id_column] if library.id_column else [])]
    with _parquet(library) as table:
        skip, groups = start, list(range(table.num_row_groups))
        while groups and skip >= (rows := table.metadata.row_group(groups[0]).num_rows):
            skip -= rows
            groups.pop(0)
        for batch in table.iter_batches(_ROWS_A_BATCH, row_groups=groups, columns=columns):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            batch = batch.slice(skip)
            skip = 0
            smiles = _strings(batch.column(columns[0]))
            ids = _strings(batch.column(columns[-1])) if len(columns) > 1 else repeat(None)
            for one_id, one_smiles in zip(ids, smiles, strict=False):
                yield (one_id or "").strip() or None, (one_smiles or "").strip()


def _sdf_entries(lines: Iterator[str], file: str) -> Iterator[list[str]]:
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
        if size > _LONGEST_RECORD:
            raise LibraryError(f"{file}: has an entry of more than {_LONGEST_RECORD >> 20} MiB")
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


def _read_sdf(library: Library, stream: IO[bytes], start: int) -> Iterator[_Entry]:
    needs_properties = library.smiles_column is not None or library.id_column is not None
    for entry in islice(_sdf_entries(_lines(stream, library.file), library.file), start, None):
        properties = _properties(entry) if needs_properties else {}
        ids, smiles = library.id_column, library.smiles_column
        yield (
            (entry[0] if ids is None else properties.get(ids, "")).strip() or None,
            _mol_block_smiles(entry) if smiles is None else properties.get(smiles, "").strip(),
        )


_LINE_READERS: Final = {
    "smi": _read_smi,
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "sdf": _read_sdf,
}
