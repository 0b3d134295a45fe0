"""How busy a run was: no second of work is lost, however long it lasts."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from mlff_core.tables import read_manifest
from mlff_core.tables.testing import manifest
from mlff_core.tables.timeline import MOST_BINS, Timeline


def test_work_stands_where_it_was_done() -> None:
    line = Timeline()
    line.add("relax", 0.5, 2.0, 1.5)
    line.add("relax", 3.25, 3.75, 0.5)
    assert line.shares("relax") == pytest.approx([0.5, 1.0, 0.0, 0.5])
    line.add("embed", 0.0, 2.0, 4.0)  # two at once
    assert line.shares("embed") == pytest.approx([2.0, 2.0, 0.0])
    assert line.shares("write") == []


def test_bins_grow_wider_and_no_work_is_lost() -> None:
    rng, line, seconds = random.Random(1), Timeline(lanes=2), 0.0
    now = 0.0
    for _ in range(500):
        length = rng.uniform(0.0, 30.0)
        now += length
        line.add("relax", now - length, now, length)
        seconds += length
    assert len(line.busy_s["relax"]) <= MOST_BINS
    assert sum(line.busy_s["relax"]) == pytest.approx(seconds)
    assert line.width_s >= now / MOST_BINS
    # All of the time, one of two lanes.
    full = line.shares("relax")[: int(now / line.width_s)]
    assert full == pytest.approx([0.5] * len(full))


def test_it_goes_through_a_manifest(tmp_path: Path) -> None:
    one = manifest()
    one.timeline.add("relax", 0.0, 2.0, 2.0)
    one.write(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["timeline"] == asdict(one.timeline)
    again = read_manifest(tmp_path)
    assert again is not None
    assert again.timeline == one.timeline
