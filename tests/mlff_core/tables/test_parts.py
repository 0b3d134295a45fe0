"""Parts: whole files only."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.store import FolderStore
from mlff_core.tables import finished_shards, molecules_table, write_part
from mlff_core.tables.parts import is_whole, read_part_key
from mlff_core.tables.testing import KEY, METADATA, contents, manifest, molecule, write_run


def test_a_write_that_fails_leaves_neither_a_part_nor_a_leftover(tmp_path, monkeypatch):
    write_run(tmp_path)
    before = contents(tmp_path)

    def full_disk(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for shard in (0, 7):
        with pytest.raises(OSError, match="No space left"):
            write_part(molecules_table([molecule(0)]), tmp_path, shard, METADATA)
    with pytest.raises(OSError, match="No space left"):
        manifest().write(tmp_path)
    assert contents(tmp_path) == before


def test_nothing_shows_under_a_name_that_readers_take_until_it_is_whole(tmp_path, monkeypatch):
    seen = []
    real = os.replace

    def spy(source, target):
        names = sorted(p.name for p in (tmp_path / "molecules").iterdir())
        seen.append((names, Path(source).name))
        assert pq.read_metadata(source).num_rows == 1  # whole before it gets its name
        real(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_part(molecules_table([molecule(0)]), tmp_path, 0, METADATA)
    [(present, hidden)] = seen
    assert present == [hidden]
    assert hidden.startswith(".")
    assert not hidden.endswith(".parquet")
    assert set(contents(tmp_path)) == {"molecules/part-000000.parquet"}


def test_the_key_of_a_torn_or_foreign_file_is_none(tmp_path):
    name = write_part(molecules_table([molecule(0)]), tmp_path, 0, METADATA)
    store, path = FolderStore(tmp_path), tmp_path / name
    assert read_part_key(store, name) == KEY
    whole = path.read_bytes()
    for n in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        assert read_part_key(store, name) is None
    pq.write_table(pa.table({"x": [1]}), path)
    assert read_part_key(store, name) is None
    assert read_part_key(store, "nowhere.parquet") is None


def test_finished_shards_are_whole_of_this_run_and_have_their_conformers(tmp_path):
    assert finished_shards(tmp_path, KEY) == set()
    write_run(tmp_path, shards=5, size=2)
    assert finished_shards(tmp_path, KEY) == {0, 1, 2, 3, 4}
    assert finished_shards(tmp_path, "other") == set()
    torn = tmp_path / "molecules" / "part-000001.parquet"
    torn.write_bytes(torn.read_bytes()[:-5])
    (tmp_path / "conformers" / "part-000002.parquet").unlink()
    (tmp_path / "molecules" / "part-000003.parquet").unlink()
    assert finished_shards(tmp_path, KEY) == {0, 4}
    garbage = [molecule(10, 0, status="rejected", reason="empty")]
    write_part(molecules_table(garbage), tmp_path, 5, METADATA)
    assert finished_shards(tmp_path, KEY) == {0, 4, 5}


def test_a_flip_of_any_byte_is_noticed(tmp_path):
    write_run(tmp_path, shards=1)
    store = FolderStore(tmp_path)
    for table in ("molecules", "conformers"):
        name = f"{table}/part-000000.parquet"
        whole = (tmp_path / name).read_bytes()
        assert is_whole(store, name)
        # The footer and what is before it, with a bit that wanders; each byte takes its time.
        for at in (*range(0, len(whole), 97), *range(len(whole) - 200, len(whole))):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << at % 8
            (tmp_path / name).write_bytes(flipped)
            assert not is_whole(store, name), f"byte {at} of {len(whole)}"
        for other in (whole[:-1], whole + b"0", whole[1:], b"", whole[:8], b"PAR1" * 5):
            (tmp_path / name).write_bytes(other)
            assert not is_whole(store, name)
            assert finished_shards(tmp_path, KEY) == set()
        (tmp_path / name).write_bytes(whole)
        assert finished_shards(tmp_path, KEY) == {0}


def test_a_part_that_stands_under_another_number_is_not_that_shards(tmp_path):
    write_run(tmp_path)
    for table in ("molecules", "conformers"):
        first, second = (tmp_path / table / f"part-00000{n}.parquet" for n in (0, 1))
        first.rename(tmp_path / "aside")
        second.rename(first)
        (tmp_path / "aside").rename(second)
    assert finished_shards(tmp_path, KEY) == {2}
