"""Shards through stages: in order, a bounded number at once, tried again when they fail."""

import threading
from collections.abc import Iterator

import pytest

from flows.engines import LocalEngine, pipeline
from flows.stage import Stage
from mlff_core.shard import StepReport


class Recorder:
    """A task that notes when it begins and ends, and how many are in it at once."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, shard: int, name: str) -> StepReport:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.events.append((f"{name} begins", shard))
        with self.lock:
            self.inside -= 1
            self.events.append((f"{name} ends", shard))
        return StepReport(n_records=shard)


def test_every_shard_takes_every_stage_in_order() -> None:
    record = Recorder()
    stages = [Stage(name, record, {"name": name}, width=2) for name in ("embed", "relax", "write")]
    with LocalEngine() as engine:
        reports = list(pipeline(iter(range(7)), stages, engine, in_flight=3))
    assert sorted((stage.name, shard) for stage, shard, _ in reports) == sorted(
        (name, shard) for name in ("embed", "relax", "write") for shard in range(7)
    )
    for shard in range(7):
        own = [event for event, number in record.events if number == shard]
        assert own == [f"{n} {e}" for n in ("embed", "relax", "write") for e in ("begins", "ends")]


def test_a_narrow_stage_has_one_shard_at_a_time() -> None:
    record = Recorder()
    with LocalEngine() as engine:
        list(pipeline(iter(range(20)), [Stage("relax", record, {"name": "r"})], engine, 8))
    assert record.most == 1


def test_no_more_shards_are_read_than_may_be_under_way() -> None:
    read, gate = [], threading.Event()

    def shards() -> Iterator[int]:
        for shard in range(10):
            read.append(shard)
            yield shard

    def wait(shard: int) -> StepReport:
        gate.wait(60)
        return StepReport(n_records=1)

    with LocalEngine() as engine:
        reports = pipeline(shards(), [Stage("embed", wait, {}, width=10)], engine, in_flight=4)
        taken = threading.Thread(target=lambda: read.append(next(reports)))
        taken.start()
        while len(read) < 4:
            assert taken.is_alive()
        assert read == [0, 1, 2, 3]
        gate.set()
        taken.join(60)
        assert len(list(reports)) == 9
    assert len([r for r in read if isinstance(r, int)]) == 10


def test_a_stage_that_fails_is_tried_again_and_then_fails_the_run() -> None:
    calls = []

    def fails(shard: int, times: int) -> StepReport:
        calls.append(shard)
        if calls.count(shard) <= times:
            raise OSError("the disk is full")
        return StepReport(n_records=1)

    stage = Stage("write", fails, {"times": 2}, retries=2, retry_delay_s=0.0)
    with LocalEngine() as engine:
        assert len(list(pipeline(iter([5]), [stage], engine, 4))) == 1
    assert calls == [5, 5, 5]
    calls.clear()
    hopeless = Stage("write", fails, {"times": 9}, retries=2, retry_delay_s=0.0)
    with LocalEngine() as engine, pytest.raises(OSError, match="disk is full"):
        list(pipeline(iter([5]), [hopeless], engine, 4))
    assert calls == [5, 5, 5]
