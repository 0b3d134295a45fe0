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

READ_ERRORS: Final = (OSError, EOFError, zlib.error, pa.ArrowException)

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_PIECE_BYTES: Final = 1 << 18
_FIRST_CHUNK_BYTES: Final = 1 << 16
_LARGEST_CHUNK_BYTES: Final = 1 << 18


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


@contextmanager
def unpacked(stored: IO[bytes], gzipped: bool) -> Iterator[IO[bytes]]:
    """Open the uncompressed bytes behind stored ones."""
    if not gzipped:
        yield stored
    else:
        # No buffer around it: when the stream breaks off, a buffer loses what came before.
        with gzip.GzipFile(fileobj=stored) as stream:
            yield cast(IO[bytes], stream)


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
