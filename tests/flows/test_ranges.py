"""However long a library is, a run is a few hundred ranges of shards, and no card waits for one."""

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import flows.compute
from flows.call import ScreenCall
from flows.compute import compute
from flows.engines import LocalEngine
from flows.plan import SHARD_SIZE, ScreenPlan, make_plan, open_call
from flows.ranges import ranges
from flows.stage import Stage
from flows.watch import Watcher
from mlff_core.library.ingest import IngestReport
from mlff_core.shard import StepReport


def plan_of(n_records: int, shard_size: int, folder: Path, model: Path) -> ScreenPlan:
    """The plan of a library of so many records, as if it had been read."""
    library = folder / "library.smi"
    library.write_text("CCO ethanol\n")
    opened = open_call(
        ScreenCall(library=str(library), out=str(folder / "out"), model=str(model), device="cpu")
    )
    read = IngestReport(
        n_records, shard_size, -(-n_records // shard_size), "0" * 64, "file", None, None, ()
    )
    return make_plan(opened, read, shard_size=shard_size, device="cpu")


@pytest.mark.parametrize("n_records", [1, 10**6, 10**9])
@pytest.mark.parametrize("shard_size", [*SHARD_SIZE.values(), 100_000])
def test_a_run_is_at_most_300_ranges_that_hold_every_shard_once(
    n_records: int, shard_size: int, tmp_path: Path, small_model: Path
) -> None:
    plan = plan_of(n_records, shard_size, tmp_path, small_model)
    found = ranges(plan.shards)
    assert 1 <= len(found) <= 300
    assert all(a[-1] + 1 == b[0] for a, b in itertools.pairwise(found))
    assert (found[0][0], found[-1][-1]) == (plan.shards[0], plan.shards[-1])
    records = (len(found) - 1) * len(found[0]) * shard_size
    assert records < n_records <= sum(map(len, found)) * shard_size


def test_what_is_left_of_a_run_is_cut_anew() -> None:
    left = [shard for shard in range(5_000) if shard % 7]
    found = ranges(left)
    assert [shard for part in found for shard in part] == left
    assert len(found) <= 200
    assert ranges([]) == []


def test_shards_of_the_next_range_are_under_way_before_one_ends(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(40, 4, tmp_path, small_model)
    begun, ahead = [], threading.Event()

    def embed(shard: int) -> StepReport:
        begun.append(shard)
        if len(begun) == 4:  # of them two belong to the second range
            ahead.set()
        return StepReport(n_records=4, timings_s={"embed": 1.0})

    def write(shard: int) -> StepReport:
        assert ahead.wait(60)
        return StepReport(n_records=4)

    every = (Stage("embed", embed, {}), Stage("write", write, {}))
    monkeypatch.setattr(flows.compute, "stages", lambda plan: every)
    monkeypatch.setattr("flows.ranges.MOST_RANGES", 5)
    told: list[tuple[list[int], int]] = []

    def tell(shards: Sequence[int], finish: Callable[[], int]) -> int:
        told.append((list(shards), finish()))
        return told[-1][1]

    timings: dict[str, float] = {}
    manifest = SimpleNamespace(add_timings=lambda found: timings.update(found))
    compute(plan, manifest, LocalEngine(), Watcher(), tell)  # type: ignore[arg-type]
    assert told == [([k, k + 1], 8) for k in range(0, 10, 2)]
    assert timings == {"embed": 1.0}


def test_a_shard_that_fails_fails_its_range_and_none_comes_after(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(12, 2, tmp_path, small_model)

    def write(shard: int) -> StepReport:
        if shard == 3:
            raise OSError(28, "no space left")
        return StepReport(n_records=2)

    monkeypatch.setattr(
        flows.compute, "stages", lambda plan: (Stage("write", write, {}, retries=0),)
    )
    ended: list[list[int]] = []

    def tell(shards: Sequence[int], finish: Callable[[], int]) -> int:
        n_records = finish()
        ended.append(list(shards))
        return n_records

    manifest = SimpleNamespace(add_timings=lambda found: None)
    with pytest.raises(OSError, match="no space left"):
        compute(plan, manifest, LocalEngine(), Watcher(), tell)  # type: ignore[arg-type]
    assert ended == [[0], [1], [2]][: len(ended)]  # what ended together with it is not told
