"""Python reads this as it starts: what leaves the host, or would, is noted in $NOTE_CONNECTIONS."""

import os
import sys
from pathlib import Path

#: The host itself, by address or by name.
OWN = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def note(event: str, arguments: tuple[object, ...]) -> None:
    """Note an address that is not this host's."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if not name.startswith(OWN):
        with Path(os.environ["NOTE_CONNECTIONS"]).open("a") as file:
            file.write(f"{event} {name}\n")


sys.addaudithook(note)
