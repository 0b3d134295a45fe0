# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Readout: energy of each atom and its gradient, and the sum over each molecule.

Meaning: reference.readout_fwd and reference.readout_bwd; the float64 sum and the NaN rule of
analytic.energy_and_forces.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.linear import dot, sigmoid, weight_tile
from mlff_core.ops.tiles import tile_options


@triton.jit(do_not_specialize=["n_atoms"])
def readout_kernel(
    q_ptr,  # [n_atoms, n_features]
    repulsion_ptr,  # [n_atoms]
    w1_ptr,  # [N_HIDDEN, n_features]
    b1_ptr,  # [N_HIDDEN]
    w2_ptr,  # [N_HIDDEN], scaled
    w1_t_ptr,  # [n_features, N_HIDDEN]
    b2_ptr,  # [1], scaled
    atomic_ptr,  # [n_atoms]
    g_q_ptr,  # [n_atoms, n_features]
    n_atoms,
    N_FEATURES: tl.constexpr,
    N_HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, N_HIDDEN)
    real = rows[:, None] < n_atoms
    wide = rows.to(tl.int64)[:, None]
    h = tl.zeros([BLOCK_M, N_HIDDEN], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = tl.load(q_ptr + wide * N_FEATURES + k[None, :], mask=real, other=0.0)
        h = dot(q, weight_tile(w1_ptr, n, k, N_FEATURES), h, PRECISION)
    h += tl.load(b1_ptr + n)[None, :]
    gate = sigmoid(h)
    w2 = tl.load(w2_ptr + n)[None, :]
    atomic = tl.sum(h * gate * w2, 1) + tl.load(b2_ptr)
    atomic += tl.load(repulsion_ptr + rows, mask=rows < n_atoms, other=0.0)
    tl.store(atomic_ptr + rows, atomic, mask=rows < n_atoms)
    g_h = gate * (1.0 + h * (1.0 - gate)) * w2
    for start in range(0, N_FEATURES, BLOCK_K):
        f = start + tl.arange(0, BLOCK_K)
        g_q = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
        g_q = dot(g_h, weight_tile(w1_t_ptr, f, n, N_HIDDEN), g_q, PRECISION)
        tl.store(g_q_ptr + wide * N_FEATURES + f[None, :], g_q, mask=real)


@triton.jit
def molecule_kernel(
    atomic_ptr,  # [n_atoms]
    numbers_ptr,  # int64 [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    gradient_ptr,  # [n_atoms, 3]
    ptr_ptr,  # int64 [n_mols + 1]
    atom_index_ptr,  # int64 [128]
    reference_ptr,  # float64 [n_elements]
    energy_ptr,  # float64 [n_mols]
    forces_ptr,  # [n_atoms, 3]
    BLOCK: tl.constexpr,
):
    mol = tl.program_id(0)
    first = tl.load(ptr_ptr + mol)
    end = tl.load(ptr_ptr + mol + 1)
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
    energy = tl.sum(total, 0)
    tl.store(energy_ptr + mol, energy)
    for start in range(first * 3, end * 3, BLOCK):
        c = start + tl.arange(0, BLOCK)
        real = c < end * 3
        g = tl.load(gradient_ptr + c, mask=real, other=0.0)
        tl.store(forces_ptr + c, tl.where(energy == energy, -g, float("nan")), mask=real)


def readout(
    q: Tensor,
    repulsion: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w1_t: Tensor,
    *,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Energy of each atom beyond its element's reference in eV [n_atoms], and its slope in q.

    Args:
        q: [n_atoms, n_features].
        repulsion: Added to the energy [n_atoms].
        w1: First layer [n_hidden, n_features].
        b1: Its bias [n_hidden].
        w2: Second layer times the energy scale [n_hidden].
        b2: Its bias times the energy scale [1].
        w1_t: Transpose of w1.
        precision: As in `linear.linear`.
    """
    n_atoms, n_features = q.shape
    atomic, g_q = q.new_empty(n_atoms), q.new_empty(n_atoms, n_features)
    sizes = tile_options("readout", precision, n_atoms, n_features, n_features)
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
        n_atoms,
        N_FEATURES=n_features,
        N_HIDDEN=len(w2),
        PRECISION=precision,
        **sizes,
    )
    return atomic, g_q


def molecules(
    atomic: Tensor,
    numbers: Tensor,
    positions: Tensor,
    gradient: Tensor,
    ptr: Tensor,
    atom_index: Tensor,
    reference_energy: Tensor,
    forces: Tensor,
) -> Tensor:
    """Energy of each molecule in eV, summed in float64 [n_mols]; writes the forces.

    A molecule with a coordinate that is not finite, or whose energy is no number for any other
    reason, gets NaN, forces included. Forces of atoms from ptr[-1] on are not written.

    Args:
        atomic: Energy of each atom beyond its element's reference in eV [n_atoms].
        numbers: int64 [n_atoms].
        positions: Å [n_atoms, 3].
        gradient: dE/dx in eV/Å [n_atoms, 3].
        ptr: int64 [n_mols + 1].
        atom_index: Atomic number -> row of reference_energy, int64 [128].
        reference_energy: eV, float64 [n_elements].
        forces: Written, eV/Å [n_atoms, 3].
    """
    n_mols = len(ptr) - 1
    energy = torch.empty(n_mols, dtype=torch.float64, device=atomic.device)
    molecule_kernel[(n_mols,)](
        atomic,
        numbers,
        positions,
        gradient,
        ptr,
        atom_index,
        reference_energy,
        energy,
        forces,
        BLOCK=64,
        num_warps=1,
    )
    return energy
