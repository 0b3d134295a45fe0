"""What is shipped beside the code: small libraries and recipes, by name, wherever it is.

They lie in the folder `datasets` of a checkout, which is no package, and in a wheel in
`mlff_core/shipped`.
"""

import csv
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent

#: Where they lie: in a wheel, else in the checkout.
_PLACES: Final = (_HERE / "shipped", _HERE.parent / "datasets")


def shipped(name: str) -> Path | None:
    """Where something shipped lies, such as `druglike`, `datasets/druglike` or a recipe's path.

    What is there under that name comes first, so this answers only where nothing is.

    Returns:
        Its path; None if there is something of that name, or nothing of it is shipped.
    """
    path = Path(name)
    try:
        if path.is_absolute() or ".." in path.parts or path.expanduser().exists():
            return None
    except (OSError, ValueError, RuntimeError):  # no name that a file could have
        return None
    parts = path.parts[1:] if path.parts[:1] == ("datasets",) else path.parts
    if not parts:
        return None
    for place in _PLACES:
        if (found := place.joinpath(*parts)).exists():
            return found
    return None


def libraries() -> list[str]:
    """Names of the shipped libraries."""
    for place in _PLACES:
        if place.is_dir():
            return sorted(p.name for p in place.iterdir() if (p / "README.md").is_file())
    return []


def drugs() -> list[str]:
    """SMILES of the library `druglike`; none if it is not there."""
    for place in _PLACES:
        file = place / "druglike" / "druglike.csv"
        if file.exists():
            with file.open(encoding="utf-8", newline="") as lines:
                return [row["smiles"] for row in csv.DictReader(lines)]
    return []


def missing(location: str) -> str:
    """What to say of a library that is not there."""
    return f"{location}: no such file; shipped are {', '.join(libraries())}"
