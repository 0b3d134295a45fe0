"""Usable cores: what the scheduler lets us have, and no more than a control group grants."""

import os
from pathlib import Path

import pytest

from mlff_core.cores import usable_cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
    ],
)
def test_a_control_groups_quota_bounds_the_cores(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _path: quota)
    assert usable_cores() == expected


def test_without_control_groups_the_affinity_decides(monkeypatch):
    def missing(_path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(Path, "read_text", missing)
    assert usable_cores() == 3
