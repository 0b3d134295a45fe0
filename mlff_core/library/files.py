"""Opening a library's file: a path or a URL, plain or compressed."""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

import fsspec
import pyarrow as pa

from mlff_core.errors import LibraryError

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
READ_ERRORS: Final = (OSError, EOFError, zlib.error, pa.ArrowException)


def is_url(location: str) -> bool:
    return _URL.match(location) is not None


def one_line(error: BaseException) -> str:
    """Say an error in one line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(reason).split())


@contextmanager
def open_raw(file: str) -> Iterator[IO[bytes]]:
    """Open the bytes of a file as they are stored."""
    try:
        if is_url(file):
            # `fs` lives as long as this frame: an archive closes its files when it is collected.
            fs, path = fsspec.core.url_to_fs(file)
            stream = fs.open(path, "rb")
        else:
            stream = open(file, "rb")  # noqa: SIM115
    except ImportError as error:  # fsspec names the package that drives this protocol
        raise LibraryError(f"{file}: a package is missing: {one_line(error)}") from error
    except FileNotFoundError as error:
        raise LibraryError(f"{file}: no such file") from error
    except Exception as error:
        if not (is_url(file) or isinstance(error, OSError)):
            raise
        raise LibraryError(f"{file}: cannot be read: {one_line(error)}") from error
    with stream:
        yield stream


@contextmanager
def open_bytes(file: str, gzipped: bool) -> Iterator[IO[bytes]]:
    """Open the uncompressed bytes of a file."""
    with open_raw(file) as raw:
        if not gzipped:
            yield raw
        else:
            # No buffer around it: when the stream breaks off, a buffer loses what came before.
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked  # type: ignore[misc]
