"""Opening a library's file: a path or a URL, plain or compressed, and hashing it on the way."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, cast

import fsspec
import pyarrow as pa

from mlff_core.errors import LibraryError
from mlff_core.library.http import is_http, open_http
from mlff_core.store import is_bucket, open_store

READ_ERRORS: Final = (OSError, EOFError, zlib.error, pa.ArrowException)

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_PIECE_BYTES: Final = 1 << 18
_FIRST_CHUNK_BYTES: Final = 1 << 16
_LARGEST_CHUNK_BYTES: Final = 1 << 18
#: SMILES compress to a tenth or so. What becomes more than this many times larger than it is stored
#: was made to fill a disk or a memory ...
_LARGEST_EXPANSION: Final = 200
#: ... if it becomes larger than this.
_MODEST_BYTES: Final = 1 << 28


def is_url(location: str) -> bool:
    """Whether fsspec opens it, rather than the operating system."""
    return _URL.match(location) is not None


def one_line(error: BaseException) -> str:
    """Say an error in one line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(reason).split())


@contextmanager
def open_raw(file: str, *, seekable: bool = False, sparing: bool = False) -> Iterator[IO[bytes]]:
    """Open the bytes of a file as they are stored.

    Args:
        file: Path or URL.
        seekable: Whether they will be read in another order than that of the file.
        sparing: Whether reading may end long before the file does.

    Raises:
        LibraryError: It is not there or may not be read, or the package that reads it is missing.
    """
    try:
        if is_http(file):
            stream = open_http(file, seekable=seekable, sparing=sparing)
        elif is_bucket(file):
            place, _, name = file.rpartition("/")
            stream = open_store(place).open(name)
        elif is_url(file):
            # `fs` lives as long as this frame: an archive closes its files when it is collected.
            fs, path = fsspec.core.url_to_fs(file)
            stream = fs.open(path, "rb")
        else:
            stream = open(file, "rb")  # noqa: SIM115
    except ImportError as error:  # fsspec names the package that drives this protocol
        raise LibraryError(f"{file}: a package is missing: {_how_to_install(error)}") from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # there is no such host, or it does not answer
            why = one_line(error.__cause__)
            raise LibraryError(f"{file}: cannot be read: {why}") from error
        raise LibraryError(f"{file}: no such file") from error
    except Exception as error:
        if not (is_url(file) or isinstance(error, OSError)):
            raise
        raise LibraryError(f"{file}: cannot be read: {one_line(error)}") from error
    with stream:
        yield stream


def _how_to_install(error: ImportError) -> str:
    if (error.name or "").partition(".")[0] == "aiohttp":
        return "aiohttp reads http and https: pip install 'mlff-screen[http]'"
    return one_line(error)


def check_expansion(file: str, stored: int, unpacked: int) -> None:
    """Refuse what becomes far larger than it is.

    Args:
        file: For the message.
        stored: Bytes that were read.
        unpacked: Bytes that they became.

    Raises:
        LibraryError: No library of molecules compresses so well.
    """
    if unpacked > _MODEST_BYTES and unpacked > _LARGEST_EXPANSION * stored:
        raise LibraryError(
            f"{file}: {stored:,} bytes became more than {unpacked >> 20:,} MiB; no library "
            "compresses so well, and reading stops here"
        )


@contextmanager
def unpacked(stored: IO[bytes], gzipped: bool, file: str) -> Iterator[IO[bytes]]:
    """Open the uncompressed bytes behind stored ones.

    Reading raises a LibraryError where they become far more than a library would.

    Args:
        stored: The bytes as they are stored.
        gzipped: Whether they are compressed.
        file: For the message.
    """
    if not gzipped:
        yield stored
    else:
        # No buffer around it: when the stream breaks off, a buffer loses what came before.
        with _BoundedGzip(stored, file) as stream:
            yield cast(IO[bytes], stream)


class _BoundedGzip(gzip.GzipFile):
    """Unpacks, and stops where a little becomes far too much."""

    def __init__(self, stored: IO[bytes], file: str) -> None:
        self._counted = _Counted(stored)
        self._file = file
        super().__init__(fileobj=cast(IO[bytes], self._counted))

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        check_expansion(self._file, self._counted.n_bytes, self.tell())
        return data

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        check_expansion(self._file, self._counted.n_bytes, self.tell())
        return data


class _Counted:
    """Counts the bytes that are read."""

    def __init__(self, stored: IO[bytes]) -> None:
        self._stored = stored
        self.n_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stored.read(size)
        self.n_bytes += len(data)
        return data


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a stream in chunks that grow, so that who needs little reads little.

    What was read before an error is yielded before it is raised.
    """
    read = stream.read1 if isinstance(stream, gzip.GzipFile) else stream.read
    size = _FIRST_CHUNK_BYTES
    while True:
        parts: list[bytes] = []
        missing = size
        try:
            while missing > 0 and (part := read(missing)):
                parts.append(part)
                missing -= len(part)
        except Exception:
            if parts:
                yield b"".join(parts)
            raise
        if not parts:
            return
        yield b"".join(parts)
        size = min(2 * size, _LARGEST_CHUNK_BYTES)


class HashedStream:
    """A stream that hashes what is read from it."""

    def __init__(self, stored: IO[bytes]) -> None:
        self._stored = stored
        self._digest = hashlib.sha256()
        self._piece = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE_BYTES), b""))
        if not self._piece:
            piece = self._stored.read(_PIECE_BYTES)  # a decompressor asks for little at a time
            self._digest.update(piece)
            self._piece = memoryview(piece)
        part, self._piece = self._piece[:size], self._piece[size:]
        return bytes(part)

    def sha256(self) -> str:
        """Read on to the end and return the SHA-256 of all bytes, in hexadecimal."""
        while self.read(_PIECE_BYTES):
            pass
        return self._digest.hexdigest()
