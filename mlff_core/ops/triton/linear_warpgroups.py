# mypy: disable-error-code="arg-type, assignment, call-arg, has-type, list-item, no-untyped-def"
# mypy: disable-error-code="operator, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Products of operands with weights, by warpgroups. Meaning: `linear.linear_kernel`."""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from mlff_core.ops.triton.operand import shape_name, sigmoid, store_operand
from mlff_core.ops.triton.tiles import Groups
from mlff_core.ops.triton.warpgroups import (
    FETCHING,
    ROWS,
    described,
    fetch,
    fetch_beside,
    programs,
    rings,
    room,
    settled,
    times,
)

_ROWS = gl.constexpr(ROWS)


@gluon.jit
def multiply(
    WHO: gl.constexpr, memory, place, to,
    N_IN: gl.constexpr, N_OUT: gl.constexpr, BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr, STAGES: gl.constexpr, WORKERS: gl.constexpr, STAY: gl.constexpr,
    PRECISION: gl.constexpr, OPERAND: gl.constexpr, HAS_BIAS: gl.constexpr, AFTER: gl.constexpr,
):  # fmt: skip
    """What one warpgroup does: multiply rows that are fetched, and leave the result.

    Args:
        WHO: Which warpgroup.
        memory, place: As in `warpgroups.fetch`.
        to: b, other, y and n_rows; these and others: As in `linear_warpgroups_kernel`.
    """
    x_high, x_low, w_high, w_low, there, free, kept = memory
    group, n_groups, n_blocks, first_n = place
    b_ptr, other_ptr, y_ptr, n_rows = to
    N_PIECES: gl.constexpr = N_IN // PIECE
    PIECES: gl.constexpr = 1 if PRECISION == "fp16" else 2
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16]
    )
    n = first_n + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LAYOUT))
    if STAY:
        mbarrier.wait(kept, 0)
        first, last, step = group + WHO * n_groups, n_blocks, n_groups * WORKERS
    else:
        first, last, step = group, gl.cdiv(n_blocks, WORKERS), n_groups
    i = 0
    for tile in range(first, last, step):
        acc = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        for j in range(N_PIECES):
            if STAY:
                slot = WHO * STAGES + i % STAGES
                at, k = slot, j
            else:
                slot = i % STAGES
                at, k = slot * WORKERS + WHO, slot
            mbarrier.wait(there.index(slot), (i // STAGES) & 1)
            # Without low addends there is one box, which nobody reads.
            low, k_low = (at, k) if PIECES == 2 else (0, 0)
            acc = times(
                x_high.index(at), x_low.index(low), w_high.index(k), w_low.index(k_low), acc,
                BLOCK_N, LAYOUT, PRECISION,
            )  # fmt: skip
            acc = settled(acc, PRECISION)
            mbarrier.arrive(free.index(slot), count=1)
            i += 1
        block = tile if STAY else tile * WORKERS + WHO
        rows = block * _ROWS + gl.arange(0, _ROWS, layout=gl.SliceLayout(1, LAYOUT))
        real = gl.expand_dims(rows, 1) < n_rows
        wide = gl.expand_dims(rows.to(gl.int64), 1)
        at = wide * N_OUT + gl.expand_dims(n, 0)
        if HAS_BIAS:
            acc += gl.expand_dims(gl.load(b_ptr + n), 0)
        if AFTER != "":
            h = gl.load(other_ptr + at, mask=real, other=0.0)
        if AFTER == "add":
            acc += h
        elif AFTER == "silu_slope":
            gate = sigmoid(h)
            acc *= gate * (1.0 + h * (1.0 - gate))
        if OPERAND:
            operand = y_ptr + wide * (PIECES * N_OUT) + gl.expand_dims(n, 0)
            store_operand(operand, acc, real, N_OUT, PRECISION)
        else:
            gl.store(y_ptr + at, acc, mask=real)


@gluon.jit(
    do_not_specialize=["n_rows"],
    repr=lambda call: shape_name(call.constants["N_IN"], call.constants["N_OUT"]) + "_kernel",
)
def linear_warpgroups_kernel(
    x_desc,  # operand [n_rows, PIECES · N_IN]
    w_desc,  # pieces of [N_OUT, N_IN]
    b_ptr,  # [N_OUT]
    other_ptr,  # [n_rows, N_OUT]
    end_ptr,  # int32 [1], atoms that are no padding
    y_ptr,  # [n_rows, N_OUT]; with OPERAND an operand [n_rows, PIECES, N_OUT]
    n_rows,
    N_IN: gl.constexpr,
    N_OUT: gl.constexpr,
    ATOM_ROWS: gl.constexpr,  # of an atom, side by side
    BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr,
    STAGES: gl.constexpr,
    WORKERS: gl.constexpr,
    STAY: gl.constexpr,
    REGISTERS: gl.constexpr,  # of a thread that multiplies
    FETCHING: gl.constexpr,  # of one that fetches
    PRECISION: gl.constexpr,
    OPERAND: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    AFTER: gl.constexpr,  # "", "add" other, or "silu_slope" of other
):
    TWO: gl.constexpr = PRECISION != "fp16"
    N_PIECES: gl.constexpr = N_IN // PIECE
    COLUMNS: gl.constexpr = N_OUT // BLOCK_N
    memory = rings(
        x_desc, w_desc, WORKERS * STAGES, N_PIECES if STAY else STAGES,
        WORKERS * STAGES if STAY else STAGES, 1 if STAY else WORKERS, PIECE, _ROWS, BLOCK_N, TWO,
    )  # fmt: skip
    n_blocks = gl.cdiv(gl.minimum(gl.load(end_ptr) * ATOM_ROWS, n_rows), _ROWS)
    program = gl.program_id(0)
    place = (
        program // COLUMNS, gl.num_programs(0) // COLUMNS, n_blocks, program % COLUMNS * BLOCK_N
    )  # fmt: skip
    to = (b_ptr, other_ptr, y_ptr, n_rows)
    if STAY and WORKERS == 2:
        gl.warp_specialize(
            [
                (multiply, (0, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (multiply, (1, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (fetch_beside, (0, x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, PIECE,
                    STAGES, WORKERS, TWO)),
                (fetch_beside, (1, x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, PIECE,
                    STAGES, WORKERS, TWO)),
            ],
            [4, 1, 1], [REGISTERS, FETCHING, FETCHING],
        )  # fmt: skip
    elif STAY:
        gl.warp_specialize(
            [
                (multiply, (0, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (multiply, (1, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (multiply, (2, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (fetch_beside, (0, x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, PIECE,
                    STAGES, WORKERS, TWO)),
                (fetch_beside, (1, x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, PIECE,
                    STAGES, WORKERS, TWO)),
                (fetch_beside, (2, x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, PIECE,
                    STAGES, WORKERS, TWO)),
            ],
            [4, 4, 1, 1, 1], [REGISTERS, REGISTERS, FETCHING, FETCHING, FETCHING],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (multiply, (0, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (multiply, (1, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (multiply, (2, memory, place, to, N_IN, N_OUT, BLOCK_N, PIECE, STAGES,
                    WORKERS, STAY, PRECISION, OPERAND, HAS_BIAS, AFTER)),
                (fetch, (x_desc, w_desc, memory, place, N_PIECES, N_IN, N_OUT, 1, 0, 0, 0, PIECE,
                    STAGES, WORKERS, True, TWO)),
            ],
            [4, 4, 1], [REGISTERS, REGISTERS, FETCHING],
        )  # fmt: skip


def linear_by_warpgroups(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    other: Tensor | None,
    end: Tensor,
    y: Tensor,
    groups: Groups,
    *,
    precision: str,
    atom_rows: int,
    operand: bool,
    after: str,
) -> None:
    """Write y, as `linear.linear` does, of x that is an operand.

    Args:
        groups: From `warpgroups.groups_of`.
        x, w, b, other, end, y, precision, atom_rows, operand, after: As for `linear_kernel`.
    """
    _, n_out, n_in = w.shape
    n_rows = len(x)
    registers = room(groups.workers)
    linear_warpgroups_kernel[(programs(n_out, groups),)](
        described(x.view(n_rows, -1), ROWS, groups.k),
        described(w.view(-1, n_in), groups.columns, groups.k),
        w if b is None else b,
        w if other is None else other,
        end,
        y,
        n_rows,
        N_IN=n_in,
        N_OUT=n_out,
        ATOM_ROWS=atom_rows,
        BLOCK_N=groups.columns,
        PIECE=groups.k,
        STAGES=groups.stages,
        WORKERS=groups.workers,
        STAY=groups.stay,
        REGISTERS=registers.multiplying,
        FETCHING=FETCHING,
        PRECISION=precision,
        OPERAND=operand,
        HAS_BIAS=b is not None,
        AFTER=after,
        num_warps=4,
        maxnreg=registers.at_launch,
    )
