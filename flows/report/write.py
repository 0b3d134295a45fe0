"""Where pages go: into the folder of a run, or where the command says."""

import argparse
import logging
from pathlib import Path
from typing import Any, Final

from mlff_core.store import Store, whole_file

log = logging.getLogger(__name__)

#: The page's name in the folder of a run.
NAME: Final = "report.html"
#: Conformers of a molecule that are shown in space.
CONFORMERS: Final = 6


def report(location: Store | Path | str) -> str:
    """The page of a run, whole or not.

    Raises:
        OutputError: There are no tables, or no manifest.
        ValueError: The order of a molecule's atoms cannot be told; only of schema version 1.
    """
    # Polars and RDKit take their time to import; a wrong option does not wait for them.
    from flows.report.drawings import in_space
    from flows.report.facts import gather
    from flows.report.page import page_of
    from mlff_core.tables import read

    tables = read(location)
    facts = gather(tables)
    return page_of(facts, in_space(tables, facts.best, CONFORMERS))


def leave_report(store: Store) -> bool:
    """Put the page beside the tables of a run; whether that went well.

    A run whose tables are whole has not failed because a page could not be drawn: that is a
    warning.
    """
    try:
        text = report(store)
        with store.put(NAME) as stream:
            stream.write(text.encode())
    except Exception as error:
        log.warning("no report was written: %s: %s", type(error).__name__, error)
        return False
    return True


def add_options(command: argparse.ArgumentParser) -> None:
    """What the command takes."""
    command.add_argument("dir", metavar="DIR", help="Folder of the tables")
    command.add_argument(
        "other", metavar="OTHER", nargs="?", help="Of a second run, to be compared with the first"
    )
    command.add_argument(
        "--to", metavar="FILE", help="Where the page goes (default DIR/report.html, for two runs "
        "DIR/compared.html)",
    )  # fmt: skip


def run(arguments: dict[str, Any]) -> str:
    """Write the page; returns its path.

    Raises:
        MlffError: There are no tables.
        ValueError: The two have no molecule in common.
        OSError: The page cannot be written.
    """
    first = Path(arguments["dir"]).expanduser()
    if arguments["other"] is None:
        text, name = report(first), NAME
    else:
        from flows.report.compare import compare

        text, name = compare(first, Path(arguments["other"]).expanduser()), "compared.html"
    path = Path(arguments["to"] or first / name).expanduser()
    with whole_file(path) as stream:
        stream.write(text.encode())
    return str(path)
