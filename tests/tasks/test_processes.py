"""Processes that embed on a device: a shard comes back whole, whichever of them had a slice."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from flows.call import ScreenCall
from flows.settings import chemistry_of
from mlff_core.arrow import read_arrow, rows_of
from mlff_core.chem.constrained import SIDE_BY_SIDE, on_a_core
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.embedding.on_device import Straggler
from mlff_core.library.records import Record
from mlff_core.models.reference import refer_to_model
from mlff_core.shard import StepReport, embed_shard
from mlff_core.shipped import drugs
from tasks import opened as live
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
    assert 2 <= len(report.slowest) <= len(SMILES)
    assert min(report.slowest.values()) > 0
    assert heard == [2, 4, 6, 7]
    assert [file.name for file in tmp_path.iterdir()] == ["000000.embedded.arrow"]


def test_a_process_that_dies_fails_the_try_and_the_next_one_has_another(
    tmp_path: Path,
) -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=1, n_processes=1)
    try:
        opened.embed(records(), tmp_path / "first.arrow")
        (process,) = opened._processes
        assert process.worker is not None
        os.kill(process.worker.process.pid, signal.SIGKILL)
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


def test_a_shard_that_came_earlier_is_served_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANES", 1)
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


def test_the_first_slices_go_to_as_many_processes_as_there_are() -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=3, n_processes=3)
    lanes = [opened._take((0, k)) for k in range(2 * 3)]
    assert len({id(lane.process) for lane in lanes[:3]}) == 3
    assert len({id(lane.process) for lane in lanes[3:]}) == 3
    assert len(set(map(id, lanes))) == 6
    opened.close()


def meet(
    records: Sequence[Record], part: Path, setup: tuple[ChemistrySettings, str, int]
) -> tuple[StepReport, list[Straggler]]:
    """Stands for `embed_slice`: returns when another slice has come to the same process."""
    (mine, *_), others = records, part.with_name(f"{os.getpid()}")
    others.mkdir(exist_ok=True)
    (others / str(mine.record)).touch()
    while len(list(others.iterdir())) < 2:
        time.sleep(0.01)
    with EmbeddingPool(setup[0], 1, prepare=on_a_core) as pool:
        return embed_shard(records, part, pool, "cpu", stragglers=[]), []


def test_a_process_has_a_second_slice_while_it_is_at_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "embed_slice", meet)
    monkeypatch.setattr(module, "RECORDS_AT_ONCE", 1)
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=1, n_processes=1)
    try:
        opened.embed(records()[:2], tmp_path / "shard.arrow")
    finally:
        opened.close()
    assert read_arrow(tmp_path / "shard.arrow")["record"].to_pylist() == [0, 1]


def leave_ethane(
    records: Sequence[Record], part: Path, setup: tuple[ChemistrySettings, str, int]
) -> tuple[StepReport, list[Straggler]]:
    """Stands for `embed_slice`, on a device that cannot embed ethane."""
    settings, device, _ = setup
    left = [Straggler(r.record, r.input_id, r.smiles, "no") for r in records if r.smiles == "CC"]
    with EmbeddingPool(settings, 1, prepare=on_a_core) as pool:
        others = [r for r in records if r.smiles != "CC"]
        return embed_shard(others, part, pool, device, stragglers=[]), left


def test_stragglers_come_in_their_places_and_say_who_embedded_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "embed_slice", leave_ethane)
    monkeypatch.setattr(module, "RECORDS_AT_ONCE", 2)
    smiles = ["[Cl-]", "CC", "CC", "[Br-]", "bad("]
    notes = [None, "doubtful", None, None, None]
    given = [
        Record(k, None, s, note) for k, (s, note) in enumerate(zip(smiles, notes, strict=True))
    ]
    opened = EmbeddingProcesses(ChemistrySettings(), "cpu", workers=1, n_processes=1)
    try:
        report = opened.embed(given, tmp_path / "shard.arrow")
    finally:
        opened.close()
    assert report.timings_s["embed_stragglers"] > 0
    rows = rows_of(read_arrow(tmp_path / "shard.arrow"), PreparedMolecule)
    assert [(row.record, row.input_smiles) for row in rows] == list(enumerate(smiles))
    assert [row.message for row in rows[1:3]] == [
        "doubtful; embedded by RDKit: on the device no", "embedded by RDKit: on the device no"
    ]  # fmt: skip
    for row in rows[1:3]:
        (x,) = row.conformers()
        c, other = np.flatnonzero(row.numbers == 6)
        assert np.linalg.norm(x[c] - x[other]) == pytest.approx(1.53, abs=0.05)
    assert [file.name for file in tmp_path.iterdir()] == ["shard.arrow"]


def test_processes_that_were_begun_beforehand_embed_the_first_shard(tmp_path: Path) -> None:
    opened = EmbeddingProcesses(ChemistrySettings(), "no such device", workers=1, n_processes=1)
    try:
        opened.begin()  # which fails, and is for the first shard to say
        opened._beginning[0].join()
        begun = opened._processes[0].worker
        with pytest.raises(RuntimeError, match=r"no such device|device type"):
            opened.embed(records(), tmp_path / "shard.arrow")
        assert opened._processes[0].worker is begun is not None
        assert begun.process.poll() is None
    finally:
        opened.close()
    assert begun.process.poll() is not None
    assert not list(tmp_path.iterdir())


class Cores:
    """Notes what is asked of it, once someone takes the answers."""

    n_workers = 3

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.done = threading.Event()

    def map(self, records: Sequence[tuple], *_: object, **__: object) -> Iterator[None]:
        for _number, _identifier, smiles in records:
            self.prepared.append(smiles)
            yield
        self.done.set()


def test_every_core_gets_to_know_the_drugs_and_nobody_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup, cores = (ChemistrySettings(), "cpu", 3), Cores()
    monkeypatch.setitem(module._pools, setup, cores)
    familiar = drugs()[: module.FAMILIAR]
    assert len(set(familiar)) == module.FAMILIAR
    assert module.learn(familiar, setup) is None
    assert cores.done.wait(60)
    assert Counter(cores.prepared) == dict.fromkeys(familiar, 3)
    # Those that travel together are different: a core is not given three times the same.
    assert len(set(cores.prepared[:SIDE_BY_SIDE])) == SIDE_BY_SIDE


def test_a_screen_begins_the_processes_that_its_shards_are_embedded_by() -> None:
    call = ScreenCall(library="datasets/druglike", out="out", conformers=3, seed=7)
    model = refer_to_model("small")
    begun = live.embedding_processes("a", chemistry_of(call, model), None, "cpu")
    try:
        plan = json.loads(TypeAdapter(ChemistrySettings).dump_json(chemistry_of(call, model)))
        again = TypeAdapter(ChemistrySettings).validate_python(plan)
        assert live.embedding_processes("a", again, None, "cpu") is begun
    finally:
        live.close("a")
