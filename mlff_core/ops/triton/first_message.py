# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The first block's messages as products of matrices. The way back: first_message_bwd.py.

Meaning: `message.message_fwd` without vectors. In the first block a neighbour says what its element
z and the molecule's charge decide, phi[z], and a filter is a sum over radial functions b_k. So

    dq_i = Σ_j phi1[z_j] (F1 b(d_ij)) = Σ_z Σ_k (phi1[z] F1_k) s_i[z, k],
    s_i[z, k] = Σ over neighbours j of the element z of b_k(d_ij),

and dmu likewise from t_i[z, k] = Σ_j b_k(d_ij) unit_ij: a walk over pairs of as many numbers as
there are radial functions, and a product of matrices whose weights are the same for all atoms of
molecules of one charge.

Elements have places in the order of how common they are, two to a chunk, and an atom has chunks up
to the last one that a neighbour of it is in: products end there.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.filters import FilterTable, spline_table
from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.message import filter_tile, load_pair
from mlff_core.ops.triton.operand import (
    dot_16,
    load_operand,
    load_weights,
    new_operand,
    product,
    split_weights,
    store_operand,
)
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.spline import spline_weights
from mlff_core.ops.triton.tiles import piece_grid, row_class, tile_options

#: Columns that an element has, most radial functions (and the envelope) that there may be.
COLUMNS = 32
#: Columns of a chunk, two elements.
CHUNK = 64
#: Atomic numbers by how common they are in molecules; others come after.
COMMON = (1, 6, 7, 8, 9, 16, 17, 15, 35, 53)
#: Class of the number of atoms -> features from which on products are sooner done than a walk. With
#: 128 features both take as long, and where atoms are few a walk is one kernel in place of three.
SOONER = {"large": 256}
#: Pairs of an atom that are worked on side by side.
PAIRS = 16

_CHUNK = tl.constexpr(CHUNK)


class FirstWeights(NamedTuple):
    """Weights of the first block's messages, laid out for the kernels.

    Attributes:
        basis: Splines of the radial functions, COLUMNS columns.
        place: Place of each element among the columns, int32 [n_elements].
        w: What makes dq, and what makes dmu, for each charge, split in two
            [n_charges, 2, 2, n_features, n_columns].
        w_t: Of the transposes [n_charges, 2, 2, n_columns, n_features].
        precision: How products are computed, forward and backward.
    """

    basis: FilterTable
    place: Tensor
    w: Tensor
    w_t: Tensor
    precision: tuple[str, str]

    @property
    def n_charges(self) -> int:
        """Charges that molecules may have."""
        return len(self.w)

    @property
    def n_columns(self) -> int:
        """Columns of all elements, a whole number of chunks."""
        return self.w.shape[-1]

    @classmethod
    def make(
        cls,
        elements: tuple[int, ...],
        phi: Tensor,
        filters: Tensor,
        cutoff: float,
        splines: tuple[int, int],
        precision: tuple[str, str],
    ) -> "FirstWeights | None":
        """Laid out; None where there are more radial functions than an element has columns.

        Args:
            elements: Atomic numbers of the model's elements.
            phi: What each kind of atom says, from `phi_of_kinds`, in float64
                [n_elements * n_charges, 2 n_features].
            filters: The block's [3 n_features, n_rbf + 1], the bias last.
            cutoff: Å.
            splines: Degree of the splines and number of intervals.
            precision: How products are computed, forward and backward.
        """
        n_basis, n_features = filters.shape[1], filters.shape[0] // 3
        n_charges = len(phi) // len(elements)
        if n_basis > COLUMNS:
            return None
        rank = {z: k for k, z in enumerate(COMMON)}
        order = sorted(range(len(elements)), key=lambda e: (rank.get(elements[e], 99), elements[e]))
        place = torch.empty(len(elements), dtype=torch.int32)
        place[order] = torch.arange(len(elements), dtype=torch.int32)
        n_columns = -(-len(elements) * COLUMNS // CHUNK) * CHUNK
        said = phi.double().cpu().view(len(elements), n_charges, 2, n_features)[order]
        used = filters.double().cpu()[: 2 * n_features].view(2, n_features, n_basis)
        # [n_charges, 2, n_features, n_elements, n_basis]
        whole = torch.einsum("ecgf,gfk->cgfek", said, used)
        columns = torch.zeros(n_charges, 2, n_features, n_columns, dtype=torch.float64)
        for e in range(len(elements)):
            columns[..., e * COLUMNS : e * COLUMNS + n_basis] = whole[..., e, :]
        w = columns.to(filters.dtype).to(filters.device)
        unit = torch.zeros(COLUMNS, n_basis, dtype=filters.dtype, device=filters.device)
        unit[:n_basis] = torch.eye(n_basis, dtype=filters.dtype, device=filters.device)
        forward, backward = precision
        return cls(
            spline_table(unit, cutoff, *splines),
            place.to(filters.device),
            split_weights(w, forward).permute(1, 2, 0, 3, 4).contiguous(),
            split_weights(w.transpose(2, 3), backward).permute(1, 2, 0, 3, 4).contiguous(),
            precision,
        )


def worth_it(n_atoms: int, n_features: int) -> bool:
    """Whether products are the sooner way for so many atoms of so many features."""
    least = SOONER.get(row_class(n_atoms))
    return least is not None and n_features >= least


@triton.jit(do_not_specialize=["n_atoms"])
def element_sums_kernel(
    kind_ptr,  # int32 [n_atoms]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    place_ptr,  # int32 [n_elements]
    table_ptr,  # [n_knots, COLUMNS]
    end_ptr,  # int32 [1]
    s_ptr,  # operand [n_atoms, n_pieces, n_columns]
    t_ptr,  # operand [3 n_atoms, n_pieces, n_columns]
    reach_ptr,  # int32 [n_atoms]
    n_atoms,
    stride,
    n_charges,
    inverse_knot,
    n_intervals,
    N_COLUMNS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLACES: tl.constexpr,  # a power of two
    PAIRS: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    DEGREE: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0), end_ptr, OVERLAP):
        return
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    IN_CHUNK: tl.constexpr = _CHUNK // COLUMNS
    atom = tl.program_id(0)
    own = atom.to(tl.int64)
    count = tl.load(count_ptr + atom)
    row = own * stride
    lane = tl.arange(0, PAIRS)
    k = tl.arange(0, COLUMNS)[None, :]
    places = tl.arange(0, PLACES)
    s = tl.zeros([PLACES, COLUMNS], tl.float32)
    tx = tl.zeros([PLACES, COLUMNS], tl.float32)
    ty = tl.zeros([PLACES, COLUMNS], tl.float32)
    tz = tl.zeros([PLACES, COLUMNS], tl.float32)
    reach = tl.full([PAIRS], 0, tl.int32)
    for start in range(0, count, PAIRS):
        e = start + lane
        listed = e < count
        b, ux, uy, uz, d = load_pair(j_ptr, geometry_ptr, row + e, listed, listed, own, N_GEOMETRY)
        place = tl.load(place_ptr + tl.load(kind_ptr + b) // n_charges)
        reach = tl.maximum(reach, tl.where(listed, place // IN_CHUNK + 1, 0))
        x = d * inverse_knot
        interval = tl.minimum(tl.floor(x), n_intervals - 1.0)
        weights, _ = spline_weights(x - interval, DEGREE)
        W = filter_tile(
            table_ptr + interval.to(tl.int32)[:, None] * COLUMNS + k, weights, DEGREE, COLUMNS
        )
        is_there = ((places[:, None] == place[None, :]) & listed[None, :]).to(tl.float16)
        s = sum_up(is_there, W, s)
        tx = sum_up(is_there, W * ux[:, None], tx)
        ty = sum_up(is_there, W * uy[:, None], ty)
        tz = sum_up(is_there, W * uz[:, None], tz)
    let_next_begin(OVERLAP)
    last = tl.max(reach, 0)
    tl.store(reach_ptr + atom, last)
    at = places[:, None] * COLUMNS + k
    there = at < last * _CHUNK
    s_out = s_ptr + own * (PIECES * N_COLUMNS) + at
    store_operand(s_out, s, there, N_COLUMNS, PRECISION)
    t_out = t_ptr + own * (3 * PIECES * N_COLUMNS) + at
    store_operand(t_out, tx, there, N_COLUMNS, PRECISION)
    store_operand(t_out + PIECES * N_COLUMNS, ty, there, N_COLUMNS, PRECISION)
    store_operand(t_out + 2 * PIECES * N_COLUMNS, tz, there, N_COLUMNS, PRECISION)


@triton.jit
def sum_up(is_there, x, acc):
    """acc + is_there · x, of 0 and 1 and numbers near 1: two float16 hold these to 3e-8."""
    high = x.to(tl.float16)
    acc = dot_16(is_there, (x - high.to(tl.float32)).to(tl.float16), acc)
    return dot_16(is_there, high, acc)


@triton.jit(
    do_not_specialize=["n_rows"], repr=lambda call: f"by_elements_{call.constants['ATOM_ROWS']}"
)
def by_elements_kernel(
    x_ptr,  # operand [n_rows, n_pieces, N_IN]
    w_ptr,  # [n_charges, 2, 2, N_OUT, N_IN], the first or the second of the second axis
    other_ptr,  # added [n_rows, N_OUT], unused without ADD
    kind_ptr,  # int32 [n_atoms]
    reach_ptr,  # int32 [n_atoms]
    end_ptr,  # int32 [1]
    y_ptr,  # [n_rows, N_OUT], unused without KEEP
    operand_ptr,  # y as an operand [n_rows, n_pieces, N_OUT], unused without PRODUCTS
    n_rows,
    n_charges,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    ATOM_ROWS: tl.constexpr,  # of an atom, side by side
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    ADD: tl.constexpr,
    KEEP: tl.constexpr,
    PRODUCTS: tl.constexpr,  # precision of those that take the operand, or ""
    OVERLAP: tl.constexpr,
):
    PIECE: tl.constexpr = N_OUT * N_IN
    PIECES: tl.constexpr = 1 if PRECISION == "fp16" else 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows < n_rows
    wide = rows.to(tl.int64)[:, None]
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(1) * BLOCK_M // ATOM_ROWS, end_ptr, OVERLAP):
        return
    charge = tl.load(kind_ptr + rows // ATOM_ROWS, mask=real, other=0) % n_charges
    reach = tl.load(reach_ptr + rows // ATOM_ROWS, mask=real, other=0)
    # Beyond the end nothing is written.
    real = real & (rows // ATOM_ROWS < tl.load(end_ptr))
    first = tl.min(tl.where(real, charge, n_charges), 0)
    last = tl.max(tl.where(real, charge, 0), 0)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for c in range(first, last + 1):
        columns = tl.where(real & (charge == c), reach * _CHUNK, 0)
        w_c = w_ptr + c * (4 * PIECE)
        for start in range(0, tl.max(columns, 0), BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            tile = x_ptr + wide * (PIECES * N_IN) + k[None, :]
            x = load_operand(tile, k[None, :] < columns[:, None], N_IN, PRECISION)
            w = load_weights(w_c, n, k, N_IN, PIECE)
            acc = product(x, w, acc, PRECISION)
    let_next_begin(OVERLAP)
    y = wide * N_OUT + n[None, :]
    if ADD:
        acc += tl.load(other_ptr + y, mask=real[:, None], other=0.0)
    if KEEP:
        tl.store(y_ptr + y, acc, mask=real[:, None])
    if PRODUCTS != "":
        PIECES_OUT: tl.constexpr = 1 if PRODUCTS == "fp16" else 2
        operand = operand_ptr + wide * (PIECES_OUT * N_OUT) + n[None, :]
        store_operand(operand, acc, real[:, None], N_OUT, PRODUCTS)


def first_message_fwd(
    q: Tensor, rows: PairRows, weights: FirstWeights, *, with_mu: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """q + dq [n_atoms, n_features], dmu as an operand and as it is, and what the way back needs.

    The operand, for products like these, and dmu as it is are as `message.message_fwd` gives them.
    The last is how many chunks of each atom there is anything in, int32 [n_atoms].

    Args:
        q: Scalar features [n_atoms, n_features].
        rows: The pairs.
        weights: Of the first block.
        with_mu: Whether anything but products reads the vectors.
    """
    n_atoms, n_features = q.shape
    precision, n_columns = weights.precision[0], weights.n_columns
    # Of s and t nothing is written beyond what an atom reaches.
    s = new_operand(n_atoms, n_columns, precision, q.device)
    t = new_operand(3 * n_atoms, n_columns, precision, q.device)
    reach = torch.empty(n_atoms, dtype=torch.int32, device=q.device)
    element_sums_kernel[(n_atoms,)](
        rows.kind,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        weights.place,
        weights.basis.rows,
        rows.end,
        s,
        t,
        reach,
        n_atoms,
        rows.j.shape[1],
        weights.n_charges,
        weights.basis.inverse_knot,
        weights.basis.n_intervals,
        N_COLUMNS=n_columns,
        COLUMNS=COLUMNS,
        PLACES=max(16, triton.next_power_of_2(n_columns // COLUMNS)),
        PAIRS=PAIRS,
        N_GEOMETRY=N_GEOMETRY,
        DEGREE=weights.basis.degree,
        PRECISION=precision,
        num_warps=1,
        num_stages=1,
        **overlap(n_atoms),
    )
    q_out = torch.empty_like(q)
    mu_out = q.new_empty(n_atoms, 3, n_features) if with_mu else None
    operand = new_operand(3 * n_atoms, n_features, precision, q.device)
    for which, (x, y) in enumerate(((s, q_out), (t, mu_out))):
        n_rows = len(x)
        sizes = tile_options("linear_2x1", precision, n_rows, n_features, n_features, n_columns)
        by_elements_kernel[piece_grid(n_rows, n_features, sizes)](
            x,
            weights.w[:, which],
            q,
            rows.kind,
            reach,
            rows.end,
            q if y is None else y,
            operand,
            n_rows,
            weights.n_charges,
            N_IN=n_columns,
            N_OUT=n_features,
            ATOM_ROWS=n_rows // n_atoms,
            PRECISION=precision,
            ADD=which == 0,
            KEEP=y is not None,
            PRODUCTS="" if which == 0 else precision,
            **sizes,
            **overlap(n_atoms),
        )
    return q_out, operand, mu_out, reach
