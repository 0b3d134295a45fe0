# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Readout: energy of each atom and its gradient, the sum over each molecule, and forces.

Meaning: plain.readout_fwd and plain.readout_bwd; the float64 sum and the NaN rule of
program.energy_and_forces; the sum over both ends of each pair of plain.position_gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.triton.launch import is_padding, let_next_begin, overlap, wait_for_inputs
from mlff_core.ops.triton.operand import load_weights, product, sigmoid, split
from mlff_core.ops.triton.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.triton.tiles import tile_options

#: Features of an atom that are larger are divided by a number, and the product is multiplied by it.
_LARGEST = tl.constexpr(1e4)


@triton.jit(do_not_specialize=["n_atoms"])
def readout_kernel(
    q_ptr,  # [n_atoms, n_features]
    repulsion_ptr,  # [n_atoms]
    w1_ptr,  # pieces of [N_HIDDEN, n_features]
    b1_ptr,  # [N_HIDDEN]
    w2_ptr,  # [N_HIDDEN], scaled
    w1_t_ptr,  # pieces of [n_features, N_HIDDEN]
    b2_ptr,  # [1], scaled
    atomic_ptr,  # [n_atoms]
    g_q_ptr,  # [n_atoms, n_features]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    N_HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    ONE_PIECE: tl.constexpr = BLOCK_K == N_FEATURES  # As in linear_kernel.
    PIECE: tl.constexpr = N_HIDDEN * N_FEATURES
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, N_HIDDEN)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    if ONE_PIECE:
        w = load_weights(w1_ptr, n, tl.arange(0, BLOCK_K), N_FEATURES, PIECE)
    b1 = tl.load(b1_ptr + n)[None, :]
    w2 = tl.load(w2_ptr + n)[None, :]
    wait_for_inputs(OVERLAP)
    if is_padding(tl.program_id(0) * BLOCK_M, end_ptr, OVERLAP):
        return
    # Atoms that are far too close to each other end with features that no product could take.
    largest = tl.full([BLOCK_M], 1.0, tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = tl.load(q_ptr + wide * N_FEATURES + k[None, :], mask=real, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(q), 1))
    scale = tl.minimum(1.0 / largest * _LARGEST, 1.0)[:, None]
    h = tl.zeros([BLOCK_M, N_HIDDEN], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = tl.load(q_ptr + wide * N_FEATURES + k[None, :], mask=real, other=0.0)
        if not ONE_PIECE:
            w = load_weights(w1_ptr, n, k, N_FEATURES, PIECE)
        h = product(split(q * scale, PRECISION), w, h, PRECISION)
    h = h / scale + b1
    gate = sigmoid(h)
    atomic = tl.sum(h * gate * w2, 1) + tl.load(b2_ptr)
    atomic += tl.load(repulsion_ptr + rows, mask=rows < n_atoms, other=0.0)
    tl.store(atomic_ptr + rows, atomic, mask=rows < n_atoms)
    let_next_begin(OVERLAP)
    g_h = split(gate * (1.0 + h * (1.0 - gate)) * w2, PRECISION)
    for start in range(0, N_FEATURES, BLOCK_K):
        f = start + tl.arange(0, BLOCK_K)
        g_q = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
        g_q = product(g_h, load_weights(w1_t_ptr, f, n, N_HIDDEN, PIECE), g_q, PRECISION)
        tl.store(g_q_ptr + wide * N_FEATURES + f[None, :], g_q, mask=real)


@triton.jit
def molecule_energy(
    atomic_ptr,
    numbers_ptr,
    positions_ptr,
    atom_index_ptr,
    reference_ptr,
    first,
    end,
    BLOCK: tl.constexpr,
):
    """Energy of the molecule that has the atoms from first to end, float64."""
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        atomic = tl.load(atomic_ptr + a, mask=real, other=0.0)
        # An atom at NaN has no neighbours, hence an energy: finite, and wrong. 0·x finds it.
        x = tl.load(positions_ptr + a * 3, mask=real, other=0.0)
        y = tl.load(positions_ptr + a * 3 + 1, mask=real, other=0.0)
        z = tl.load(positions_ptr + a * 3 + 2, mask=real, other=0.0)
        atomic += x * 0.0 + y * 0.0 + z * 0.0
        species = tl.load(
            atom_index_ptr + tl.load(numbers_ptr + a, mask=real, other=1), mask=real, other=0
        )
        reference = tl.load(reference_ptr + species, mask=real, other=0.0)
        total += atomic.to(tl.float64) + reference
    return tl.sum(total, 0)


@triton.jit
def summed(pull, listed, N_SLICES: tl.constexpr):
    """A column of the pull of pairs, of all slices; 0 where no pair is listed."""
    x = tl.load(pull, mask=listed, other=0.0)
    for s in tl.static_range(1, N_SLICES):
        x += tl.load(pull + 4 * s, mask=listed, other=0.0)
    return x


@triton.jit(do_not_specialize=["n_mols"])
def molecule_kernel(
    atomic_ptr,  # [n_atoms]
    numbers_ptr,  # int64 [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    atom_index_ptr,  # int64 [128]
    reference_ptr,  # float64 [n_elements]
    gradient_ptr,  # [n_atoms, 3]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    pull_ptr,  # [n_atoms, stride, N_SLICES, 4]
    energy_ptr,  # float64 [n_mols]
    forces_ptr,  # [n_atoms, 3]
    n_mols,
    stride,  # of a row
    N_GEOMETRY: tl.constexpr,
    N_SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    axis = tl.arange(0, 4)
    # The first programs write energies, the others take an atom each.
    a = tl.program_id(0) - n_mols
    mol = tl.program_id(0).to(tl.int64)
    real_atom = (a >= 0) & (a < tl.load(ptr_ptr + n_mols))
    if real_atom:
        mol = tl.load(mol_idx_ptr + a)
    if real_atom | (a < 0):
        energy = molecule_energy(
            atomic_ptr,
            numbers_ptr,
            positions_ptr,
            atom_index_ptr,
            reference_ptr,
            tl.load(ptr_ptr + mol),
            tl.load(ptr_ptr + mol + 1),
            BLOCK,
        )
        if a < 0:
            tl.store(energy_ptr + mol, energy)
        else:
            gx = 0.0
            gy = 0.0
            gz = 0.0
            row = a.to(tl.int64) * stride
            count = tl.load(count_ptr + a)
            for start in range(0, count, BLOCK):
                e = start + tl.arange(0, BLOCK)
                listed = e < count
                b = tl.load(j_ptr + row + e, mask=listed, other=0).to(tl.int64)
                # Where in its neighbour's row the atom is.
                other_count = tl.load(count_ptr + b, mask=listed, other=0)
                place = tl.zeros([BLOCK], tl.int64)
                for begin in range(0, tl.max(other_count, 0), BLOCK):
                    k = begin + tl.arange(0, BLOCK)[None, :]
                    back = tl.load(
                        j_ptr + b[:, None] * stride + k, mask=k < other_count[:, None], other=-1
                    )
                    place += tl.sum(tl.where(back == a, k, 0), 1)
                there = pull_ptr + (row + e) * (4 * N_SLICES)
                back = pull_ptr + (b * stride + place) * (4 * N_SLICES)
                # The neighbour has the pair the other way round, u and all.
                px = summed(there, listed, N_SLICES) - summed(back, listed, N_SLICES)
                py = summed(there + 1, listed, N_SLICES) - summed(back + 1, listed, N_SLICES)
                pz = summed(there + 2, listed, N_SLICES) - summed(back + 2, listed, N_SLICES)
                slope = summed(there + 3, listed, N_SLICES) + summed(back + 3, listed, N_SLICES)
                pair = geometry_ptr + (row + e) * N_GEOMETRY
                ux = tl.load(pair, mask=listed, other=0.0)
                uy = tl.load(pair + 1, mask=listed, other=0.0)
                uz = tl.load(pair + 2, mask=listed, other=0.0)
                inverse = 1.0 / tl.load(pair + 3, mask=listed, other=1.0)
                slope += (px * ux + py * uy + pz * uz) * inverse
                gx += tl.sum(px * inverse - slope * ux, 0)
                gy += tl.sum(py * inverse - slope * uy, 0)
                gz += tl.sum(pz * inverse - slope * uz, 0)
            gradient = tl.load(gradient_ptr + a * 3 + axis, mask=axis < 3, other=0.0)
            gradient += tl.where(axis == 0, gx, tl.where(axis == 1, gy, gz))
            forces = tl.where(energy == energy, -gradient, float("nan"))
            tl.store(forces_ptr + a * 3 + axis, forces, mask=axis < 3)
    else:
        tl.store(forces_ptr + a * 3 + axis, tl.zeros([4], tl.float32), mask=axis < 3)


def readout(
    q: Tensor,
    repulsion: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_t: Tensor,
    *,
    end: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Energy of each atom beyond its element's reference in eV [n_atoms], and its slope in q.

    Args:
        q: [n_atoms, n_features].
        repulsion: Added to the energy [n_atoms].
        w1: First layer, split in two [2, n_hidden, n_features].
        b1: Its bias [n_hidden].
        w2: Second layer times the energy scale [n_hidden].
        b2: Its bias times the energy scale [1].
        w1_t: Of the transpose of w1.
        end: Number of atoms that are no padding, int32 [1]; of the others nothing is written.
        precision: As in `linear.linear`.
    """
    n_atoms, n_features = q.shape
    atomic, g_q = q.new_empty(n_atoms), q.new_empty(n_atoms, n_features)
    sizes = tile_options("readout", precision, n_atoms, n_features, n_features, n_features)
    del sizes["BLOCK_N"]
    readout_kernel[(triton.cdiv(n_atoms, sizes["BLOCK_M"]),)](
        q,
        repulsion,
        w1,
        b1,
        w2,
        w1_t,
        b2,
        atomic,
        g_q,
        end,
        n_atoms,
        N_FEATURES=n_features,
        N_HIDDEN=len(w2),
        PRECISION=precision,
        **sizes,
        **overlap(n_atoms),
    )
    return atomic, g_q


def molecules(
    atomic: Tensor,
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    ptr: Tensor,
    atom_index: Tensor,
    reference_energy: Tensor,
    gradient: Tensor,
    rows: PairRows,
    pull: Tensor,
) -> tuple[Tensor, Tensor]:
    """Energy of each molecule in eV, summed in float64 [n_mols], and forces in eV/Å [n_atoms, 3].

    A molecule with a coordinate that is not finite, or whose energy is no number for any other
    reason, gets NaN, forces included. Forces of atoms from ptr[-1] on are zero.

    Args:
        atomic: Energy of each atom beyond its element's reference in eV [n_atoms].
        numbers: int64 [n_atoms].
        positions: Å [n_atoms, 3].
        mol_idx: int64 [n_atoms].
        ptr: int64 [n_mols + 1].
        atom_index: Atomic number -> row of reference_energy, int64 [128].
        reference_energy: eV, float64 [n_elements].
        gradient: Of the repulsion, in eV/Å [n_atoms, 3].
        rows: The pairs.
        pull: Of each pair dE/d(-u), with u the unit vector from a to b, in eV, and dE/dd in eV/Å,
            in slices to be added up [n_atoms, stride, n_slices, 4].
    """
    n_mols, n_atoms = len(ptr) - 1, len(numbers)
    energy = torch.empty(n_mols, dtype=torch.float64, device=atomic.device)
    forces = torch.empty_like(positions)
    molecule_kernel[(n_mols + n_atoms,)](
        atomic,
        numbers,
        positions,
        mol_idx,
        ptr,
        atom_index,
        reference_energy,
        gradient,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        pull,
        energy,
        forces,
        n_mols,
        rows.j.shape[1],
        N_GEOMETRY=N_GEOMETRY,
        N_SLICES=pull.shape[2],
        BLOCK=32,
        num_warps=1,
        **overlap(n_atoms),
    )
    return energy, forces
