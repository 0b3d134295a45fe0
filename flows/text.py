"""Text of others and counts, as a person reads them: on one line, and nothing but text."""

import json
from typing import Any


def printable(text: str) -> str:
    """Text of others on one line: a card or a library may come from anyone."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def visible(text: str) -> str:
    """Lines that hold text of others, such as a path: nothing in them moves a cursor."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def json_line(value: Any) -> str:
    """A value as JSON in one line, readable, with escapes for all that is not to be seen."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def quotable(text: str) -> str:
    """The same without what would end a code span or a cell of a table in Markdown."""
    return text.translate({ord("|"): "/", ord("`"): "'"})


def rate(per_s: float) -> str:
    """Molecules in a second; two digits at least, where it is slow."""
    return f"{per_s:,.1f}" if per_s >= 1 else f"{per_s:.2g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def counted(counts: dict[str, int]) -> str:
    """The words that occurred, with their numbers."""
    return ", ".join(f"{n:,} {word}" for word, n in counts.items() if n) or "none"
