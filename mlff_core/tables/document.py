"""Writes the tables of docs/schema.md from the schema: `python -m mlff_core.tables.document`.

The page marks each block that is written here:

    <!-- molecules -->
    ...
    <!-- end -->
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mlff_core.schema import ROWS, SCHEMA_VERSION, columns_of
from mlff_core.status import ConformerStatus, Flag, MoleculeStatus, Reason, VariantKind, Word
from mlff_core.store import write_whole
from mlff_core.tables.strain_row import StrainRow

#: The page, where the project is worked on; an installed package has none.
PAGE: Final = Path(__file__).parents[2] / "docs" / "schema.md"

_BLOCK: Final = re.compile(r"(<!-- (?P<name>[a-z_ ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def columns_block(row_type: type) -> str:
    """A table of a table's columns; an asterisk marks what is never null."""
    lines = ["| column | type | unit | what |", "|---|---|---|---|"]
    for name, about in columns_of(row_type).items():
        star = " *" if about.required else ""
        lines.append(f"| `{name}` | {about.kind}{star} | {about.unit or ''} | {about.meaning} |")
    return "\n".join(lines) + "\n"


def words_block(title: str, words: type[Word]) -> str:
    """A table of the words that may stand in a column."""
    lines = [f"| {title} | meaning |", "|---|---|"]
    lines += [f"| `{word}` | {word.meaning} |" for word in words]
    return "\n".join(lines) + "\n"


_BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "molecules": lambda: columns_block(ROWS["molecules"]),
    "conformers": lambda: columns_block(ROWS["conformers"]),
    "strain": lambda: columns_block(StrainRow),
    "molecule status": lambda: words_block("`status`", MoleculeStatus),
    "reason": lambda: words_block("`reason`", Reason),
    "flags": lambda: words_block("in `flags`", Flag),
    "variant kind": lambda: words_block("in `variant_kind`", VariantKind),
    "conformer status": lambda: words_block("`status`", ConformerStatus),
    "version": lambda: f"The schema version is {SCHEMA_VERSION}.\n",
}


def written(page: str) -> str:
    """The page with each marked block as the schema has it.

    Raises:
        ValueError: The page lacks a block, or marks one that is not known.
    """
    found = [block["name"] for block in _BLOCK.finditer(page)]
    if sorted(found) != sorted(_BLOCKS):
        raise ValueError(f"expected the blocks {sorted(_BLOCKS)}, found {sorted(found)}")
    return _BLOCK.sub(lambda block: block[1] + _BLOCKS[block["name"]]() + block[3], page)


def main() -> int:
    """Write the page anew."""
    write_whole(PAGE, written(PAGE.read_text(encoding="utf-8")).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
