# mypy: disable-error-code="arg-type, assignment, call-arg, has-type, list-item, no-untyped-def"
# mypy: disable-error-code="operator, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The first product of the update block's backward by warpgroups.

Meaning: `update_bwd.update_bwd_hidden_kernel`.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from mlff_core.ops.triton.operand import sigmoid, split, store_operand
from mlff_core.ops.triton.tiles import Groups
from mlff_core.ops.triton.warpgroups import (
    FETCHING,
    ROWS,
    described,
    fetch,
    programs,
    rings,
    room,
    settled,
    times,
)

_ROWS = gl.constexpr(ROWS)


@gluon.jit
def multiply_bwd_hidden(
    WHO: gl.constexpr, memory, place, pointers, n_atoms,
    N_FEATURES: gl.constexpr, BLOCK_N: gl.constexpr, PIECE: gl.constexpr, STAGES: gl.constexpr,
    WORKERS: gl.constexpr, PRECISION: gl.constexpr, OPERAND: gl.constexpr, WITH_MU: gl.constexpr,
):  # fmt: skip
    """What one warpgroup does: make two of the factors, multiply, and leave the result.

    Args:
        WHO: Which warpgroup.
        memory, place: As in `warpgroups.fetch`; of the rows the gradient in a_mu is fetched.
        pointers: g_q, a, hidden and g_hidden; these and others: as in
            `bwd_hidden_warpgroups_kernel`.
    """
    x_high, x_low, w_high, w_low, there, free, _ = memory
    group, n_groups, n_blocks, first_n = place
    g_q_ptr, a_ptr, hidden_ptr, g_hidden_ptr = pointers
    TWO: gl.constexpr = PRECISION != "fp16"
    N_PIECES: gl.constexpr = N_FEATURES // PIECE
    PARTS: gl.constexpr = 3 if WITH_MU else 2
    PIECES: gl.constexpr = 1 if OPERAND == "fp16" else 2
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16]
    )
    FACTOR: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=LAYOUT, k_width=2)
    n = first_n + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LAYOUT))
    k = gl.expand_dims(gl.arange(0, PIECE, layout=gl.SliceLayout(0, FACTOR)), 0)
    i = 0
    for tile in range(group, gl.cdiv(n_blocks, WORKERS), n_groups):
        first = (tile * WORKERS + WHO) * _ROWS
        made = first + gl.arange(0, _ROWS, layout=gl.SliceLayout(1, FACTOR))
        here = gl.expand_dims(made, 1) < n_atoms
        made = gl.expand_dims(made.to(gl.int64), 1)
        g_q = g_q_ptr + made * N_FEATURES + k
        inner = a_ptr + made * (3 * N_FEATURES) + 2 * N_FEATURES + k
        acc = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        # The next piece is read while this one is multiplied.
        next_g = gl.load(g_q, mask=here, other=0.0)
        next_inner = gl.load(inner, mask=here, other=0.0)
        for j in range(N_PIECES):
            g = next_g
            g_inner = next_g * next_inner
            more = here & (j + 1 < N_PIECES)
            next_g = gl.load(g_q + (j + 1) * PIECE, mask=more, other=0.0)
            next_inner = gl.load(inner + (j + 1) * PIECE, mask=more, other=0.0)
            slot = i % STAGES
            mbarrier.wait(there.index(slot), (i // STAGES) & 1)
            at = slot * PARTS
            if WITH_MU:
                x_at = slot * WORKERS + WHO
                acc = times(
                    x_high.index(x_at), x_low.index(x_at if TWO else 0),
                    w_high.index(at), w_low.index(at if TWO else 0), acc,
                    BLOCK_N, LAYOUT, PRECISION,
                )  # fmt: skip
                at += 1
            high, low = split(g_inner, PRECISION)
            acc = times(
                high, low, w_high.index(at), w_low.index(at if TWO else 0), acc,
                BLOCK_N, LAYOUT, PRECISION,
            )  # fmt: skip
            # Factors in registers may not change before they are multiplied.
            acc = settled(acc, PRECISION)
            high, low = split(g, PRECISION)
            at += 1
            acc = times(
                high, low, w_high.index(at), w_low.index(at if TWO else 0), acc,
                BLOCK_N, LAYOUT, PRECISION,
            )  # fmt: skip
            acc = settled(acc, PRECISION)
            mbarrier.arrive(free.index(slot), count=1)
            i += 1
        rows = first + gl.arange(0, _ROWS, layout=gl.SliceLayout(1, LAYOUT))
        real = gl.expand_dims(rows, 1) < n_atoms
        wide = gl.expand_dims(rows.to(gl.int64), 1)
        f = gl.expand_dims(n, 0)
        h = gl.load(hidden_ptr + wide * N_FEATURES + f, mask=real, other=0.0)
        gate = sigmoid(h)
        acc *= gate * (1.0 + h * (1.0 - gate))
        g_hidden = g_hidden_ptr + wide * (PIECES * N_FEATURES) + f
        store_operand(g_hidden, acc, real, N_FEATURES, OPERAND)


@gluon.jit(do_not_specialize=["n_atoms"], repr=lambda call: "update_bwd_hidden_kernel")
def bwd_hidden_warpgroups_kernel(
    x_desc,  # gradient in a_mu, operand [n_atoms, n_pieces · N_FEATURES], unused without WITH_MU
    w_desc,  # pieces of the transposed second layer [N_FEATURES, 3 N_FEATURES]
    g_q_ptr,  # [n_atoms, N_FEATURES]
    a_ptr,  # [n_atoms, 3 N_FEATURES]
    hidden_ptr,  # [n_atoms, N_FEATURES]
    g_hidden_ptr,  # operand [n_atoms, PIECES, N_FEATURES]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,  # of a thread that multiplies
    FETCHING: gl.constexpr,  # of one that fetches
    PRECISION: gl.constexpr,
    OPERAND: gl.constexpr,  # precision of the product that takes the gradient
    WITH_MU: gl.constexpr,
):
    TWO: gl.constexpr = PRECISION != "fp16"
    N_PIECES: gl.constexpr = N_FEATURES // PIECE
    PARTS: gl.constexpr = 3 if WITH_MU else 2
    COLUMNS: gl.constexpr = N_FEATURES // BLOCK_N
    memory = rings(
        x_desc, w_desc, 2 * STAGES if WITH_MU else 1, PARTS * STAGES, STAGES, 2, PIECE,
        _ROWS if WITH_MU else BLOCK_N, BLOCK_N, TWO,
    )  # fmt: skip
    n_blocks = gl.cdiv(gl.minimum(gl.load(end_ptr), n_atoms), _ROWS)
    program = gl.program_id(0)
    place = (
        program // COLUMNS, gl.num_programs(0) // COLUMNS, n_blocks, program % COLUMNS * BLOCK_N
    )  # fmt: skip
    pointers = (g_q_ptr, a_ptr, hidden_ptr, g_hidden_ptr)
    gl.warp_specialize(
        [
            (multiply_bwd_hidden, (0, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                STAGES, 2, PRECISION, OPERAND, WITH_MU)),
            (multiply_bwd_hidden, (1, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                STAGES, 2, PRECISION, OPERAND, WITH_MU)),
            (fetch, (x_desc, w_desc, memory, place, N_PIECES, N_FEATURES, N_FEATURES, PARTS, 0,
                N_FEATURES, 3 - PARTS, PIECE, STAGES, 2, WITH_MU, TWO)),
        ],
        [4, 1], [REGISTERS, FETCHING],
    )  # fmt: skip


def bwd_hidden_by_warpgroups(
    g_q: Tensor,
    g_a_mu: Tensor | None,
    a: Tensor,
    hidden: Tensor,
    w: Tensor,
    g_hidden: Tensor,
    end: Tensor,
    groups: Groups,
    *,
    precision: str,
    operand: str,
) -> None:
    """Write g_hidden, as `update_bwd.update_bwd_hidden_kernel` does, whose arguments these are."""
    n_atoms, n_features = g_q.shape
    registers = room(2)
    weights = described(w.view(-1, 3 * n_features), groups.columns, groups.k)
    rows = weights if g_a_mu is None else described(g_a_mu.view(n_atoms, -1), ROWS, groups.k)
    bwd_hidden_warpgroups_kernel[(programs(n_features, groups),)](
        rows,
        weights,
        g_q,
        a,
        hidden,
        g_hidden,
        end,
        n_atoms,
        N_FEATURES=n_features,
        BLOCK_N=groups.columns,
        PIECE=groups.k,
        STAGES=groups.stages,
        REGISTERS=registers.multiplying,
        FETCHING=FETCHING,
        PRECISION=precision,
        OPERAND=operand,
        WITH_MU=g_a_mu is not None,
        num_warps=4,
        maxnreg=registers.at_launch,
    )
