"""Files behind http and https: read from begin to end, or no more of them than is asked for."""

import errno
import shutil
import socket
import tempfile
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import IO, Any, Final, cast
from urllib.parse import urljoin, urlsplit

import fsspec

#: Bytes of the first request for a part; each further one asks for twice as much.
_FIRST_PART: Final = 1 << 17
_LARGEST_PART: Final = 1 << 23
#: Bytes that are read at once where a file is not read in its order.
_BLOCK: Final = 1 << 18


def is_http(file: str) -> bool:
    """Whether a URL is one of these."""
    return file.startswith(("http://", "https://"))


def open_http(url: str, *, seekable: bool, sparing: bool) -> IO[bytes]:
    """Open a file.

    Args:
        url: Of the file.
        seekable: Whether it will be read in another order than its own.
        sparing: Whether reading may end long before the file does.

    Raises:
        ImportError: aiohttp is missing, which is an extra.
        Exception: Whatever the driver has to say.
    """
    fs, path = fsspec.core.url_to_fs(url, client_kwargs=_client_options(), get_client=_client)
    if not seekable:
        return cast(IO[bytes], _Parts(fs, path) if sparing else fs.open(path, block_size=0))
    with _Parts(fs, path) as parts:
        parts.read(1)
        if parts.in_parts:
            return cast(IO[bytes], fs.open(path, block_size=_BLOCK))
    spooled = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with fs.open(path, block_size=0) as stream:
        shutil.copyfileobj(stream, spooled, 1 << 20)
    spooled.seek(0)
    return cast(IO[bytes], spooled)


def _client_options() -> dict[str, Any]:
    import aiohttp  # an extra, and slow to import

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(_before_request)
    trace.on_request_redirect.append(_before_redirect)
    return {
        "trace_configs": [trace],
        # The default ends a transfer after five minutes, however well it goes on.
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60),
        # A server that compresses on its own account would change what is hashed.
        "headers": {"Accept-Encoding": "identity"},
    }


async def _client(**options: Any) -> Any:
    """A session that goes nowhere else than where it looked: a name may lead elsewhere by then."""
    import aiohttp

    class Resolver(aiohttp.ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> Any:
            found = await super().resolve(host, port, family)
            for entry in found:
                check_address(host, entry["host"])
            return found

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Resolver()), **options)


#: Where clouds tell a machine its secrets, beside the link-local addresses.
_METADATA: Final = frozenset(
    map(ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"))
)
#: Addresses of the old kind in the new one, as translators between both write them (RFC 6052).
_TRANSLATED: Final = ip_network("64:ff9b::/96")


async def _before_request(session: Any, context: Any, request: Any) -> None:
    check_host(str(request.url))


async def _before_redirect(session: Any, context: Any, request: Any) -> None:
    check_host(urljoin(str(request.url), request.response.headers.get("Location", "")))


def check_host(url: str) -> None:
    """Refuse a URL of a cloud machine's own secrets, by name or by address.

    Raises:
        PermissionError: It is one.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except OSError:  # there is no such host, which the request will say
        return
    for address in found:
        check_address(host, address)


def check_address(host: str, address: str) -> None:
    """Refuse an address at which clouds keep a machine's secrets, however it is written.

    Raises:
        PermissionError: It is one.
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = IPv4Address(int(found) & 0xFFFFFFFF) if found in _TRANSLATED else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    if found in _METADATA or found.is_link_local:
        why = f"{host} is where a cloud keeps a machine's secrets"
        raise PermissionError(errno.EACCES, why)


class _Parts:
    """A stream that asks for a file part by part, or reads on if the server gives the whole."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str) -> None:
        self.in_parts = True
        self._fs, self._path = fs, path
        self._position = 0
        self._size: int | None = None
        self._part = _FIRST_PART
        self._stream: Any = None
        self._ask()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; b"" at the end."""
        while True:
            if self._stream is None:
                if self._size is not None and self._position >= self._size:
                    return b""
                self._ask()
            data = bytes(self._stream.read(size))
            self._position += len(data)
            if data or not self.in_parts:
                return data
            self.close()

    def _ask(self) -> None:
        last = self._position + self._part - 1
        asked = {"Range": f"bytes={self._position}-{last}"}
        self._stream = self._fs.open(self._path, block_size=0, headers=asked)
        answer = self._stream.r
        self.in_parts = answer.status == 206
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        self._size = int(size) if size.isdigit() else last + 1  # nobody knows: this part is all
        self._part = min(2 * self._part, _LARGEST_PART)

    def close(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> "_Parts":
        """Of a `with` statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()
