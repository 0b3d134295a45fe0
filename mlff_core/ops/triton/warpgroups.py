# mypy: disable-error-code="arg-type, assignment, call-arg, has-type, list-item, no-untyped-def"
# mypy: disable-error-code="operator, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""What products by warpgroups have in common, on cards of the Hopper family.

In a program of `linear_kernel` all warps load, multiply and write in turn, and read the weights
again for each of its rows. Here a warp fetches into shared memory what the others multiply; each of
these warpgroups has 64 rows of its own, so that one writes while another multiplies; and a program
goes on from rows to rows, so that its weights may stay where they are.

Meaning: the kernel of the same name in linear.py or update_bwd.py, to the last bit: sums
are taken in the same order. Triton's interpreter does not know such kernels.
"""

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from mlff_core.ops.triton.operand import LOW_SCALE
from mlff_core.ops.triton.sharing import alone
from mlff_core.ops.triton.tiles import GROUPS, Groups, row_class

#: Rows of a warpgroup.
ROWS = 64
#: Threads of a warpgroup, and registers that a multiprocessor has for all threads.
_THREADS, _REGISTERS = 128, 65536
#: Registers of a thread that fetches: as few as there may be.
FETCHING = 24

_LOW_SCALE = gl.constexpr(LOW_SCALE)
_ROWS = gl.constexpr(ROWS)


class Room(NamedTuple):
    """How the registers are shared out.

    Attributes:
        at_launch: Of every thread, `maxnreg` of the launch.
        multiplying: Of a thread that multiplies, from then on.
    """

    at_launch: int
    multiplying: int


def room(workers: int) -> Room:
    """Registers for so many warpgroups that multiply, and one of warps that fetch."""
    at_launch = _REGISTERS // (_THREADS * (workers + 1)) // 8 * 8
    left = (at_launch * (workers + 1) - FETCHING) // workers
    return Room(at_launch, min(left, 240) // 8 * 8)


@functools.cache
def multiprocessors() -> int:
    """How many this card has, if it is one of those that have warpgroups; else 0."""
    if triton.knobs.runtime.interpret or not torch.cuda.is_available():
        return 0
    if torch.cuda.get_device_capability()[0] != 9:
        return 0
    return int(torch.cuda.get_device_properties().multi_processor_count)


def groups_of(kernel: str, precision: str, n_atoms: int, n_features: int) -> Groups | None:
    """The piece of a product by warpgroups; None where `tiles.tile_options` has the sooner one, or
    others may compute on the card."""
    if row_class(n_atoms) != "large" or not alone() or not multiprocessors():
        return None
    return GROUPS.get(n_features, {}).get(precision, {}).get(kernel)


def programs(n_out: int, groups: Groups) -> int:
    """As many as run at the same time, each with a block of columns."""
    columns = n_out // groups.columns
    return multiprocessors() // columns * columns


def described(x: Tensor, n_rows: int, piece: int) -> TensorDescriptor:
    """A matrix [.., n_columns] whose boxes of n_rows · piece are fetched."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=2 * piece, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(x, [n_rows, piece], layout)


@gluon.jit
def rings(
    x_desc, w_desc, N_ROWS: gl.constexpr, N_WEIGHTS: gl.constexpr, N_BARRIERS: gl.constexpr,
    READERS: gl.constexpr, PIECE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
    TWO: gl.constexpr,
):  # fmt: skip
    """Shared memory: boxes of rows and of weights, high and low addends, and their barriers.

    Args:
        x_desc, w_desc: As from `described`.
        N_ROWS, N_WEIGHTS: Boxes of either.
        N_BARRIERS: Of each kind.
        READERS: Warpgroups that read a box before another takes its place.
        PIECE, BLOCK_M, BLOCK_N: Sizes of the boxes.
        TWO: There are low addends.
    """
    x_high = gl.allocate_shared_memory(gl.float16, [N_ROWS, BLOCK_M, PIECE], x_desc.layout)
    x_low = gl.allocate_shared_memory(
        gl.float16, [N_ROWS if TWO else 1, BLOCK_M, PIECE], x_desc.layout
    )
    w_high = gl.allocate_shared_memory(gl.float16, [N_WEIGHTS, BLOCK_N, PIECE], w_desc.layout)
    w_low = gl.allocate_shared_memory(
        gl.float16, [N_WEIGHTS if TWO else 1, BLOCK_N, PIECE], w_desc.layout
    )
    there = gl.allocate_shared_memory(gl.int64, [N_BARRIERS, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [N_BARRIERS, 1], mbarrier.MBarrierLayout())
    kept = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(N_BARRIERS):
        mbarrier.init(there.index(i), count=1)
        mbarrier.init(free.index(i), count=READERS)
    mbarrier.init(kept, count=1)
    fence_async_shared()
    return x_high, x_low, w_high, w_low, there, free, kept


@gluon.jit
def fetch(
    x_desc, w_desc, memory, place,
    N_PIECES: gl.constexpr, X_LOW: gl.constexpr, W_LOW: gl.constexpr,
    PARTS: gl.constexpr, PART_ROWS: gl.constexpr, PART_COLUMNS: gl.constexpr, FIRST: gl.constexpr,
    PIECE: gl.constexpr, STAGES: gl.constexpr, WORKERS: gl.constexpr, WITH_ROWS: gl.constexpr,
    TWO: gl.constexpr,
):  # fmt: skip
    """Fetch, piece by piece along the inner dimension, weights and the rows of all warpgroups.

    Args:
        x_desc, w_desc: As from `described`.
        memory: From `rings`.
        place: First block of 64 rows of the program over WORKERS, how many such are skipped, how
            many blocks there are, and the first column.
        N_PIECES: Along the inner dimension.
        X_LOW: Columns between the addends of a row; W_LOW: rows between those of the weights.
        PARTS: Products that are added up, or have rows in common; PART_ROWS, PART_COLUMNS: where
            their weights are; FIRST: which of them comes first.
        PIECE, STAGES, WORKERS: As in `Groups`.
        WITH_ROWS: Rows are fetched, not made by those who multiply.
        TWO: There are low addends.
    """
    x_high, x_low, w_high, w_low, there, free, _ = memory
    group, n_groups, n_blocks, first_n = place
    ADDENDS: gl.constexpr = 2 if TWO else 1
    OF_ROWS: gl.constexpr = WORKERS * x_desc.block_type.nbytes if WITH_ROWS else 0
    i = 0
    for tile in range(group, gl.cdiv(n_blocks, WORKERS), n_groups):
        for j in range(N_PIECES):
            slot = i % STAGES
            mbarrier.wait(free.index(slot), ((i // STAGES) & 1) ^ 1)
            ready = there.index(slot)
            mbarrier.expect(ready, ADDENDS * (OF_ROWS + PARTS * w_desc.block_type.nbytes))
            for p in gl.static_range(PARTS):
                n = (FIRST + p) * PART_ROWS + first_n
                k = (FIRST + p) * PART_COLUMNS + j * PIECE
                at = slot * PARTS + p
                tma.async_copy_global_to_shared(w_desc, [n, k], ready, w_high.index(at))
                if TWO:
                    tma.async_copy_global_to_shared(w_desc, [W_LOW + n, k], ready, w_low.index(at))
            if WITH_ROWS:
                for who in gl.static_range(WORKERS):
                    m = (tile * WORKERS + who) * _ROWS
                    at = slot * WORKERS + who
                    k = j * PIECE
                    tma.async_copy_global_to_shared(x_desc, [m, k], ready, x_high.index(at))
                    if TWO:
                        tma.async_copy_global_to_shared(
                            x_desc, [m, X_LOW + k], ready, x_low.index(at)
                        )
            i += 1


@gluon.jit
def fetch_beside(
    WHO: gl.constexpr, x_desc, w_desc, memory, place,
    N_PIECES: gl.constexpr, X_LOW: gl.constexpr, W_LOW: gl.constexpr,
    PIECE: gl.constexpr, STAGES: gl.constexpr, WORKERS: gl.constexpr, TWO: gl.constexpr,
):  # fmt: skip
    """Fetch all weights once, and then the rows of one warpgroup, which has a ring of its own.

    Args:
        WHO: Which warpgroup.
        others: As in `fetch`.
    """
    x_high, x_low, w_high, w_low, there, free, kept = memory
    group, n_groups, n_blocks, first_n = place
    ADDENDS: gl.constexpr = 2 if TWO else 1
    if WHO == 0:
        mbarrier.expect(kept, ADDENDS * N_PIECES * w_desc.block_type.nbytes)
        for p in gl.static_range(N_PIECES):
            k = p * PIECE
            tma.async_copy_global_to_shared(w_desc, [first_n, k], kept, w_high.index(p))
            if TWO:
                tma.async_copy_global_to_shared(w_desc, [W_LOW + first_n, k], kept, w_low.index(p))
    i = 0
    for block in range(group + WHO * n_groups, n_blocks, n_groups * WORKERS):
        for j in range(N_PIECES):
            slot = WHO * STAGES + i % STAGES
            mbarrier.wait(free.index(slot), ((i // STAGES) & 1) ^ 1)
            ready = there.index(slot)
            mbarrier.expect(ready, ADDENDS * x_desc.block_type.nbytes)
            m = block * _ROWS
            tma.async_copy_global_to_shared(x_desc, [m, j * PIECE], ready, x_high.index(slot))
            if TWO:
                tma.async_copy_global_to_shared(
                    x_desc, [m, X_LOW + j * PIECE], ready, x_low.index(slot)
                )
            i += 1


@gluon.jit
def times(
    high, low, w_high, w_low, acc,
    BLOCK_N: gl.constexpr, LAYOUT: gl.constexpr, PRECISION: gl.constexpr,
):  # fmt: skip
    """`operand.product`; where sums go on it is under way, and whoever needs it waits.

    Args:
        high, low: Addends of rows, in shared memory or in registers.
        w_high, w_low: Addends of weights, boxes of them in shared memory.
        acc: What it is added to.
        BLOCK_N, LAYOUT: Of acc.
        PRECISION: As in `operand.product`.
    """
    w_high = w_high.permute((1, 0))
    w_low = w_low.permute((1, 0))
    if PRECISION == "fp16":
        return warpgroup_mma(high, w_high, acc, is_async=True)
    elif PRECISION == "fp16x3on":
        acc = warpgroup_mma(low, w_high, acc, is_async=True)
        acc = warpgroup_mma(high, w_low, acc, is_async=True)
        return warpgroup_mma(high, w_high, acc, is_async=True)
    else:
        part = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        part = warpgroup_mma(low, w_high, part, use_acc=False, is_async=True)
        part = warpgroup_mma(high, w_low, part, is_async=True)
        part = warpgroup_mma_wait(0, deps=[part]) * (1.0 / _LOW_SCALE)
        part = warpgroup_mma(high, w_high, part, is_async=True)
        return acc + warpgroup_mma_wait(0, deps=[part])


@gluon.jit
def settled(acc, PRECISION: gl.constexpr):
    """acc, when what is under way has been added to it."""
    if PRECISION == "fp16x3":
        return acc
    else:
        return warpgroup_mma_wait(0, deps=[acc])
