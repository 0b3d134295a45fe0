"""Rivals that are cut off are judged by what has ended, and the table says so."""

import operator
import time
from itertools import count
from pathlib import Path
from threading import BrokenBarrierError

import pytest
import torch

from benchmarks.rivals import __main__ as rivals
from benchmarks.rivals.bench import WATER, Bench, Row, Way, taken, workers
from benchmarks.rivals.report import markdown, plot


def test_what_ends_in_time_is_all_there_is_or_what_came_until_then():
    assert taken(iter("abc"), 60.0)[0] == ["a", "b", "c"]

    def slow():
        for k in count():
            time.sleep(0.02)
            yield k

    found, seconds = taken(slow(), 0.1)
    assert found == list(range(len(found)))
    assert seconds > 0.1
    assert len(found) * 0.02 <= seconds


def half_of(bench: Bench) -> Row:
    return Row(len(bench.starts) // 2, len(bench.starts), 0.5, 1.0, 0.3)


def for_ever(bench: Bench) -> Row:
    while True:
        time.sleep(0.01)


def missing(bench: Bench) -> Row:
    raise ModuleNotFoundError("No module named 'far'", name="far")


def test_every_way_is_a_row_and_the_table_says_which_were_cut_off(monkeypatch, tmp_path: Path):
    ways = {"half, auto": Way(half_of, 8, 1.0), "stuck": Way(for_ever, 2, 0.1)}
    ways["absent"] = Way(missing, 2, 1.0)
    monkeypatch.setattr(rivals, "WAYS", ways)
    monkeypatch.setattr(rivals, "BESIDE", 0.1)
    rows = list(rivals.rows([WATER] * 8, list(ways), torch.device("cpu"), None))
    assert rows[0]["conformers_per_s"] == 8.0
    assert [row.get("failed") for row in rows] == [
        None,
        "TimeoutError: took longer than 0 s",
        "not installed here: far",
    ]
    about = {"environment": {"device": "a card"}, "cores": 2, "molecules": 1, "mean_atoms": 3.0}
    text = markdown(about | {"rows": rows})
    assert "| half, auto | 8 | 4 of 8 | 100.0% | 0.30 | " in text
    assert "time was over" in text
    assert "time was over" not in markdown(about | {"rows": rows[1:]})
    plot(about | {"rows": rows}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_processes_have_tried_what_they_are_for_and_one_that_cannot_ends_the_wait():
    with workers(2, operator.neg, 1) as pool:
        assert pool.map(operator.neg, range(3)) == [0, -1, -2]
    with pytest.raises(BrokenBarrierError), workers(1, operator.neg, "no number"):
        pass
