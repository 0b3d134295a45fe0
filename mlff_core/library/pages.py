"""What the pages of a Parquet file say of themselves: its footer may say anything.

A page begins with a header in Thrift's compact protocol, whose second and third fields are the
bytes that it becomes and those that it is stored in (parquet.thrift, `PageHeader`).
"""

from typing import IO, Final

#: Bytes that are read of a header first, and at most: it may hold the extreme values of its page.
_MOST_HEADERS: Final = (1 << 9, 1 << 20)
#: Levels of structures in structures that a header has: fewer than these.
_MOST_LEVELS: Final = 16


def unpacked_bytes(stream: IO[bytes], begin: int, n_bytes: int) -> int | None:
    """Bytes that the pages in a part of a file become, by their headers.

    Args:
        stream: The file, cheap to seek in.
        begin: Where the first page begins.
        n_bytes: Of all pages with their headers, as they are stored.

    Returns:
        None where the headers cannot be read, or do not lead to the end of the part.
    """
    at, end, total = begin, begin + n_bytes, 0
    while at < end:
        header = None
        for most in _MOST_HEADERS:
            stream.seek(at)
            header = _header(stream.read(min(most, end - at)))
            if header is not None:
                break
        if header is None:
            return None
        unpacked, stored, length = header
        if unpacked < 0 or stored < 0:
            return None
        total += unpacked
        at += length + stored
    return total if at == end else None


def _header(data: bytes) -> tuple[int, int, int] | None:
    """Bytes that a page becomes, bytes that it is stored in, bytes of its header."""
    reader = _Compact(data)
    try:
        fields = reader.structure(0)
        return fields[2], fields[3], reader.at
    except (IndexError, KeyError, ValueError):
        return None


class _Compact:
    """Reads Thrift's compact protocol (github.com/apache/thrift, thrift-compact-protocol.md)."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def structure(self, level: int) -> dict[int, int]:
        """Read a structure; returns its fields that are integers, by their numbers."""
        if level > _MOST_LEVELS:
            raise ValueError("nested too deeply")
        fields: dict[int, int] = {}
        number = 0
        while (head := self._byte()) != 0:
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            value = self._value(kind, level)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, level: int) -> int | None:
        if kind in (1, 2):  # true and false are kinds
            return None
        if kind == 3:
            self._skip(1)
        elif kind in (4, 5, 6):
            return self._integer()
        elif kind == 7:
            self._skip(8)
        elif kind == 8:
            self._skip(self._unsigned())
        elif kind in (9, 10):
            self._list(level)
        elif kind == 12:
            self.structure(level + 1)
        else:  # a map: no page has any
            raise ValueError(f"kind {kind}")
        return None

    def _list(self, level: int) -> None:
        head = self._byte()
        n = head >> 4 if head >> 4 != 15 else self._unsigned()
        for _ in range(n):
            if head & 15 in (1, 2):
                self._skip(1)
            else:
                self._value(head & 15, level + 1)

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _skip(self, n: int) -> None:
        self.at += n
        if self.at > len(self._data):
            raise IndexError

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("no number")
        return value | byte << shift

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
