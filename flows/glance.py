"""What of a call is seen to be wrong without reading anything: a name that nothing has.

A person who mistyped a name is answered at once; whatever is there is opened by plan.py.
"""

from pathlib import Path

from flows.call import ScreenCall
from mlff_core.errors import LibraryError
from mlff_core.models.reference import find_model
from mlff_core.shipped import missing, shipped


def glance(call: ScreenCall) -> None:
    """Look whether what a call names is there.

    Raises:
        LibraryError: There is no such library.
        ModelFileError: There is no such model.
    """
    if "://" not in call.library and "::" not in call.library and not _there(call.library):
        raise LibraryError(missing(call.library))
    find_model(call.model)


def _there(location: str) -> bool:
    try:
        return shipped(location) is not None or Path(location).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # no name that a file could have: opening it tells
        return True
