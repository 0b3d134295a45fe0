"""Plain text, by array operations and by the plain way: the same records."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff_core.library import Record, delimited, open_library, smi, tidy


def both(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Record], int]:
    """Records as the plain way reads them, and in how many blocks the other way did; both agree."""
    path.write_bytes(text.encode())
    library = open_library(path)
    module, name = (smi, "tidy_lines") if path.suffix == ".smi" else (delimited, "tidy_rows")
    quick, n_tidy = getattr(module, name), 0
    with monkeypatch.context() as patched:
        patched.setattr(module, name, lambda block, **_: None)
        plain = list(library.records())

    def counted(block: str, **layout: object):
        nonlocal n_tidy
        batch = quick(block, **layout)
        n_tidy += batch is not None
        return batch

    with monkeypatch.context() as patched:
        patched.setattr(module, name, counted)
        assert list(library.records()) == plain
    return plain, n_tidy


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('CN(=)1 \t|\r\n\n"\x0b\x1cé'), max_size=60))
def test_any_text_is_read_alike(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("smi")
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(folder / "a.smi", "C" * 200 + "\n" + text, monkeypatch)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('CN(=)1 ,,,\t|\r\n\n"\x0b\x1cé'), max_size=60))
def test_any_rows_are_cut_alike(text):
    for columns in ((2, 1, 0), (3, 1, 2), (3, 0, None)):
        batch = tidy.tidy_rows(text, ",", *columns)
        if batch is not None:
            n_columns, smiles_at, id_at = columns
            rows = [line.split(",") for line in text.split("\n")]
            assert {len(row) for row in rows} == {n_columns}
            assert batch["smiles"].to_pylist() == [row[smiles_at].strip() for row in rows]
            ids = [row[id_at].strip() or None if id_at is not None else None for row in rows]
            assert batch["input_id"].to_pylist() == ids


def test_plain_lines_are_read_by_array_operations(tmp_path, monkeypatch):
    shuffled = random.Random(0)
    lines = [
        "C" * shuffled.randint(1, 90) + shuffled.choice(["", f" m{i}", f"\tm{i}", f" m {i}\tx"])
        for i in range(20_000)
    ]
    records, n_tidy = both(tmp_path / "a.smi", "\n".join(lines) + "\n", monkeypatch)
    assert n_tidy > 3
    assert [r.input_id for r in records[:3]] == [
        re.sub("^C+[ \t]?", "", line) or None for line in lines[:3]
    ]
    assert [r.smiles for r in records] == [line.split()[0] for line in lines]
    # One odd line in each block, and the plain way reads them all.
    for i in range(0, len(lines), 500):
        lines[i] = "CC  two blanks"
    assert both(tmp_path / "b.smi", "\n".join(lines) + "\n", monkeypatch)[1] == 0


def test_plain_rows_are_read_by_array_operations(tmp_path, monkeypatch):
    rows = [f"m{i % 9 or ''},{'C' * (i % 70)},{i}" for i in range(30_000)]
    header = "id,smiles,weight\n"
    records, n_tidy = both(tmp_path / "a.csv", header + "\n".join(rows) + "\n", monkeypatch)
    assert n_tidy > 3
    assert [f"{r.input_id},{r.smiles},{r.record}" for r in records] == rows
    for i in range(0, len(rows), 500):
        rows[i] = "m,CC,1,"  # one field too many in each block
    assert both(tmp_path / "b.csv", header + "\n".join(rows) + "\n", monkeypatch)[1] == 0
