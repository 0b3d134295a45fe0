"""Text: its encoding, and its lines."""

import codecs
from collections.abc import Iterator
from itertools import chain
from typing import IO, Final

from mlff_core.errors import LibraryError
from mlff_core.library.files import chunks
from mlff_core.library.layout import LONGEST_RECORD, Layout

_NOT_TEXT: Final = "some bytes are not {}; each is read as U+FFFD, which no SMILES may hold"


def encoding_of(head: bytes) -> str:
    """Return the encoding that a file's first bytes say; UTF-8 where they say none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def decoded(sample: bytes, encoding: str, *, whole: bool = False) -> str:
    """Return the text of a file's first bytes; a character that is cut at their end goes."""
    return codecs.getincrementaldecoder(encoding)("replace").decode(sample, final=whole)


def lines_of(text: str, *, whole: bool) -> list[str]:
    """Return the lines of a text without their ends; a last one that is cut goes."""
    lines = text.split("\n")
    if len(lines) > 1 and (not whole or not lines[-1]):
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def text_blocks(stream: IO[bytes], layout: Layout, notes: list[str]) -> Iterator[str]:
    """Yield a text in blocks of whole lines, LF between them and none at a block's end.

    Bytes that the encoding does not know are read as U+FFFD, and noted once.

    Raises:
        LibraryError: A line is so long that this cannot be a library.
    """
    decoder = codecs.getincrementaldecoder(layout.encoding)("replace")
    rest = ""
    note = _NOT_TEXT.format("UTF-16" if layout.encoding == "utf-16" else "UTF-8")
    for chunk in chain(chunks(stream), [b""]):
        text = decoder.decode(chunk, final=not chunk)
        if "\ufffd" in text and note not in notes:
            notes.append(note)
        block, line_end, rest_of_text = text.rpartition("\n")
        if line_end:
            block, rest = rest + block, rest_of_text
            yield _without_cr(block)
        else:
            rest += text
        if len(rest) > LONGEST_RECORD:
            raise LibraryError(f"{layout.file}: has a line of more than {LONGEST_RECORD >> 20} MiB")
    if rest:
        yield _without_cr(rest)


def _without_cr(block: str) -> str:
    return f"{block}\n".replace("\r\n", "\n")[:-1] if "\r" in block else block
