"""Which column holds the SMILES, and which the ids: by its name, and by what is in it."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from mlff_core.errors import LibraryError

#: Column names that mean SMILES, as `plain_name` writes them. Where several columns carry stereo
#: alike, the first in this order is taken: names that promise stereo come before those that may
#: lack it, and last those that lack it for certain.
SMILES_NAMES: Final = (
    "isomericsmiles",
    "isosmiles",
    "smilesisomeric",
    "smilesiso",
    "absolutesmiles",
    "stereosmiles",
    "cxsmiles",
    "pubchemopeneyeisosmiles",
    "smiles",
    "pubchemsmiles",
    "canonicalsmiles",
    "smilescanonical",
    "cansmiles",
    "rdkitsmiles",
    "smilesstring",
    "structuresmiles",
    "ligandsmiles",
    "compoundsmiles",
    "moleculesmiles",
    "molsmiles",
    "smi",
    "pubchemopeneyecansmiles",
    "connectivitysmiles",
    "pubchemconnectivitysmiles",
)
#: Column names that mean an id, best first, as `plain_name` writes them.
ID_NAMES: Final = (
    "id",
    "inputid",
    "name",
    "identifier",
    "compoundid",
    "moleculeid",
    "molid",
    "chemblid",
    "moleculechemblid",
    "zincid",
    "drugbankid",
    "pubchemcid",
    "cid",
    "catalogid",
    "idnumber",
    "title",
    "compoundname",
    "prefname",
    "moleculename",
    "molname",
)
#: How other names end that may mean an id; such a column is taken only if it is unique and full.
_ID_ENDINGS: Final = re.compile(r"(id|ids|name|code|number|no|nr|inchikey)$")
_STEREO: Final = re.compile(r"[@/\\]")
#: In other names of SMILES columns: these promise stereo, as in `smiles_with_stereo`.
_PROMISES_STEREO: Final = re.compile(r"iso|stereo|chiral|absolute|enantio|cx")

#: Values of a column in the first records.
Values = Callable[[str], Sequence[str]]


def plain_name(column: str) -> str:
    """Write a column's name without case, blanks and marks."""
    return re.sub(r"[\W_]+", "", column.lower())


def match(wanted: str, columns: Sequence[str]) -> str | None:
    """Return the column that the user means by `wanted`: this very name, else another case."""
    if wanted in columns:
        return wanted
    return next((c for c in columns if c.lower() == wanted.lower()), None)


def guess(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column whose name stands first in `names`."""
    return next(iter(_named(names, columns)), None)


def _named(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns whose names stand in `names`, in that order."""
    rank = {name: i for i, name in enumerate(names)}
    known = [c for c in columns if plain_name(c) in rank]
    return sorted(dict.fromkeys(known), key=lambda c: rank[plain_name(c)])


def listed(columns: Sequence[str]) -> str:
    """Write the names of columns, the first twenty of them."""
    shown = ", ".join(c if c.isprintable() and c else repr(c) for c in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def _wanted(file: str, columns: Sequence[str], wanted: str) -> str:
    found = match(wanted, columns)
    if found is None:
        raise LibraryError(f"{file}: no column {wanted!r}; its columns are: {listed(columns)}")
    return found


def choose_smiles(
    file: str, columns: Sequence[str], wanted: str | None, values: Values, notes: list[str]
) -> str:
    """Return the column of the SMILES: the one asked for, else the one that carries stereo.

    Args:
        file: Named in an error.
        columns: Names of all columns.
        wanted: What the caller asked for, if anything.
        values: Gives the first values of a column.
        notes: Receives what was guessed.

    Raises:
        LibraryError: There is no such column, or none is plainly the SMILES.
    """
    if wanted is not None:
        return _wanted(file, columns, wanted)
    candidates = _named(SMILES_NAMES, columns)
    if candidates:
        plain = {c: plain_name(c) for c in columns if c not in candidates}
        candidates += [c for c, n in plain.items() if "smiles" in n and _PROMISES_STEREO.search(n)]
    else:
        candidates = [c for c in columns if "smiles" in c.lower()]
        if len(candidates) != 1:
            raise LibraryError(
                f"{file}: no column is plainly the SMILES; name one with --smiles-column. "
                f"Its columns are: {listed(columns)}"
            )
    why = ""
    found = candidates[0]
    if len(candidates) > 1:
        filled = {c: sum(map(bool, values(c))) for c in candidates}
        full_enough = [c for c in candidates if 2 * filled[c] >= max(filled.values())]
        stereo = {c: sum(_STEREO.search(v) is not None for v in values(c)) for c in candidates}
        found = max(full_enough, key=stereo.__getitem__)  # the first of equals
        others = ", ".join(f"{stereo[c]} in {c!r}" for c in candidates if c != found)
        why = f"; {stereo[found]} of its first {filled[found]} values carry stereo, {others}"
    notes.append(f"column {found!r} is taken for the SMILES (of: {listed(columns)}){why}")
    return found


def choose_id(
    file: str,
    columns: Sequence[str],
    wanted: str | None,
    smiles: str | None,
    values: Values,
    notes: list[str],
) -> str | None:
    """Return the column of the ids, None if there is none.

    A column that is unique and full beats one that is not; of equals, the name decides.

    Args:
        file: Named in an error.
        columns: Names of all columns.
        wanted: What the caller asked for, if anything.
        smiles: Column of the SMILES.
        values: Gives the first values of a column.
        notes: Receives what was guessed.

    Raises:
        LibraryError: There is no such column.
    """
    if wanted is not None:
        return _wanted(file, columns, wanted)
    others = [c for c in columns if c != smiles]
    known = _named(ID_NAMES, others)
    possible = [c for c in others if c not in known and _ID_ENDINGS.search(plain_name(c))]
    possible = [c for c in possible if "smiles" not in plain_name(c)]
    distinct = next((c for c in known if unique_and_full(values(c))), None)
    mostly_full = next((c for c in known if 2 * sum(map(bool, values(c))) > len(values(c))), None)
    other = next((c for c in possible if unique_and_full(values(c))), None)
    found = distinct or mostly_full or other or next(iter(known), None)
    if found is None:
        notes.append("no column is taken for the id (name one with --id-column)")
        return None
    why = ""
    if known and found != known[0]:
        first = values(known[0])
        n_blank = sum(not value for value in first)
        what = f"blank in {n_blank}" if n_blank else "not unique"
        why = (
            f"; {known[0]!r} is {what} of the first {len(first)} records"
            if n_blank
            else (f"; {known[0]!r} is {what} in the first {len(first)} records")
        )
    filled = [value for value in values(found) if value]
    n_again = len(filled) - len(set(filled))
    if n_again:
        why += f"; {n_again} of its first {len(filled)} values stand in a record before"
    notes.append(f"column {found!r} is taken for the id{why}")
    return found


def unique_and_full(values: Sequence[str]) -> bool:
    """Whether no value is blank and none comes twice."""
    return all(values) and len(set(values)) == len(values)
