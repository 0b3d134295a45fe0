# mypy: disable-error-code="no-untyped-def"
# ... because kernels are not Python: their constants become numbers.
"""Programmatic dependent launch: a kernel is set up while the one before it still runs.

A step of few atoms is a row of short kernels, and setting one up takes about as long as its work.
Every kernel of a step calls `wait_for_inputs` before it reads or writes anything that another
kernel touches; what comes before that call, weights for instance, is read while it waits.

Where atoms are more, programs that wait take the place of programs that could work: there a kernel
is set up when the programs of the one before are about to end, and where atoms are many not before
it has ended. Programs that have nothing but padding to work on end at once.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mlff_core.ops.triton.tiles import row_class

#: When the next kernel is set up: as soon as all programs wait for theirs, or have worked.
EARLY, LATE = 1, 2
#: Of the classes of rows; of others when the kernel has ended.
WHEN = {"small": EARLY, "few": LATE, "medium": LATE}

_EARLY, _LATE = tl.constexpr(EARLY), tl.constexpr(LATE)
_apart = False


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Wait until all kernels before this one have written; let the next one be set up if early."""
    if OVERLAP != 0:
        gdc_wait()
    if OVERLAP == _EARLY:
        gdc_launch_dependents()


@triton.jit
def let_next_begin(OVERLAP: tl.constexpr):
    """Let the next kernel be set up, of a program that has nothing to do any more but to write."""
    if OVERLAP == _LATE:
        gdc_launch_dependents()


@triton.jit
def is_padding(first_row, end_ptr, OVERLAP: tl.constexpr):
    """Whether a program whose rows begin here has none that is no padding.

    Where atoms are few each kernel is a chain of loads, which one more would make longer.
    """
    if OVERLAP == _EARLY:
        return False
    else:
        return first_row >= tl.load(end_ptr)


def overlap(n_rows: int) -> dict[str, int]:
    """Keyword arguments of a launch over so many rows: how it may overlap with the others."""
    when = 0 if _apart or not _can_overlap() else WHEN.get(row_class(n_rows), 0)
    return {"OVERLAP": when, "launch_pdl": when != 0}


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
