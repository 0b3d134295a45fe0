"""A place in a bucket as a `Store`: S3 and what speaks it, Google Cloud Storage, Azure.

One put is whole, so nothing is renamed. A name is held by an object that only one can create, and
that its holder puts anew as long as it lives: who finds it unchanged for long enough may take it
over, by a put that the bucket refuses if somebody was faster. No clock is compared with another.

Keys, region and endpoint are read where each vendor's own programs look for them, such as
`AWS_ACCESS_KEY_ID`, `AWS_REGION` and `AWS_ENDPOINT_URL`.
"""

import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, cast

from mlff_core.errors import OutputError
from mlff_core.store import one_line, own_name

#: A holder puts its object anew so often, in seconds.
BEAT_S: Final = 10.0
#: Beats that a holder may miss before it is taken for dead.
MISSED: Final = 4
#: Bytes that are asked for at once where a file is read here and there.
_BLOCK_BYTES: Final = 1 << 20


class BucketStore:
    """A place in a bucket.

    Args:
        url: Of the place, such as "s3://bucket/some/prefix".
        beat_s: Seconds between two signs of life of whoever holds a name.

    Raises:
        OutputError: The package that reaches buckets is missing, or the URL is none of them.
    """

    def __init__(self, url: str, *, beat_s: float = BEAT_S) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise OutputError(
                f"{url}: a package is missing: pip install 'mlff-screen[bucket]'"
            ) from error
        self._obstore: Any = obstore
        self._location, self._beat_s = url.rstrip("/"), beat_s
        try:
            options = {"allow_http": True} if _endpoint_is_plain() else {}
            self._bucket: Any = cast(Any, from_url)(self._location, client_options=options)
        except Exception as error:  # whatever its drivers raise
            raise OutputError(f"{url}: cannot be reached: {_words(error)}") from error

    def __repr__(self) -> str:
        return f"BucketStore({self._location!r})"

    def __reduce__(self) -> tuple[type["BucketStore"], tuple[str]]:
        return BucketStore, (self._location,)

    @property
    def location(self) -> str:
        """The URL."""
        return self._location

    def list(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, not in those below it, sorted; none if none."""
        found = self._obstore.list_with_delimiter(self._bucket, folder or None)["objects"]
        names = [one["path"] for one in found]
        return sorted(name for name in names if not name.rpartition("/")[2].startswith("."))

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there."""
        return self._head(name) is not None

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading at any place; parts of it are fetched as they are asked for.

        Raises:
            FileNotFoundError: There is none.
        """
        head = self._head(name)
        if head is None:
            raise FileNotFoundError(2, "no such file", self.url(name))
        ranges = _Ranges(self._obstore, self._bucket, name, head["size"])
        return cast(IO[bytes], io.BufferedReader(ranges, _BLOCK_BYTES))

    @contextmanager
    def put(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears under its name, in the place of an earlier one, at the end."""
        buffer = io.BytesIO()
        yield buffer
        try:
            self._obstore.put(self._bucket, name, buffer.getvalue())
        except Exception as error:  # whatever its drivers raise
            raise OSError(f"{self.url(name)}: {_words(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        if self.exists(name):
            self._obstore.delete(self._bucket, name)

    def tidy(self, folder: str, names: re.Pattern[str]) -> None:
        """Nothing: a put that is cut off leaves nothing."""

    def url(self, name: str) -> str:
        """The file's URL."""
        return f"{self._location}/{name}"

    def check(self) -> None:
        """Find out, without touching anything, whether the bucket answers.

        Raises:
            OutputError: It does not.
        """
        try:
            self._obstore.list_with_delimiter(self._bucket, None)
        except Exception as error:  # whatever its drivers raise
            raise OutputError(f"{self._location}: cannot be reached: {_words(error)}") from error

    def modified(self, name: str) -> float:
        """When a file got its content, in seconds since 1970 by the bucket's clock.

        Raises:
            FileNotFoundError: There is none.
        """
        head = self._head(name)
        if head is None:
            raise FileNotFoundError(2, "no such file", self.url(name))
        return float(head["last_modified"].timestamp())

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name that only one can hold; a holder that is gone is known by its silence.

        Raises:
            OutputError: Another process holds it, or it was lost to one meanwhile.
        """
        beat = _Beat(self, f".{name}.lock", self._beat_s)
        with beat:
            yield
        if beat.lost:
            raise OutputError(f"{self._location}: was taken over by another run meanwhile")

    def holder(self, name: str) -> str | None:
        """Who holds a name, in words; None if nobody does.

        A holder that was silent for long, by the bucket's clock and ours, is gone.
        """
        head = self._head(f".{name}.lock")
        if head is None:
            return None
        if time.time() - head["last_modified"].timestamp() > 2 * MISSED * self._beat_s:
            return None
        return self.content(f".{name}.lock").partition(", beat")[0]

    def content(self, name: str) -> str:
        """The text of a small file."""
        return bytes(self._obstore.get(self._bucket, name).bytes()).decode(errors="replace")[:200]

    def tag(self, name: str) -> str | None:
        """What tells a file's content from an earlier one's; None if there is none."""
        head = self._head(name)
        return None if head is None else str(head["e_tag"])

    def put_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Put a file if it is as it was: not there, or of this tag. Its new tag; None if not."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            mode = "create" if tag is None else {"e_tag": tag}
            return str(self._obstore.put(self._bucket, name, data, mode=mode)["e_tag"])
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._obstore.head(self._bucket, name))
        except FileNotFoundError:
            return None


class _Ranges(io.RawIOBase):
    """An object that is read by ranges."""

    def __init__(self, obstore: Any, bucket: Any, name: str, size: int) -> None:
        self._fetch = lambda begin, end: obstore.get_range(bucket, name, start=begin, end=end)
        self._size, self._at = size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; returns where that is."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def readinto(self, target: Any) -> int:
        """Fill a buffer as far as there are bytes; how many."""
        end = min(self._at + len(target), self._size)
        if end <= self._at:
            return 0
        data = memoryview(self._fetch(self._at, end))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Beat:
    """Holds an object by putting it anew as long as the process lives."""

    def __init__(self, store: BucketStore, name: str, beat_s: float) -> None:
        self.lost = False
        self._store, self._name, self._beat_s = store, name, beat_s
        self._who, self._n, self._tag = own_name(), 0, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="lock", daemon=True)

    def __enter__(self) -> None:
        there = self._store.tag(self._name)
        tag = self._store.put_if(self._name, self._content(), None) if there is None else None
        if tag is None and there is not None:
            who = self._store.content(self._name).partition(", beat")[0]
            if self._is_silent(there):
                tag = self._store.put_if(self._name, self._content(), there)
        if tag is None:
            told = f" ({who})" if there is not None else ""
            raise OutputError(
                f"{self._store.location}: another run is at work here{told}; wait for it, or "
                "choose another place"
            )
        self._tag = tag
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if not self.lost and self._store.tag(self._name) == self._tag:
            self._store.delete(self._name)

    def _is_silent(self, tag: str) -> bool:
        """Whether the object stays as it is for longer than a living holder would let it."""
        for _ in range(2 * MISSED):
            time.sleep(self._beat_s / 2)
            if self._store.tag(self._name) != tag:
                return False
        return True

    def _content(self) -> bytes:
        self._n += 1  # never twice the same: the tag is made of it
        return f"{self._who}, beat {self._n} of {id(self)}".encode()

    def _go_on(self) -> None:
        while not self._over.wait(self._beat_s):
            try:
                tag = self._store.put_if(self._name, self._content(), self._tag)
            except Exception:  # noqa: S112 - the bucket does not answer now; the next beat asks again
                continue
            if tag is None:
                self.lost = True
                return
            self._tag = tag


def _endpoint_is_plain() -> bool:
    import os

    return any(
        value.startswith("http://")
        for name, value in os.environ.items()
        if name.startswith(("AWS_ENDPOINT_URL", "AZURE_STORAGE_ENDPOINT"))
    )


def _words(error: BaseException) -> str:
    """The first sentence of what a driver says."""
    return one_line(error).partition("Debug source")[0].strip()[:300]
