"""Which column holds the SMILES, and which the ids."""

import re
from collections.abc import Sequence
from typing import Final

from mlff_core.errors import LibraryError

#: Column names that mean SMILES or an id, best first, as `plain_name` writes them.
SMILES_NAMES: Final = (
    "smiles",
    "canonical_smiles",
    "isomeric_smiles",
    "rdkit_smiles",
    "smiles_string",
    "smi",
)
ID_NAMES: Final = (
    "id",
    "input_id",
    "name",
    "identifier",
    "compound_id",
    "molecule_id",
    "mol_id",
    "chembl_id",
    "molecule_chembl_id",
    "zinc_id",
    "zincid",
    "drugbank_id",
    "pubchem_cid",
    "cid",
    "catalog_id",
    "idnumber",
    "title",
    "compound_name",
    "pref_name",
    "_name",
)


def plain_name(column: str) -> str:
    return re.sub(r"[\s.\-]+", "_", column.strip().lower())


def match(wanted: str, columns: Sequence[str]) -> str | None:
    """Return the column that the user means by `wanted`: this very name, else another case."""
    if wanted in columns:
        return wanted
    return next((c for c in columns if c.lower() == wanted.lower()), None)


def guess(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column whose name stands first in `names`."""
    plain = [plain_name(c) for c in columns]
    return next((columns[plain.index(n)] for n in names if n in plain), None)


def listed(columns: Sequence[str]) -> str:
    shown = ", ".join(c if c.isprintable() and c else repr(c) for c in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def choose_smiles(file: str, columns: Sequence[str], wanted: str | None, notes: list[str]) -> str:
    if wanted is not None:
        found = match(wanted, columns)
        if found is None:
            raise LibraryError(f"{file}: no column {wanted!r}; its columns are: {listed(columns)}")
        return found
    found = guess(SMILES_NAMES, columns)
    if found is None:
        some = [c for c in columns if "smiles" in c.lower()]
        if len(some) != 1:
            raise LibraryError(
                f"{file}: no column is plainly the SMILES; name one with --smiles-column. "
                f"Its columns are: {listed(columns)}"
            )
        found = some[0]
    notes.append(f"column {found!r} is taken for the SMILES (of: {listed(columns)})")
    return found


def choose_id(
    file: str, columns: Sequence[str], wanted: str | None, smiles: str | None, notes: list[str]
) -> str | None:
    if wanted is not None:
        found = match(wanted, columns)
        if found is None:
            raise LibraryError(f"{file}: no column {wanted!r}; its columns are: {listed(columns)}")
        return found
    found = guess(ID_NAMES, [c for c in columns if c != smiles])
    if found is None:
        notes.append("no column is taken for the id (name one with --id-column)")
    else:
        notes.append(f"column {found!r} is taken for the id")
    return found
