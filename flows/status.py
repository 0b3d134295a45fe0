"""The command `mlff-screen status`: how far a run is, whoever runs it."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlff_core.tables.progress import Progress


def add_options(command: argparse.ArgumentParser) -> None:
    """What the command takes."""
    command.add_argument("dir", metavar="DIR", help="Folder of the tables")
    command.add_argument(
        "--check", action="store_true", help="Read every byte, and name parts that are damaged"
    )
    command.add_argument("--json", action="store_true", help="One JSON object")


def run(arguments: dict[str, Any]) -> str:
    """What there is to say.

    Raises:
        OutputError: There is no run, or it cannot be read.
    """
    # Arrow takes its time to import; a wrong option does not wait for it.
    from mlff_core.tables.progress import progress

    found = progress(arguments["dir"], check=arguments["check"])
    if arguments["json"]:
        return json.dumps({"out": arguments["dir"], **asdict(found), "left": found.left})
    return "\n".join(lines(found))


def lines(found: "Progress") -> list[str]:
    """The same in lines for a person."""
    from flows.text import counted, printable

    share = f", {100 * found.done / found.n_records:.1f} %" if found.n_records else ""
    who = f" ({printable(found.holder)})" if found.holder else ""
    rate = "" if found.rate is None else f", {found.rate:,.1f} records/s of late"
    how_long = "" if found.seconds_left is None else f", {duration(found.seconds_left)} left"
    goes_on = "; --resume goes on from here" if found.state == "stopped" else ""
    told = [
        f"{found.state}{who}{goes_on}",
        f"{found.done:,} of {found.n_records:,} records are in the tables{share}; "
        f"{found.left:,} left",
        f"molecules: {counted(found.status)}",
        f"shards: {found.shards_done:,} of {found.n_shards:,}{rate}{how_long}",
    ]
    if found.damaged is not None:
        names = ", ".join(map(printable, found.damaged)) or "none"
        told.append(f"damaged parts: {names}")
    return told


def duration(seconds: float) -> str:
    """A time that a person can read at a glance."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
