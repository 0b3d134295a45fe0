"""Where results lie: named files that are there whole or not at all.

A `Store` is what the tables ask of a folder, or of whatever stands for one: names with slashes
between their parts, no renaming, no half-written file under its final name. `FolderStore` keeps
them in a local folder, `BucketStore` in a bucket. `whole_file` is the one place where the project
gives a file its name.

bucket.py      S3, Google Cloud Storage, Azure
"""

import errno
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

from mlff_core.errors import OutputError

#: A folder, or the URL of a place in a bucket.
Location = Path | str
#: Buckets that a store may be in.
BUCKETS: Final = ("s3://", "gs://", "az://", "abfs://", "abfss://")
#: What a write that was cut off leaves. Names with a leading dot are no files of the store: that
#: hides this, and the locks, from readers and their patterns.
_LEFTOVER_NAME: Final = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")


class Store(Protocol):
    """Named files in one place. Names are relative, their parts separated by slashes."""

    @property
    def location(self) -> str:
        """Where the store is, as a person would write it; what messages begin with."""

    def list(self, folder: str = "") -> list[str]:
        """Names of the whole files in a folder, not in those below it, sorted; none if none."""

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there, whole."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading at any place.

        Raises:
            FileNotFoundError: There is none.
        """

    def put(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that appears under its name, in the place of an earlier one, at the end.

        If the block raises, or the process dies in it, the name keeps what it had.
        """

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""

    def tidy(self, folder: str, names: re.Pattern[str]) -> None:
        """Remove what writes that were cut off left in a folder of files of these names."""

    def url(self, name: str) -> str:
        """Where other programs find a file: a path, or an address that they know."""

    def check(self) -> None:
        """Find out, without touching anything, whether files can be put here.

        Raises:
            OutputError: They cannot.
        """

    def modified(self, name: str) -> float:
        """When a file got its content, in seconds since 1970 by the clock of the place.

        Raises:
            FileNotFoundError: There is none.
        """

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a name that only one process can hold; it is free again when the holder is gone.

        Raises:
            OutputError: Another process holds it.
        """

    def holder(self, name: str) -> str | None:
        """Who holds a name, in words; None if nobody does."""


class FolderStore:
    """A local folder as a `Store`. It is made when the first file is put into it."""

    def __init__(self, folder: Path | str) -> None:
        """Take a folder, which need not be there."""
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"FolderStore({str(self.folder)!r})"

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.folder)

    def list(self, folder: str = "") -> list[str]:
        """Names of the whole files in a folder, not in those below it, sorted; none if none."""
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(self.folder / folder) as entries:  # which know what they are
                found = [entry.name for entry in entries if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(prefix + name for name in found if not name.startswith("."))

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there, whole."""
        return (self.folder / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading at any place.

        Raises:
            FileNotFoundError: There is none.
            OSError: It is something else than a file, which might never end.
        """
        path = self.folder / name
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        return open(path, "rb")

    @contextmanager
    def put(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears under its name, in the place of an earlier one, at the end."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            yield stream

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        (self.folder / name).unlink(missing_ok=True)

    def tidy(self, folder: str, names: re.Pattern[str]) -> None:
        """Remove what writes that were cut off left in a folder of files of these names."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in (self.folder / folder).iterdir():
                leftover = _LEFTOVER_NAME.fullmatch(path.name)
                if leftover and names.fullmatch(leftover["name"]):
                    path.unlink(missing_ok=True)

    def url(self, name: str) -> str:
        """The file's path."""
        return str(self.folder / name)

    def check(self) -> None:
        """Find out, without touching anything, whether files can be put here.

        Raises:
            OutputError: The folder, or the nearest above it that is there, cannot be written.
        """
        folder = self.folder
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(folder)  # lexists is silent about a name that cannot be
            nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        except (OSError, ValueError) as error:  # too long a name, a NUL in it
            raise OutputError(f"{str(folder)!r}: cannot be written: {one_line(error)}") from error
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            raise OutputError(f"{folder}: cannot be written: {nearest} is not a writable folder")

    def modified(self, name: str) -> float:
        """When a file got its content, in seconds since 1970.

        Raises:
            FileNotFoundError: There is none.
        """
        return (self.folder / name).stat().st_mtime

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name that only one process can hold; it is free again when the holder is gone.

        Raises:
            OutputError: Another process holds it.
        """
        import fcntl  # POSIX, as all that runs a screen; not needed to import this file

        path = self.folder / f".{name}.lock"
        was_there = self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:  # a link would have us write into what it leads to
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise OutputError(f"{path}: is a symbolic link; remove it") from error
        try:
            # The kernel lets go of it when the holder dies, however it dies.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Not that of a file which its holder took away meanwhile.
            held = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            held = False
        try:
            if not held:
                who = self.holder(name)
                raise OutputError(
                    f"{self.folder}: another run is at work here{f' ({who})' if who else ''}; wait "
                    "for it, or choose another folder"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, own_name().encode(), 0)
            yield
        finally:
            if held:
                path.unlink(missing_ok=True)
                if not was_there:
                    with suppress(OSError):  # it holds files now
                        self.folder.rmdir()
            os.close(descriptor)

    def holder(self, name: str) -> str | None:
        """Who holds a name, in words; None if nobody does. Touches nothing.

        A holder on another host is believed: nothing here tells if it is gone.
        """
        import psutil

        try:
            who = (self.folder / f".{name}.lock").read_text(errors="replace")[:200]
        except OSError:
            return None
        if not (found := _HOLDER.fullmatch(who)):
            return None
        if found["host"] == platform.node() and not psutil.pid_exists(int(found["pid"])):
            return None
        return who


#: How a holder names itself.
_HOLDER: Final = re.compile(r"process (?P<pid>\d{1,9}) on (?P<host>\S*)")


def own_name() -> str:
    """How a process that holds a name calls itself."""
    return f"process {os.getpid()} on {platform.node()}"


def open_store(location: Store | Path | str) -> Store:
    """The store at a location: a folder by its path, a bucket by its URL, or a store itself.

    Raises:
        OutputError: The package that reaches buckets is missing, or the URL is none of them.
    """
    if isinstance(location, str) and is_bucket(location):
        from mlff_core.store.bucket import BucketStore

        return BucketStore(location)
    return FolderStore(location) if isinstance(location, Path | str) else location


def place_of(location: str) -> Location:
    """What a location means: a folder, absolute, or the URL of a place in a bucket."""
    return location.rstrip("/") if is_bucket(location) else Path(location).expanduser().absolute()


def is_bucket(location: str) -> bool:
    """Whether a location is the URL of a place in a bucket."""
    return location.startswith(BUCKETS)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is whole and on the disk.

    Args:
        path: Final name; its folder must be there. An earlier file of that name stays as it is
            until it is replaced, and for good if the block raises.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        hidden.unlink(missing_ok=True)  # of an earlier process of this number, or a link
        with open(hidden, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(hidden, path)
    except BaseException:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, outlives a loss of power
    finally:
        os.close(folder)


def one_line(error: BaseException) -> str:
    """Say an error in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as stream:
        stream.write(data)
