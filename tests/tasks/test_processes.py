"""Processes that embed on a device: a shard comes back whole, whichever of them had a slice."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlff_core.arrow import read_arrow
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.library.records import Record
from tasks import processes as module
from tasks.processes import EmbeddingProcesses

#: Single atoms have their geometry, and the others none: the device itself has nothing to do.
SMILES = ["[Cl-]", "[Br-]", "bad(", "[Xe]", "[I-]", "", "[F-]"]


@pytest.fixture(scope="module")
def processes() -> Iterator[EmbeddingProcesses]:
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=2, n_processes=2)
    yield opened
    opened.close()


def records() -> list[Record]:
    return [Record(k, f"id {k}", smiles, None) for k, smiles in enumerate(SMILES)]


def test_slices_of_a_shard_stand_in_the_order_of_its_records(
    processes: EmbeddingProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORDS_AT_ONCE", 2)
    heard: list[int] = []
    report = processes.embed(records(), tmp_path / "000000.embedded.arrow", heard.append)
    table = read_arrow(tmp_path / "000000.embedded.arrow")
    assert table["record"].to_pylist() == list(range(len(SMILES)))
    assert table["status"].to_pylist() == [
        "ok", "ok", "rejected", "rejected", "ok", "rejected", "ok"
    ]  # fmt: skip
    assert report.n_records == len(SMILES)
    assert report.timings_s["embed_cores"] > 0
    assert heard == [2, 4, 6, 7]
    assert [file.name for file in tmp_path.iterdir()] == ["000000.embedded.arrow"]


def test_a_process_that_dies_fails_the_try_and_the_next_one_has_another(
    tmp_path: Path,
) -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=1, n_processes=1)
    try:
        opened.embed(records(), tmp_path / "first.arrow")
        process = opened._idle.pop()
        assert process is not None
        os.kill(process.process.pid, signal.SIGKILL)
        opened._idle.append(process)
        with pytest.raises(RuntimeError, match="ended"):
            opened.embed(records(), tmp_path / "second.arrow")
        assert not (tmp_path / "second.arrow").exists()
        opened.embed(records(), tmp_path / "second.arrow")
        assert read_arrow(tmp_path / "second.arrow").equals(read_arrow(tmp_path / "first.arrow"))
    finally:
        opened.close()


def test_what_the_embedding_raises_is_raised_here(tmp_path: Path) -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "no such device", workers=1, n_processes=1)
    try:
        with pytest.raises(RuntimeError, match=r"no such device|device type"):
            opened.embed(records(), tmp_path / "shard.arrow")
    finally:
        opened.close()


def test_a_shard_that_came_earlier_is_served_first() -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=1, n_processes=1)
    only = opened._take((0, 0))
    served: list[tuple[int, int]] = []

    def wait(turn: tuple[int, int]) -> None:
        process = opened._take(turn)
        served.append(turn)
        opened._give(process)

    turns = [(1, 0), (0, 1250), (1, 1250), (0, 2500)]
    threads = [threading.Thread(target=wait, args=(turn,)) for turn in turns]
    for n, thread in enumerate(threads):
        thread.start()
        while len(opened._waiting) <= n:
            time.sleep(0.001)
    opened._give(only)
    for thread in threads:
        thread.join()
    assert served == sorted(turns)
