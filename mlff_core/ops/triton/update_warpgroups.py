# mypy: disable-error-code="arg-type, assignment, call-arg, has-type, list-item, no-untyped-def"
# mypy: disable-error-code="operator, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The update block's products by warpgroups. Meaning: the kernels of the same name in update.py."""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from mlff_core.ops.plain import NORM_FLOOR
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
_NORM_FLOOR = gl.constexpr(NORM_FLOOR)


@gluon.jit
def multiply_hidden(
    WHO: gl.constexpr, memory, place, pointers, n_atoms,
    N_FEATURES: gl.constexpr, BLOCK_N: gl.constexpr, PIECE: gl.constexpr, STAGES: gl.constexpr,
    WORKERS: gl.constexpr, PRECISION: gl.constexpr,
):  # fmt: skip
    """What one warpgroup does: make its rows of q and of norms, multiply, and leave the result.

    Args:
        WHO: Which warpgroup.
        memory, place: As in `warpgroups.fetch`; rows are not fetched.
        pointers: q, uv, b, hidden and silu; these and others: as in `hidden_warpgroups_kernel`.
    """
    _, _, w_high, w_low, there, free, _ = memory
    group, n_groups, n_blocks, first_n = place
    q_ptr, uv_ptr, b_ptr, hidden_ptr, silu_ptr = pointers
    N_PIECES: gl.constexpr = N_FEATURES // PIECE
    PIECES: gl.constexpr = 1 if PRECISION == "fp16" else 2
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
        q = q_ptr + made * N_FEATURES + k
        v = uv_ptr + made * (6 * N_FEATURES) + N_FEATURES + k
        acc = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        # The next piece is read while this one is multiplied.
        next_q = gl.load(q, mask=here, other=0.0)
        for j in range(N_PIECES):
            high, low = split(next_q, PRECISION)
            more = here & (j + 1 < N_PIECES)
            next_q = gl.load(q + (j + 1) * PIECE, mask=more, other=0.0)
            slot = i % STAGES
            mbarrier.wait(there.index(slot), (i // STAGES) & 1)
            w_at = slot if PIECES == 2 else 0
            acc = times(
                high, low, w_high.index(slot), w_low.index(w_at), acc, BLOCK_N, LAYOUT, PRECISION
            )
            acc = settled(acc, PRECISION)
            mbarrier.arrive(free.index(slot), count=1)
            i += 1
        next_x = gl.load(v, mask=here, other=0.0)
        next_y = gl.load(v + 2 * N_FEATURES, mask=here, other=0.0)
        next_z = gl.load(v + 4 * N_FEATURES, mask=here, other=0.0)
        for j in range(N_PIECES):
            norm = gl.sqrt(next_x * next_x + next_y * next_y + next_z * next_z + _NORM_FLOOR)
            high, low = split(norm, PRECISION)
            more = here & (j + 1 < N_PIECES)
            next_v = v + (j + 1) * PIECE
            next_x = gl.load(next_v, mask=more, other=0.0)
            next_y = gl.load(next_v + 2 * N_FEATURES, mask=more, other=0.0)
            next_z = gl.load(next_v + 4 * N_FEATURES, mask=more, other=0.0)
            slot = i % STAGES
            mbarrier.wait(there.index(slot), (i // STAGES) & 1)
            w_at = slot if PIECES == 2 else 0
            acc = times(
                high, low, w_high.index(slot), w_low.index(w_at), acc, BLOCK_N, LAYOUT, PRECISION
            )
            acc = settled(acc, PRECISION)
            mbarrier.arrive(free.index(slot), count=1)
            i += 1
        rows = first + gl.arange(0, _ROWS, layout=gl.SliceLayout(1, LAYOUT))
        real = gl.expand_dims(rows, 1) < n_atoms
        wide = gl.expand_dims(rows.to(gl.int64), 1)
        acc += gl.expand_dims(gl.load(b_ptr + n), 0)
        f = gl.expand_dims(n, 0)
        gl.store(hidden_ptr + wide * N_FEATURES + f, acc, mask=real)
        silu = silu_ptr + wide * (PIECES * N_FEATURES) + f
        store_operand(silu, acc * sigmoid(acc), real, N_FEATURES, PRECISION)


@gluon.jit(do_not_specialize=["n_atoms"], repr=lambda call: "update_hidden_kernel")
def hidden_warpgroups_kernel(
    w_desc,  # pieces of [N_FEATURES, 2 N_FEATURES]
    q_ptr,  # [n_atoms, N_FEATURES]
    uv_ptr,  # [n_atoms, 3, 2 N_FEATURES]
    b_ptr,  # [N_FEATURES]
    hidden_ptr,  # [n_atoms, N_FEATURES]
    silu_ptr,  # operand [n_atoms, PIECES, N_FEATURES]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,  # of a thread that multiplies
    FETCHING: gl.constexpr,  # of one that fetches
    PRECISION: gl.constexpr,
):
    TWO: gl.constexpr = PRECISION != "fp16"
    N_PIECES: gl.constexpr = 2 * N_FEATURES // PIECE
    COLUMNS: gl.constexpr = N_FEATURES // BLOCK_N
    memory = rings(w_desc, w_desc, 1, STAGES, STAGES, 2, PIECE, BLOCK_N, BLOCK_N, TWO)
    n_blocks = gl.cdiv(gl.minimum(gl.load(end_ptr), n_atoms), _ROWS)
    program = gl.program_id(0)
    place = (
        program // COLUMNS, gl.num_programs(0) // COLUMNS, n_blocks, program % COLUMNS * BLOCK_N
    )  # fmt: skip
    pointers = (q_ptr, uv_ptr, b_ptr, hidden_ptr, silu_ptr)
    gl.warp_specialize(
        [
            (multiply_hidden, (0, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                STAGES, 2, PRECISION)),
            (multiply_hidden, (1, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                STAGES, 2, PRECISION)),
            (fetch, (w_desc, w_desc, memory, place, N_PIECES, 0, N_FEATURES, 1, 0, 0, 0, PIECE,
                STAGES, 2, False, TWO)),
        ],
        [4, 1], [REGISTERS, FETCHING],
    )  # fmt: skip


@gluon.jit
def multiply_out(
    WHO: gl.constexpr, memory, place, pointers, n_atoms,
    N_FEATURES: gl.constexpr, BLOCK_N: gl.constexpr, PIECE: gl.constexpr, STAGES: gl.constexpr,
    WORKERS: gl.constexpr, PRECISION: gl.constexpr, WITH_MU: gl.constexpr,
):  # fmt: skip
    """What one warpgroup does: multiply its rows, mix with them what is elementwise, and leave it.

    Args:
        WHO: Which warpgroup.
        memory, place: As in `warpgroups.fetch`.
        pointers: q, mu, uv, b, a, q_out and mu_out; these and others: as in
            `out_warpgroups_kernel`.
    """
    x_high, x_low, w_high, w_low, there, free, _ = memory
    group, n_groups, n_blocks, first_n = place
    q_ptr, mu_ptr, uv_ptr, b_ptr, a_ptr, q_out_ptr, mu_out_ptr = pointers
    TWO: gl.constexpr = PRECISION != "fp16"
    PARTS: gl.constexpr = 3 if WITH_MU else 2
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16]
    )
    n = first_n + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, LAYOUT))
    i = 0
    for tile in range(group, gl.cdiv(n_blocks, WORKERS), n_groups):
        a_mu = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        a_q_mu = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        a_q = gl.zeros([_ROWS, BLOCK_N], gl.float32, layout=LAYOUT)
        for _piece in range(N_FEATURES // PIECE):
            slot = i % STAGES
            mbarrier.wait(there.index(slot), (i // STAGES) & 1)
            high = x_high.index(slot * WORKERS + WHO)
            low = x_low.index(slot * WORKERS + WHO if TWO else 0)
            at = slot * PARTS
            if WITH_MU:
                a_mu = times(
                    high, low, w_high.index(at), w_low.index(at if TWO else 0), a_mu,
                    BLOCK_N, LAYOUT, PRECISION,
                )  # fmt: skip
                at += 1
            a_q_mu = times(
                high, low, w_high.index(at), w_low.index(at if TWO else 0), a_q_mu,
                BLOCK_N, LAYOUT, PRECISION,
            )  # fmt: skip
            at += 1
            a_q = times(
                high, low, w_high.index(at), w_low.index(at if TWO else 0), a_q,
                BLOCK_N, LAYOUT, PRECISION,
            )  # fmt: skip
            if WITH_MU:
                a_mu = settled(a_mu, PRECISION)
            a_q_mu = settled(a_q_mu, PRECISION)
            a_q = settled(a_q, PRECISION)
            mbarrier.arrive(free.index(slot), count=1)
            i += 1
        first = (tile * WORKERS + WHO) * _ROWS
        rows = first + gl.arange(0, _ROWS, layout=gl.SliceLayout(1, LAYOUT))
        real = gl.expand_dims(rows, 1) < n_atoms
        wide = gl.expand_dims(rows.to(gl.int64), 1)
        f = gl.expand_dims(n, 0)
        a_q_mu += gl.expand_dims(gl.load(b_ptr + N_FEATURES + n), 0)
        a_q += gl.expand_dims(gl.load(b_ptr + 2 * N_FEATURES + n), 0)
        u = uv_ptr + wide * (6 * N_FEATURES) + f
        ux = gl.load(u, mask=real, other=0.0)
        uy = gl.load(u + 2 * N_FEATURES, mask=real, other=0.0)
        uz = gl.load(u + 4 * N_FEATURES, mask=real, other=0.0)
        inner = ux * gl.load(u + N_FEATURES, mask=real, other=0.0)
        inner += uy * gl.load(u + 3 * N_FEATURES, mask=real, other=0.0)
        inner += uz * gl.load(u + 5 * N_FEATURES, mask=real, other=0.0)
        scalar = wide * N_FEATURES + f
        q = gl.load(q_ptr + scalar, mask=real, other=0.0)
        gl.store(q_out_ptr + scalar, q + a_q + a_q_mu * inner, mask=real)
        a = a_ptr + wide * (3 * N_FEATURES) + f
        gl.store(a + N_FEATURES, a_q_mu, mask=real)
        gl.store(a + 2 * N_FEATURES, inner, mask=real)
        if WITH_MU:
            a_mu += gl.expand_dims(gl.load(b_ptr + n), 0)
            gl.store(a, a_mu, mask=real)
            vector = wide * (3 * N_FEATURES) + f
            mx = gl.load(mu_ptr + vector, mask=real, other=0.0)
            gl.store(mu_out_ptr + vector, mx + a_mu * ux, mask=real)
            vector += N_FEATURES
            my = gl.load(mu_ptr + vector, mask=real, other=0.0)
            gl.store(mu_out_ptr + vector, my + a_mu * uy, mask=real)
            vector += N_FEATURES
            mz = gl.load(mu_ptr + vector, mask=real, other=0.0)
            gl.store(mu_out_ptr + vector, mz + a_mu * uz, mask=real)


@gluon.jit(do_not_specialize=["n_atoms"], repr=lambda call: "update_out_kernel")
def out_warpgroups_kernel(
    x_desc,  # operand [n_atoms, PIECES · N_FEATURES]
    w_desc,  # pieces of [3 N_FEATURES, N_FEATURES]
    q_ptr,  # [n_atoms, N_FEATURES]
    mu_ptr,  # [n_atoms, 3, N_FEATURES], unused without WITH_MU
    uv_ptr,  # [n_atoms, 3, 2 N_FEATURES]
    b_ptr,  # [3 N_FEATURES]
    a_ptr,  # [n_atoms, 3 N_FEATURES]
    q_out_ptr,  # [n_atoms, N_FEATURES]
    mu_out_ptr,  # [n_atoms, 3, N_FEATURES]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr,
    STAGES: gl.constexpr,
    WORKERS: gl.constexpr,
    REGISTERS: gl.constexpr,  # of a thread that multiplies
    FETCHING: gl.constexpr,  # of one that fetches
    PRECISION: gl.constexpr,
    WITH_MU: gl.constexpr,
):
    TWO: gl.constexpr = PRECISION != "fp16"
    N_PIECES: gl.constexpr = N_FEATURES // PIECE
    PARTS: gl.constexpr = 3 if WITH_MU else 2
    COLUMNS: gl.constexpr = N_FEATURES // BLOCK_N
    memory = rings(
        x_desc, w_desc, WORKERS * STAGES, PARTS * STAGES, STAGES, WORKERS, PIECE, _ROWS, BLOCK_N,
        TWO,
    )  # fmt: skip
    n_blocks = gl.cdiv(gl.minimum(gl.load(end_ptr), n_atoms), _ROWS)
    program = gl.program_id(0)
    place = (
        program // COLUMNS, gl.num_programs(0) // COLUMNS, n_blocks, program % COLUMNS * BLOCK_N
    )  # fmt: skip
    pointers = (q_ptr, mu_ptr, uv_ptr, b_ptr, a_ptr, q_out_ptr, mu_out_ptr)
    if WORKERS == 2:
        gl.warp_specialize(
            [
                (multiply_out, (0, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                    STAGES, WORKERS, PRECISION, WITH_MU)),
                (multiply_out, (1, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                    STAGES, WORKERS, PRECISION, WITH_MU)),
                (fetch, (x_desc, w_desc, memory, place, N_PIECES, N_FEATURES, 3 * N_FEATURES, PARTS,
                    N_FEATURES, 0, 3 - PARTS, PIECE, STAGES, WORKERS, True, TWO)),
            ],
            [4, 1], [REGISTERS, FETCHING],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (multiply_out, (0, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                    STAGES, WORKERS, PRECISION, WITH_MU)),
                (multiply_out, (1, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                    STAGES, WORKERS, PRECISION, WITH_MU)),
                (multiply_out, (2, memory, place, pointers, n_atoms, N_FEATURES, BLOCK_N, PIECE,
                    STAGES, WORKERS, PRECISION, WITH_MU)),
                (fetch, (x_desc, w_desc, memory, place, N_PIECES, N_FEATURES, 3 * N_FEATURES, PARTS,
                    N_FEATURES, 0, 3 - PARTS, PIECE, STAGES, WORKERS, True, TWO)),
            ],
            [4, 4, 1], [REGISTERS, REGISTERS, FETCHING],
        )  # fmt: skip


def hidden_by_warpgroups(
    q: Tensor,
    uv: Tensor,
    w: Tensor,
    b: Tensor,
    hidden: Tensor,
    silu: Tensor,
    end: Tensor,
    groups: Groups,
    *,
    precision: str,
) -> None:
    """Write hidden and silu, as `update.update_hidden_kernel` does, whose arguments these are."""
    n_atoms, n_features = q.shape
    registers = room(2)
    hidden_warpgroups_kernel[(programs(n_features, groups),)](
        described(w.view(-1, 2 * n_features), groups.columns, groups.k),
        q,
        uv,
        b,
        hidden,
        silu,
        end,
        n_atoms,
        N_FEATURES=n_features,
        BLOCK_N=groups.columns,
        PIECE=groups.k,
        STAGES=groups.stages,
        REGISTERS=registers.multiplying,
        FETCHING=FETCHING,
        PRECISION=precision,
        num_warps=4,
        maxnreg=registers.at_launch,
    )


def out_by_warpgroups(
    q: Tensor,
    mu: Tensor | None,
    uv: Tensor,
    silu: Tensor,
    w: Tensor,
    b: Tensor,
    a: Tensor,
    q_out: Tensor,
    mu_out: Tensor | None,
    end: Tensor,
    groups: Groups,
    *,
    precision: str,
) -> None:
    """Write a, q_out and mu_out, as `update.update_out_kernel` does, whose arguments these are."""
    n_atoms, n_features = q.shape
    registers = room(groups.workers)
    out_warpgroups_kernel[(programs(n_features, groups),)](
        described(silu.view(n_atoms, -1), ROWS, groups.k),
        described(w.view(-1, n_features), groups.columns, groups.k),
        q,
        q if mu is None else mu,
        uv,
        b,
        a,
        q_out,
        q if mu_out is None else mu_out,
        end,
        n_atoms,
        N_FEATURES=n_features,
        BLOCK_N=groups.columns,
        PIECE=groups.k,
        STAGES=groups.stages,
        WORKERS=groups.workers,
        REGISTERS=registers.multiplying,
        FETCHING=FETCHING,
        PRECISION=precision,
        WITH_MU=mu_out is not None,
        num_warps=4,
        maxnreg=registers.at_launch,
    )
