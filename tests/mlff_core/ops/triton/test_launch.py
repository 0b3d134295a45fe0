"""Kernels that are set up while the one before still runs."""

import inspect

import pytest
import torch
import triton

from mlff_core.ops.triton import (
    launch,
    linear,
    message,
    message_bwd,
    pairs,
    readout,
    tiles,
    update,
    update_bwd,
)
from mlff_core.ops.triton.launch import kernels_apart

KERNELS = {
    name: kernel.fn
    for module in (linear, message, message_bwd, pairs, readout, update, update_bwd)
    for name, kernel in vars(module).items()
    if name.endswith("_kernel")
}


def test_every_kernel_of_a_step_is_known_here():
    assert len(KERNELS) == 12


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_waits_for_what_is_written_before_it(name):
    # It must be there; before it nothing but indices, weights and biases may be made or read.
    source = inspect.getsource(KERNELS[name])
    body = source[source.index("):\n") :]
    before, wait, after = body.partition("wait_for_inputs(OVERLAP)\n")
    assert wait
    assert "wait_for_inputs" not in after
    assert "tl.store" not in before
    loads = [line for line in before.splitlines() if "load" in line and "#" not in line]
    constants = ("w_ptr", "w1_ptr", "w2_ptr", "b_ptr", "b1_ptr")
    assert all(any(what in line for what in constants) for line in loads)


def test_few_rows_overlap_early_more_late_and_many_do_not(monkeypatch):
    monkeypatch.setattr(launch, "_can_overlap", lambda: True)
    more, many = tiles.CLASSES["few"], tiles.CLASSES["large"]
    assert launch.overlap(more - 1) == {"OVERLAP": launch.EARLY, "launch_pdl": True}
    assert launch.overlap(more) == {"OVERLAP": launch.LATE, "launch_pdl": True}
    assert launch.overlap(many - 1) == {"OVERLAP": launch.LATE, "launch_pdl": True}
    assert launch.overlap(many) == {"OVERLAP": 0, "launch_pdl": False}


def test_kernels_apart_holds_only_inside(monkeypatch):
    monkeypatch.setattr(launch, "_can_overlap", lambda: True)
    with kernels_apart():
        with kernels_apart():
            pass
        assert launch.overlap(1) == {"OVERLAP": 0, "launch_pdl": False}
    assert launch.overlap(1)["launch_pdl"]


@pytest.mark.parametrize(
    ("capability", "interpret", "expected"),
    [((9, 0), False, True), ((12, 0), False, True), ((8, 6), False, False), ((9, 0), True, False)],
)
def test_kernels_overlap_on_cards_that_can(monkeypatch, capability, interpret, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", interpret)
    assert launch._can_overlap.__wrapped__() is expected
