# mypy: disable-error-code="no-untyped-def"
# ... because kernels are not Python: their constants become numbers.
"""Programmatic dependent launch: a kernel is set up while the one before it still runs.

A step of few atoms is a row of short kernels, and setting one up takes about as long as its work.
Every kernel of a step calls `wait_for_inputs` before it reads or writes anything that another
kernel touches; what comes before that call, weights for instance, is read while it waits.

Where atoms are many, programs that wait take the place of programs that could work: there kernels
run one after the other.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mlff_core.ops.triton.tiles import row_class

_apart = False


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Wait until all kernels before this one have written; let the next one be set up."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


def overlap(n_rows: int) -> dict[str, bool]:
    """Keyword arguments of a launch over so many rows: whether it may overlap with the others."""
    can = row_class(n_rows) == "small" and not _apart and _can_overlap()
    return {"OVERLAP": can, "launch_pdl": can}


@functools.cache
def _can_overlap() -> bool:
    """Whether this card can, as those from Hopper on do."""
    if triton.knobs.runtime.interpret or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability() >= (9, 0)


@contextmanager
def kernels_apart() -> Iterator[None]:
    """No overlap inside, so that a kernel's time is not spent waiting for the one before."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before
