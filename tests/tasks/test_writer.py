"""The process that writes tables: the same tables as here, errors come back, a death is no end."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mlff_core.arrow import table_of, write_arrow
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.schema import ConformerRow
from mlff_core.shard import write_shard
from tasks.writer import WRITERS, TableWriter

METADATA = {"run_key": "a key"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A shard of two records that have no conformer."""
    rows = [prepare(k, None, text, ChemistrySettings()) for k, text in enumerate(["bad(", "[Xe]"])]
    embedded, relaxed = tmp_path / "embedded.arrow", tmp_path / "relaxed.arrow"
    write_arrow(table_of(rows, PreparedMolecule), embedded)
    write_arrow(table_of([], ConformerRow), relaxed)
    return embedded, relaxed


def test_tables_are_those_that_are_written_here(files: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    writer = TableWriter()
    try:
        report = writer.run(3, *files, there, METADATA)
        assert report.counts == write_shard(3, *files, here, METADATA).counts == {"rejected": 2}
        for name in ("molecules", "conformers"):
            part = f"{name}/part-000003.parquet"
            assert pq.read_table(there / part).equals(pq.read_table(here / part))
    finally:
        writer.close()


def test_what_goes_wrong_is_raised_here_and_the_next_shard_is_written(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    writer = TableWriter()
    writer._begun.acquire()  # no other is started
    try:
        with pytest.raises(FileNotFoundError, match=r"gone\.arrow"):
            writer.run(0, files[0], tmp_path / "gone.arrow", tmp_path, METADATA)
        [process] = [one for one in writer._idle.queue if one is not None]
        os.kill(process.process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="ended"):
            writer.run(0, *files, tmp_path, METADATA)
        assert writer.run(0, *files, tmp_path, METADATA).n_records == 2
    finally:
        writer.close()


def test_all_processes_start_with_the_first_shard_and_end_in_the_end(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    writer = TableWriter()
    try:
        assert writer.run(1, *files, tmp_path, METADATA).n_records == 2
        writer._starting.join()
        processes = [one for one in writer._idle.queue if one is not None]
        assert len(processes) == len(set(map(id, processes))) == WRITERS
        first = writer._idle.get()  # one is at work
        assert writer.run(2, *files, tmp_path, METADATA).n_records == 2
        writer._idle.put(first)
        assert len(list((tmp_path / "molecules").glob("*.parquet"))) == 2
    finally:
        writer.close()
    assert all(process.process.poll() is not None for process in processes)
    assert list(writer._idle.queue) == [None] * WRITERS
