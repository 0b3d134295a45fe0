"""Text of others and counts, as a person reads them: on one line, and nothing but text."""


def printable(text: str) -> str:
    """Text of others on one line: a card or a library may come from anyone."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def quotable(text: str) -> str:
    """The same without what would end a code span or a cell of a table in Markdown."""
    return text.translate({ord("|"): "/", ord("`"): "'"})


def counted(counts: dict[str, int]) -> str:
    """The words that occurred, with their numbers."""
    return ", ".join(f"{n:,} {word}" for word, n in counts.items() if n) or "none"
