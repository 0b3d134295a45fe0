"""Shards that are relaxed side by side: one at a time has a CPU, two have a card."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mlff_core.moves.settings import RelaxSettings
from mlff_core.shard import StepReport
from tasks import relax as step


@pytest.fixture
def interval() -> Iterator[float]:
    before = sys.getswitchinterval()
    yield before
    sys.setswitchinterval(before)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_threads_hand_over_quickly_where_one_launches_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float, device: str
) -> None:
    def relax_shard(*_: object, **__: object) -> StepReport:
        now = sys.getswitchinterval()
        assert now == interval if device == "cpu" else now < 0.1 * interval
        return StepReport(n_records=1)

    monkeypatch.setattr(step, "relax_shard", relax_shard)
    monkeypatch.setattr(step, "own_stream", lambda _: nullcontext())
    model = SimpleNamespace(device=torch.device(device))
    monkeypatch.setattr(step, "potential", lambda *_: model)
    settings = RelaxSettings()
    assert step.relax(0, str(tmp_path), "model", "sha", device, "auto", "auto", settings).n_records


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 1), ("cuda", 2)])
def test_three_shards_are_in_the_stage_and_some_have_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, at_once: int
) -> None:
    all_there = threading.Barrier(3, timeout=60)
    together = threading.Barrier(at_once, timeout=60)
    entered: list[int] = []
    has_it: list[int] = []
    most: list[int] = []

    def relax_shard(
        *_: object, pre_relax: object, turn: AbstractContextManager[object]
    ) -> StepReport:
        all_there.wait()  # each has read its shard, none waits for the others
        with turn:
            entered.append(1)
            has_it.append(1)
            if len(entered) <= at_once:
                together.wait()  # so many are let in before one is done
            most.append(len(has_it))
            has_it.pop()
        all_there.wait()
        return StepReport(n_records=1)

    monkeypatch.setattr(step, "relax_shard", relax_shard)
    monkeypatch.setattr(step, "own_stream", lambda _: nullcontext())
    monkeypatch.setattr(step, "hand_over_quickly", lambda: None)
    monkeypatch.setattr(step, "potential", lambda *_: SimpleNamespace(device=torch.device(device)))
    arguments = str(tmp_path), "model", "sha", device, "auto", "float32", RelaxSettings()
    with ThreadPoolExecutor(3) as threads:
        reports = list(threads.map(lambda shard: step.relax(shard, *arguments), range(3)))
    assert [report.n_records for report in reports] == [1, 1, 1]
    assert max(most) == at_once
