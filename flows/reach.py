"""What a run may reach that someone asked for on a form: on a worker, not at one's own terminal.

Who can start a run of a deployment has no account on the worker, and its parameters must not become
one: paths lead below the folders that the worker was given, URLs lead to hosts that serve files.
"""

import os
import re
from pathlib import Path
from typing import Final

from flows.call import DistillCall, ScreenCall
from mlff_core.errors import DeviceError, LibraryError, MlffError, ModelFileError, OutputError
from mlff_core.models.reference import SHORT_NAMES, shipped_folder
from mlff_core.store import BUCKETS, is_bucket

#: Folders below which paths may lead, separated as in PATH; by default where the worker runs.
ROOTS: Final = "MLFF_SCREEN_ROOTS"
#: Schemes of URLs that a library may have.
SCHEMES: Final = ("https://", "http://", *BUCKETS)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def check_reach(call: ScreenCall) -> None:
    """Refuse what a form must not reach.

    Raises:
        LibraryError, ModelFileError, OutputError: A path leads out of the folders, symbolic links
            followed, or a URL is of another scheme or a chain of several.
        DeviceError: A cluster is named by its address.
    """
    _check("library", call.library, LibraryError, SCHEMES)
    _check("out", call.out, OutputError, BUCKETS)
    _check_model("model", call.model)
    if call.ray_address not in (None, "auto"):  # who runs a cluster reads and runs what it is sent
        raise DeviceError(f"ray_address {call.ray_address!r}: expected auto on a worker")


def check_reach_of_distill(call: DistillCall) -> None:
    """Refuse what a form must not reach.

    Raises:
        LibraryError, ModelFileError, OutputError: A path leads out of the folders, symbolic links
            followed, or a URL is of another scheme or a chain of several.
    """
    _check("table", call.table, LibraryError, SCHEMES)
    _check("out", call.out, OutputError, ())
    _check("recipe", call.recipe, ModelFileError, ())
    if call.teacher != "auto":
        _check("teacher", call.teacher, ModelFileError, ())
    if call.start != "none":
        _check_model("start", call.start)


def _check_model(name: str, model: str) -> None:
    shipped = {*SHORT_NAMES, *(file.stem for file in shipped_folder().glob("*.safetensors"))}
    if model not in shipped:
        _check(name, model, ModelFileError, ())


def _check(name: str, where: str, error: type[MlffError], schemes: tuple[str, ...]) -> None:
    if _SCHEME.match(where) or "::" in where:
        if "::" in where or not where.lower().startswith(schemes):
            allowed = f"a path, or a URL that begins with {', '.join(schemes)}" * bool(schemes)
            raise error(f"{name} {where!r}: expected {allowed or 'a path'} on a worker")
        if is_bucket(where) and "/../" in f"{where}/":
            raise error(f"{name} {where!r}: expected a plain URL")
        return
    try:
        real = Path(where).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as why:
        raise error(f"{name} {where!r}: cannot be a path: {why}") from why
    roots = [Path(root).resolve() for root in roots_of_worker()]
    if not any(real.is_relative_to(root) for root in roots):
        raise error(
            f"{name} {where!r}: leads out of {', '.join(map(str, roots))}, where runs of this "
            f"worker may read and write; {ROOTS} names its folders"
        )


def roots_of_worker() -> list[str]:
    """The folders below which paths may lead."""
    given = [root for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
    return given or [os.getcwd()]
