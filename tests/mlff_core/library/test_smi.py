"""Lines of a .smi: by array operations and by the plain way, the same records."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff_core.library import Record, open_library, smi


def both(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Record], int]:
    """Records as the plain way reads them, and in how many blocks the other way did; both agree."""
    path.write_bytes(("C" * 200 + "\n" + text).encode())
    library = open_library(path)
    plain, n_tidy = [], 0
    quick = smi.tidy_batch
    with monkeypatch.context() as patched:
        patched.setattr(smi, "tidy_batch", lambda block: None)
        plain = list(library.records())

    def counted(block: str):
        nonlocal n_tidy
        batch = quick(block)
        n_tidy += batch is not None
        return batch

    with monkeypatch.context() as patched:
        patched.setattr(smi, "tidy_batch", counted)
        assert list(library.records()) == plain
    return plain, n_tidy


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('CN(=)1 \t|\r\n\n"\x0b\x1cé'), max_size=60))
def test_any_text_is_read_alike(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("smi")
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(folder / "a.smi", text, monkeypatch)


def test_plain_lines_are_read_by_array_operations(tmp_path, monkeypatch):
    shuffled = random.Random(0)
    lines = [
        "C" * shuffled.randint(1, 90) + shuffled.choice(["", f" m{i}", f"\tm{i}", f" m {i}\tx"])
        for i in range(20_000)
    ]
    records, n_tidy = both(tmp_path / "a.smi", "\n".join(lines) + "\n", monkeypatch)
    assert n_tidy > 3
    assert [r.input_id for r in records[1:4]] == [
        re.sub("^C+[ \t]?", "", line) or None for line in lines[:3]
    ]
    assert [r.smiles for r in records[1:]] == [line.split()[0] for line in lines]
    # One odd line in each block, and the plain way reads them all.
    for i in range(0, len(lines), 500):
        lines[i] = "CC  two blanks"
    assert both(tmp_path / "b.smi", "\n".join(lines) + "\n", monkeypatch)[1] == 0
