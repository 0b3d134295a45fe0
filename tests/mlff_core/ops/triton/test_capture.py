"""The garbage collector stays out of recordings."""

import gc
from contextlib import contextmanager

import pytest
import torch

from mlff_core.ops.triton.capture import recording


@pytest.fixture
def steps(monkeypatch):
    """What happens, in order, without a CUDA device."""
    seen = []

    @contextmanager
    def graph(_, pool, capture_error_mode):
        seen.append(f"capture in {pool}, {capture_error_mode}")
        yield

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(gc, "collect", lambda: seen.append("collect"))
    return seen


def test_garbage_is_collected_before_a_recording_and_not_during(steps):
    with recording(None, "shared memory"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert steps == ["collect", "capture in shared memory, thread_local"]


@pytest.mark.usefixtures("steps")
def test_a_recording_that_fails_leaves_the_collector_as_it_was():
    with pytest.raises(RuntimeError), recording(None):
        raise RuntimeError
    assert gc.isenabled()
    gc.disable()
    try:
        with recording(None):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
