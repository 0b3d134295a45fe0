"""What a location means and what its file is, by its name and by how it begins."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, NamedTuple

from mlff_core.errors import LibraryError
from mlff_core.library.files import READ_ERRORS, chunks, is_url, one_line, unpacked
from mlff_core.library.layout import FORMATS, Layout
from mlff_core.library.text import decoded, encoding_of
from mlff_core.shipped import missing, shipped

#: Ends of names that mean one of `FORMATS`; "" has to be found out from the content.
_SUFFIXES: Final = {
    **{name: name for name in FORMATS},
    "smiles": "smi",
    "cxsmiles": "smi",
    "ism": "smi",
    "tab": "tsv",
    "pq": "parquet",
    "sd": "sdf",
    "mol": "sdf",
    "txt": "",
}
_SAMPLE_BYTES: Final = 1 << 18


class Sample(NamedTuple):
    """The first bytes of the uncompressed file, and whether they are all."""

    data: bytes
    whole: bool


def library_file(location: str, notes: list[str]) -> str:
    """Return the path or URL of the file that `location` means."""
    if is_url(location):
        return location
    path = shipped(location) or Path(location).expanduser()
    try:
        if path.is_dir():
            files = sorted(
                f for f in path.iterdir() if f.is_file() and _format_or_none(f.name) is not None
            )
            # A .txt may be anything; it is the library only where nothing else is.
            named = [f for f in files if (_format_or_none(f.name) or ("",))[0]]
            files = named or files
            if len(files) != 1:
                found = ", ".join(f.name for f in files[:5]) or "none"
                raise LibraryError(
                    f"{location}: is a folder; expected exactly one library file in it, "
                    f"found: {found}"
                )
            notes.append(f"the library file is {files[0]}")
            return str(files[0])
        if not path.exists():
            raise LibraryError(missing(location))
        if not path.is_file():
            raise LibraryError(f"{location}: is not a regular file")
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder closed to us
        raise LibraryError(f"{location!r}: cannot be read: {one_line(error)}") from error
    return str(path)


def library_files(location: str) -> list[str]:
    """The files that a location means where it may mean several: those of a folder, by name.

    Raises:
        LibraryError: There is none.
    """
    if not is_url(location) and shipped(location):
        return [location]
    folder = Path(location).expanduser()
    if is_url(location) or not folder.is_dir():
        return [location]
    try:
        files = [
            f for f in folder.iterdir() if f.is_file() and (_format_or_none(f.name) or ("",))[0]
        ]
    except OSError as error:
        raise LibraryError(f"{location!r}: cannot be read: {one_line(error)}") from error
    if not files:
        raise LibraryError(f"{location}: is a folder without any library file in it")
    return [str(file) for file in sorted(files)]


def _format_or_none(name: str) -> tuple[str, bool] | None:
    """Return (format, gzipped) as a file's name says, None if it says nothing we know."""
    name = name.lower()
    gzipped = name.endswith(".gz")
    kind = _SUFFIXES.get(name.removesuffix(".gz").rpartition(".")[2])
    return None if kind is None else (kind, gzipped)


def format_of(file: str) -> tuple[str, bool]:
    name = file
    if is_url(file):
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


def read_sample(stored: IO[bytes], layout: Layout) -> Sample:
    """Read the first bytes of a file that is open at its begin."""
    data = b""
    try:
        with unpacked(stored, layout.gzipped, layout.file) as stream:
            for chunk in chunks(stream):
                data += chunk
                if len(data) >= _SAMPLE_BYTES:
                    return Sample(data, whole=False)
    except gzip.BadGzipFile as error:
        if not data:
            raise LibraryError(
                f"{layout.file}: is not gzip although its name ends in .gz"
            ) from error
        return Sample(data, whole=False)
    except READ_ERRORS as error:
        # What came before the damage may well be records; reading them will say where they end.
        if not data:
            raise LibraryError(f"{layout.file}: cannot be read: {one_line(error)}") from error
        return Sample(data, whole=False)
    return Sample(data, whole=True)


#: How other kinds of files begin, or what stands in them somewhere early.
_TELLTALES: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("a Parquet file", lambda b: b.startswith(b"PAR1")),
    ("a gzip file (its name should end in .gz)", lambda b: b.startswith(b"\x1f\x8b")),
    ("a bzip2 file", lambda b: b.startswith(b"BZh")),
    ("a ZIP archive", lambda b: b.startswith(b"PK\x03\x04")),
    ("a Zstandard file", lambda b: b.startswith(b"\x28\xb5\x2f\xfd")),
    ("a MOL2 file", lambda b: b.lstrip().startswith(b"@<TRIPOS>")),
    ("a PDB file", lambda b: b.startswith((b"HEADER    ", b"ATOM      ", b"HETATM", b"REMARK "))),
    ("a JSON file", lambda b: b.lstrip().startswith((b'{"', b"[{"))),
    ("an XML file", lambda b: b.lstrip().startswith(b"<?xml")),
    ("a PDF document", lambda b: b.startswith(b"%PDF-")),
    ("a web page", lambda b: b.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))),
)
_MOL_BLOCK: Final = re.compile(r"^(M +END|.{33} V[23]000)\s*$", re.MULTILINE)


def check_content(layout: Layout, sample: Sample) -> None:
    """Refuse content that contradicts the file's name."""
    kind_named = layout.format or "txt"
    name = f".{kind_named}" + (".gz" if layout.gzipped else "")
    data = sample.data
    if not data:
        raise LibraryError(f"{layout.file}: holds no records (the file is empty)")
    own = {"parquet": "a Parquet file", "sdf": "an SD file (.sdf)"}.get(layout.format)
    kind = next((what for what, is_it in _TELLTALES if is_it(data)), None)
    text = "" if kind is not None else decoded(data, encoding_of(data))
    if _MOL_BLOCK.search(text):
        kind = "an SD file (.sdf)"
    if kind is not None and kind != own:
        raise LibraryError(f"{layout.file}: is named {name}, but its content is that of {kind}")
    if own is not None and kind is None:
        raise LibraryError(f"{layout.file}: is named {name}, but its content is not that of {own}")
    odd = sum(text.count(c) for c in {"\ufffd", *map(chr, range(32))} - set("\t\n\r"))
    if 4 * odd > len(text) and kind is None:
        raise LibraryError(f"{layout.file}: is named {name}, but holds binary data, not text")
    if "\r" in text and "\n" not in text:
        raise LibraryError(
            f"{layout.file}: its lines end in CR alone; expected LF or CR LF at the end of a line"
        )
