# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Messages: gather from the neighbours, multiply by the filter, reduce. Back: message_bwd.py.

Meaning: plain.message_fwd, the filter taken from `triton.spline`.

A program takes a few atoms and some of their features, and walks the atoms' rows of pairs; each row
of its tiles is a pair, of several atoms or of one. Nothing of the shape [n_edges, n_features] ever
exists.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.filters import FilterTable
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.operand import new_operand, store_operand
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.spline import spline_weights
from mlff_core.ops.triton.tiles import launch_of

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def filter_tile(knot, weights, DEGREE: tl.constexpr, ROW: tl.constexpr):
    """The filter of each pair [n, BLOCK_F]: weights [n] times rows of the table, added up."""
    W = tl.load(knot) * column(weights[0])
    for m in tl.static_range(1, DEGREE + 1):
        W += tl.load(knot + m * ROW) * column(weights[m])
    return W


@triton.jit
def load_four(x, there):
    """Four float32 that begin at each address, which is a multiple of 16 bytes; 0 if not there.

    At an address alone in one access, where loads one by one would be four. Of several addresses
    that access would stay in the loop once for every layout that the compiler has tried.
    """
    if _INTERPRETED or len(x.shape) != 0:
        first = tl.load(x, mask=there, other=0.0)
        second = tl.load(x + 1, mask=there, other=0.0)
        third = tl.load(x + 2, mask=there, other=0.0)
        return first, second, third, tl.load(x + 3, mask=there, other=0.0)
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .pred there;
            setp.ne.s32 there, $5, 0;
            mov.f32 $0, 0f00000000;
            mov.f32 $1, 0f00000000;
            mov.f32 $2, 0f00000000;
            mov.f32 $3, 0f00000000;
            @there ld.global.v4.f32 {$0, $1, $2, $3}, [$4];
            }""",
            "=f,=f,=f,=f,l,r",
            [x, there.to(tl.int32)],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )


@triton.jit
def load_pair(j_ptr, geometry_ptr, place, there, listed, own, N_GEOMETRY: tl.constexpr):
    """Neighbour, unit vector and distance [n]; the atom itself at 1 Å where no pair is listed.

    Read is where the row has a place, so that reading need not wait for the number of pairs.
    """
    b = tl.load(j_ptr + place, mask=there, other=0)
    ux, uy, uz, d = load_four(geometry_ptr + place * N_GEOMETRY, there)
    # Nothing is made of a pair alone that is not listed.
    if len(place.shape) == 0:
        return b.to(tl.int64), ux, uy, uz, d
    b = tl.where(listed, b, own).to(tl.int64)
    ux = tl.where(listed, ux, 0.0)
    uy = tl.where(listed, uy, 0.0)
    uz = tl.where(listed, uz, 0.0)
    return b, ux, uy, uz, tl.where(listed, d, 1.0)


@triton.jit
def column(x):
    """What each pair has, as a factor of tiles [n, BLOCK_F]; of a pair alone it is a number."""
    if len(x.shape) == 0:
        return x
    else:
        return x[:, None]


@triton.jit
def gather(x, listed):
    """What a neighbour says; 0 where no pair is listed, so that the rest may take any value.

    A pair alone is listed.
    """
    if len(listed.shape) == 0:
        return tl.load(x)
    else:
        return tl.load(x, mask=listed[:, None], other=0.0)


@triton.jit
def places(ATOMS: tl.constexpr, SPLIT: tl.constexpr):
    """Atom of each pair that is worked on side by side, and which of its pairs come first [n].

    Numbers where there is one pair at a time: tensors of one would be kept, and computed, once for
    every layout of what they are multiplied by.
    """
    if ATOMS * SPLIT == 1:
        return tl.program_id(0), 0
    else:
        lane = tl.arange(0, ATOMS * SPLIT)
        return tl.program_id(0) * ATOMS + lane // SPLIT, lane % SPLIT


@triton.jit
def most(count):
    """The largest of the pairs' numbers of rounds."""
    if len(count.shape) == 0:
        return count
    else:
        return tl.max(count, 0)


@triton.jit
def over_pairs(x, ATOMS: tl.constexpr, SPLIT: tl.constexpr, BLOCK_F: tl.constexpr):
    """Sum over the pairs of an atom that are worked on side by side [ATOMS, BLOCK_F]."""
    if SPLIT == 1:
        return x
    else:
        return tl.sum(tl.reshape(x, [ATOMS, SPLIT, BLOCK_F]), 1)


@triton.jit(do_not_specialize=["n_atoms"])
def message_fwd_kernel(
    phi_ptr,  # [n_atoms, 3 n_features]; without HAS_MU [n_kinds, 2 n_features]
    mu_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    q_ptr,  # [n_atoms, n_features]
    table_ptr,  # [n_knots, 3 n_features]
    kind_ptr,  # int32 [n_atoms]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    end_ptr,  # int32 [1]
    q_out_ptr,  # [n_atoms, n_features]
    mu_out_ptr,  # [n_atoms, 3, n_features], unused without WITH_MU
    operand_ptr,  # operand [3 n_atoms, n_pieces, n_features]
    n_atoms,
    stride,  # of a row
    inverse_knot,  # 1 / distance of two knots
    n_intervals,
    N_FEATURES: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    DEGREE: tl.constexpr,
    HAS_MU: tl.constexpr,
    WITH_MU: tl.constexpr,
    PRODUCTS: tl.constexpr,  # precision of those that take the operand
    ATOMS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_F: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * ATOMS, end_ptr, OVERLAP):
        return
    # Without vectors there is nothing for the last third of phi to multiply, and it is left out.
    PHI: tl.constexpr = 3 * N_FEATURES if HAS_MU else 2 * N_FEATURES
    ROW: tl.constexpr = 3 * N_FEATURES
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    atom, first = places(ATOMS, SPLIT)
    count = tl.load(count_ptr + atom, mask=atom < n_atoms, other=0) - first
    own = tl.minimum(atom, n_atoms - 1)
    row = own.to(tl.int64) * stride + first
    dq = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    dx = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    dy = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    dz = tl.zeros([ATOMS * SPLIT, BLOCK_F], tl.float32)
    # The next pair is fetched while this one is worked on.
    b, ux, uy, uz, d = load_pair(
        j_ptr, geometry_ptr, row, first < stride, count > 0, own, N_GEOMETRY
    )
    for e in range(0, most(count), SPLIT):
        next_listed = e + SPLIT < count
        next_b, next_ux, next_uy, next_uz, next_d = load_pair(
            j_ptr, geometry_ptr, row + e + SPLIT, next_listed, next_listed, own, N_GEOMETRY
        )
        x = d * inverse_knot
        interval = tl.minimum(tl.floor(x), n_intervals - 1.0)
        weights, _ = spline_weights(x - interval, DEGREE)
        listed = e < count
        knot = table_ptr + column(interval.to(tl.int32)) * ROW + f
        said = b if HAS_MU else tl.load(kind_ptr + b).to(tl.int64)
        phi = phi_ptr + column(said) * PHI + f
        W = filter_tile(knot, weights, DEGREE, ROW)
        dq += gather(phi, listed) * W
        W = filter_tile(knot + N_FEATURES, weights, DEGREE, ROW)
        x2 = gather(phi + N_FEATURES, listed) * W
        dx += x2 * column(ux)
        dy += x2 * column(uy)
        dz += x2 * column(uz)
        if HAS_MU:
            mu = mu_ptr + column(b) * (3 * N_FEATURES) + f
            W = filter_tile(knot + 2 * N_FEATURES, weights, DEGREE, ROW)
            x3 = gather(phi + 2 * N_FEATURES, listed) * W
            dx += x3 * tl.load(mu)
            dy += x3 * tl.load(mu + N_FEATURES)
            dz += x3 * tl.load(mu + 2 * N_FEATURES)
        b, ux, uy, uz, d = next_b, next_ux, next_uy, next_uz, next_d
    let_next_begin(OVERLAP)
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    real = atom[:, None] < n_atoms
    scalar = atom.to(tl.int64)[:, None] * N_FEATURES + f
    vector = atom.to(tl.int64)[:, None] * (3 * N_FEATURES) + f
    q = over_pairs(dq, ATOMS, SPLIT, BLOCK_F) + tl.load(q_ptr + scalar, mask=real, other=0.0)
    x = over_pairs(dx, ATOMS, SPLIT, BLOCK_F)
    y = over_pairs(dy, ATOMS, SPLIT, BLOCK_F)
    z = over_pairs(dz, ATOMS, SPLIT, BLOCK_F)
    if HAS_MU:
        x += tl.load(mu_ptr + vector, mask=real, other=0.0)
        y += tl.load(mu_ptr + vector + N_FEATURES, mask=real, other=0.0)
        z += tl.load(mu_ptr + vector + 2 * N_FEATURES, mask=real, other=0.0)
    tl.store(q_out_ptr + scalar, q, mask=real)
    if WITH_MU:
        tl.store(mu_out_ptr + vector, x, mask=real)
        tl.store(mu_out_ptr + vector + N_FEATURES, y, mask=real)
        tl.store(mu_out_ptr + vector + 2 * N_FEATURES, z, mask=real)
    PIECE: tl.constexpr = N_FEATURES if PRODUCTS == "fp16" else 2 * N_FEATURES
    operand = operand_ptr + atom.to(tl.int64)[:, None] * (3 * PIECE) + f
    store_operand(operand, x, real, N_FEATURES, PRODUCTS)
    store_operand(operand + PIECE, y, real, N_FEATURES, PRODUCTS)
    store_operand(operand + 2 * PIECE, z, real, N_FEATURES, PRODUCTS)


def message_fwd(
    phi: Tensor,
    mu: Tensor | None,
    q: Tensor,
    rows: PairRows,
    table: FilterTable,
    *,
    with_mu: bool,
    products: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """q + dq [n_atoms, n_features], and mu + dmu as an operand, and as it is.

    The operand has 3 n_atoms rows; as it is, mu + dmu is [n_atoms, 3, n_features], or None without
    `with_mu`.

    Args:
        phi: What each atom says [n_atoms, 3 n_features]; where there is no mu, what each kind of
            atom says, only the first two thirds of it [n_kinds, 2 n_features].
        mu: Vector features [n_atoms, 3, n_features]; None for the first block, where they are 0.
        q: Scalar features [n_atoms, n_features].
        rows: The pairs.
        table: Of the block's filters.
        with_mu: Whether anything but products reads the vectors.
        products: How those are computed that take the operand.
    """
    n_atoms, n_features = q.shape
    q_out = torch.empty_like(q)
    mu_out = q.new_empty(n_atoms, 3, n_features) if with_mu else None
    operand = new_operand(3 * n_atoms, n_features, products, q.device)
    launch = launch_of("message_fwd", n_atoms, n_features)
    block_f = launch.features
    message_fwd_kernel[(triton.cdiv(n_atoms, launch.atoms), n_features // block_f)](
        phi,
        phi if mu is None else mu,
        q,
        table.rows,
        rows.kind,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        rows.end,
        q_out,
        q if mu_out is None else mu_out,
        operand,
        n_atoms,
        rows.j.shape[1],
        table.inverse_knot,
        table.n_intervals,
        N_FEATURES=n_features,
        N_GEOMETRY=N_GEOMETRY,
        DEGREE=table.degree,
        HAS_MU=mu is not None,
        WITH_MU=with_mu,
        PRODUCTS=products,
        BLOCK_F=block_f,
        **launch.options,
        **overlap(n_atoms),
    )
    return q_out, operand, mu_out
