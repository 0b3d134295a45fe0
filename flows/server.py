"""The Prefect server that PREFECT_API_URL names: whether there is one to have a run."""

import os
import socket
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

#: A server that is there takes a connection by then.
SECONDS_FOR_A_SERVER: Final = 10.0


def needs_prefect() -> bool:
    """Whether a server is named, which then has the run.

    Raises:
        ValueError: It is, and there is no Prefect, or no server.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return False
    if find_spec("prefect") is None:
        raise ValueError(
            'PREFECT_API_URL is set, but there is no Prefect: pip install "mlff-screen[prefect]"'
        )
    check_server(url)
    return True


def check_server(url: str) -> None:
    """Refuse a server that is not there: Prefect would ask for it for minutes.

    Raises:
        ValueError: Nothing listens at the address.
    """
    if getproxies():  # what is behind one cannot be asked for directly
        return
    where = urlsplit(url)
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        socket.create_connection((where.hostname or "", port), SECONDS_FOR_A_SERVER).close()
    except OSError as error:
        raise ValueError(
            f"PREFECT_API_URL: no server at {url} ({error}); start it, or unset the variable: a "
            "run needs none"
        ) from error
