"""One pass over a library: every record in one shard, counted and hashed."""

import gzip
import hashlib
import json
import os
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.errors import LibraryError
from mlff_core.library import open_library
from mlff_core.library.ingest import ingest
from mlff_core.library.records import SHARDS_A_FILE, ShardWriter, read_records


def library(path: Path, n_records: int):
    path.write_text("".join(f"{'C' * (1 + i % 7)} m{i}\n" for i in range(n_records)))
    return open_library(path)


def test_shards_hold_every_record_once_and_in_order(tmp_path):
    opened = library(tmp_path / "a.smi", 1003)
    report = ingest(opened, tmp_path / "work", 4)
    assert (report.n_records, report.n_shards) == (1003, 251)
    assert report.n_shards > 2 * SHARDS_A_FILE
    shards = [read_records(tmp_path / "work", shard) for shard in range(report.n_shards)]
    assert [len(s) for s in shards] == [4] * 250 + [3]
    assert [r for s in shards for r in s] == list(opened.records())
    for shard in (0, 99, 100, 250):
        assert list(report.records_in(shard)) == [r.record for r in shards[shard]]
    with pytest.raises(IndexError, match="expected 0 to 250, found 251"):
        report.records_in(251)


@pytest.mark.parametrize("shard_size", [1, 2, 5000, 100_000])
def test_any_size_of_shard_will_do(tmp_path, shard_size):
    opened = library(tmp_path / "a.smi", 12_000 if shard_size > 2 else 301)
    report = ingest(opened, tmp_path / "work", shard_size)
    found = [r for s in range(report.n_shards) for r in read_records(tmp_path / "work", s)]
    assert found == list(opened.records())


def test_the_hash_is_that_of_the_stored_bytes(tmp_path):
    content = gzip.compress(b"C a\nCC b\n") + bytes(100)  # padding that gzip ignores
    (tmp_path / "a.smi.gz").write_bytes(content)
    report = ingest(open_library(tmp_path / "a.smi.gz"), tmp_path / "work", 10)
    assert (report.hashed, report.sha256) == ("file", hashlib.sha256(content).hexdigest())


def test_a_limit_hashes_the_records_and_not_the_file(tmp_path):
    one = ingest(library(tmp_path / "a.smi", 50_000), tmp_path / "one", 10, limit=25)
    assert (one.n_records, one.n_shards, one.hashed) == (25, 3, "records")
    # The same records in another file, plain or compressed, longer or shorter.
    lines = (tmp_path / "a.smi").read_text().splitlines(keepends=True)
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress("".join(lines[:25]).encode()))
    two = ingest(open_library(tmp_path / "b.smi.gz"), tmp_path / "two", 10, limit=25)
    assert two.sha256 == one.sha256
    (tmp_path / "c.smi").write_text("".join([*lines[:24], "C another\n"]))
    three = ingest(open_library(tmp_path / "c.smi"), tmp_path / "three", 10, limit=25)
    assert three.sha256 != one.sha256
    few = ingest(open_library(tmp_path / "c.smi"), tmp_path / "few", 10, limit=1000)
    assert few.n_records == 25


@pytest.mark.parametrize(("shard_size", "limit"), [(0, None), (1, 0)])
def test_what_cannot_be_is_refused(tmp_path, shard_size, limit):
    with pytest.raises(ValueError, match="expected at least 1, found 0"):
        ingest(library(tmp_path / "a.smi", 3), tmp_path, shard_size, limit)


def test_a_damaged_end_is_told_and_a_limit_before_it_is_served(tmp_path):
    whole = gzip.compress("".join(f"{'C' * (i % 50)}N m{i}\n" for i in range(90_000)).encode())
    (tmp_path / "a.smi.gz").write_bytes(whole[: len(whole) - 1000])
    opened = open_library(tmp_path / "a.smi.gz")
    with pytest.raises(LibraryError, match=r"cannot be read on after record \d+"):
        ingest(opened, tmp_path / "work", 100)
    assert ingest(opened, tmp_path / "work", 100, limit=1000).n_records == 1000


def test_what_was_guessed_and_what_is_odd_is_in_the_report(tmp_path):
    odd = "".join(f"x{i},CC,more\n" for i in range(5))
    late = b"good,CC\n" * 100_000 + b"late,C\xff\n"
    (tmp_path / "a.csv").write_bytes(b"id,smiles\nb,CC\n" + odd.encode() + late)
    opened = open_library(tmp_path / "a.csv")
    report = ingest(opened, tmp_path / "work", 1000)
    assert report.notes[: len(opened.notes)] == opened.notes
    assert report.notes[len(opened.notes) :] == (
        "some bytes are not UTF-8; each is read as U+FFFD, which no SMILES may hold",
        "record 1: the row has 3 fields, the header 2",
        "record 2: the row has 3 fields, the header 2",
        "record 3: the row has 3 fields, the header 2",
        "and 2 more records like these",
    )
    assert json.loads(json.dumps(asdict(report)))["smiles_column"] == "smiles"


@pytest.mark.parametrize("kind", ["smi", "csv"])
def test_five_times_the_records_need_no_more_memory(tmp_path, kind):
    def peak(n_records: int) -> int:
        path = tmp_path / f"{n_records}.{kind}"
        line = "C" * 60 + (",name\n" if kind == "csv" else " name\n")
        path.write_text("smiles,name\n" * (kind == "csv") + line * n_records)
        opened = open_library(path)
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        tracemalloc.start()
        assert ingest(opened, tmp_path / "work", 1000).n_records == n_records
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pool.bytes_allocated() == before
        return python

    assert peak(100_000) < 1.2 * peak(20_000) + 200_000


@pytest.mark.parametrize("kind", ["smi", "parquet"])
def test_a_library_that_is_edited_while_it_is_read_is_noticed(tmp_path, monkeypatch, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "smi":
        path.write_text("CCO a\nCC b\n")
    else:
        pq.write_table(pa.table({"smiles": ["CCO", "CC"]}), path)
    write = ShardWriter.write

    def edit_and_write(self, batches):
        os.utime(path, ns=(1, 1))
        write(self, batches)

    monkeypatch.setattr(ShardWriter, "write", edit_and_write)
    with pytest.raises(LibraryError, match="was changed while it was read"):
        ingest(open_library(path), tmp_path / "work", 10)
