"""The table of molecules that a distillation chooses from."""

import logging

from mlff_core.distill.kinds import BOTH_SIGNS, COLUMN
from mlff_core.distill.recipe import Recipe
from mlff_core.errors import LibraryError
from mlff_core.library import open_library

log = logging.getLogger(__name__)


def read_table(table: str, recipe: Recipe) -> tuple[list[str], list[str], str]:
    """SMILES, their kinds, and the file's sha256.

    Args:
        table: As `open_library` takes it.
        recipe: Names the column of the SMILES, and maybe kinds.

    Returns:
        All records' SMILES, empty where there is none; what the table calls each, an empty list if
        the recipe names no kinds or the table has none; and the SHA-256 in hexadecimal.

    Raises:
        LibraryError: The table cannot be read.
    """
    column = recipe.molecules.column or None
    named = [name for kind in recipe.kinds for name in kind.names if name != BOTH_SIGNS]
    try:
        # In place of ids, which nobody asks for here.
        library, has_kinds = open_library(table, column, COLUMN if named else None), bool(named)
    except LibraryError:  # it has no kinds, or cannot be read without them either
        library, has_kinds = open_library(table, column), False
    records = list(library.records())
    kinds = [record.input_id or "" for record in records] if has_kinds else []
    # No error: a recipe may name the kinds of several tables, and this be one of them.
    if missing := sorted(set(named) - set(kinds)):
        log.warning("%s: in column %r no molecule has: %s", table, COLUMN, ", ".join(missing))
    return [record.smiles or "" for record in records], kinds, library.sha256()
