# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""What a step of the engine does with partial charges: seven launches.

Meaning: charges.ChargeStep. Alone, its operators would be some thirty launches, each of which takes
as long for one molecule as the work of all. So the two layers that read the charges are one kernel
on either way, and what charges do to features, energies and gradients is done where they are.
"""

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.charges import COULOMB_ONSET, ChargeStep
from mlff_core.ops.triton.charges import (
    _BLOCK,
    Spans,
    charges_act_kernel,
    equilibrate_gradient_kernel,
    equilibrate_parts,
)
from mlff_core.ops.triton.launch import overlap, wait_for_inputs
from mlff_core.ops.triton.operand import sigmoid
from mlff_core.units import COULOMB_EV_ANGSTROM

if TYPE_CHECKING:
    from mlff_core.models.partial_charges import PartialCharges

#: Rows of a tile, and columns: where atoms are few, more programs are sooner done.
_ROWS, _COLUMNS = 16, 32
#: Atoms from which on a program takes all columns, so that features are read once.
_MANY = 4096
#: How products are computed (`tl.dot`): charges of float32, whatever the rest has.
PRODUCT = "ieee"


@triton.jit(do_not_specialize=["n_atoms"])
def read_kernel(
    q_ptr,  # [n_atoms, N_FEATURES]
    w1_ptr,  # [N_HIDDEN, N_FEATURES]
    b1_ptr,  # [N_HIDDEN]
    w2_ptr,  # [2, N_HIDDEN]
    hidden_ptr,  # [n_atoms, N_HIDDEN]
    parts_ptr,  # [N_HIDDEN / BLOCK_N, n_atoms, 2]
    end_ptr,  # int32 [1], atoms that are no padding
    n_atoms,
    N_FEATURES: tl.constexpr,
    N_HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    n = part * BLOCK_N + tl.arange(0, BLOCK_N)
    bias = tl.load(b1_ptr + n)[None, :]
    w2 = tl.load(w2_ptr + n)[None, :]
    w2_weight = tl.load(w2_ptr + N_HIDDEN + n)[None, :]
    wait_for_inputs(OVERLAP)
    end = tl.load(end_ptr)
    if tl.program_id(0) * BLOCK_M >= end:
        return
    real = rows < end
    wide = rows.to(tl.int64)
    h = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N_FEATURES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = tl.load(q_ptr + wide[:, None] * N_FEATURES + k[None, :], mask=real[:, None], other=0.0)
        w = tl.load(w1_ptr + n[None, :] * N_FEATURES + k[:, None])
        h = tl.dot(q, w, h, input_precision=PRECISION)
    h += bias
    tl.store(hidden_ptr + wide[:, None] * N_HIDDEN + n[None, :], h, mask=real[:, None])
    silu = h * sigmoid(h)
    here = parts_ptr + 2 * (n_atoms.to(tl.int64) * part + wide)
    tl.store(here, tl.sum(silu * w2, 1), mask=real)
    tl.store(here + 1, tl.sum(silu * w2_weight, 1), mask=real)


@triton.jit(do_not_specialize=["n_mols"])
def gradient_in_charges_kernel(
    g_q_ptr,  # [n_atoms, N_FEATURES]
    feedback_ptr,  # [N_FEATURES]
    potential_ptr,  # [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    g_c_ptr,  # [n_atoms]
    n_mols,
    FEEDBACK: tl.constexpr,
    COULOMB: tl.constexpr,
    N_FEATURES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    f = tl.arange(0, N_FEATURES)
    if FEEDBACK:
        feedback = tl.load(feedback_ptr + f)
    wait_for_inputs(OVERLAP)
    a = tl.program_id(0).to(tl.int64)
    if a >= tl.load(ptr_ptr + n_mols):
        return
    g_c = 0.0
    if FEEDBACK:
        g_c += tl.sum(tl.load(g_q_ptr + a * N_FEATURES + f) * feedback, 0)
    if COULOMB:
        g_c += tl.load(potential_ptr + a)
    tl.store(g_c_ptr + a, g_c)


@triton.jit
def read_gradient_kernel(
    g_y_ptr,  # [n_atoms, 2]
    hidden_ptr,  # [n_atoms, N_HIDDEN]
    w1_ptr,  # [N_HIDDEN, N_FEATURES]
    w2_ptr,  # [2, N_HIDDEN]
    g_q_ptr,  # [n_atoms, N_FEATURES]
    out_ptr,  # [n_atoms, N_FEATURES]
    end_ptr,  # int32 [1]
    N_FEATURES: tl.constexpr,
    N_HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    end = tl.load(end_ptr)
    if tl.program_id(0) * BLOCK_M >= end:
        return
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    f = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows < end
    wide = rows.to(tl.int64)
    g_own = tl.load(g_y_ptr + 2 * wide, mask=real, other=0.0)[:, None]
    g_weight = tl.load(g_y_ptr + 2 * wide + 1, mask=real, other=0.0)[:, None]
    here = wide[:, None] * N_FEATURES + f[None, :]
    g = tl.load(g_q_ptr + here, mask=real[:, None], other=0.0)
    for start in range(0, N_HIDDEN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        h = tl.load(
            hidden_ptr + wide[:, None] * N_HIDDEN + k[None, :], mask=real[:, None], other=0.0
        )
        gate = sigmoid(h)
        g_h = (
            g_own * tl.load(w2_ptr + k)[None, :]
            + g_weight * tl.load(w2_ptr + N_HIDDEN + k)[None, :]
        )
        g_h *= gate * (1.0 + h * (1.0 - gate))
        w = tl.load(w1_ptr + k[:, None] * N_FEATURES + f[None, :])
        g = tl.dot(g_h, w, g, input_precision=PRECISION)
    tl.store(out_ptr + here, g, mask=real[:, None])


@triton.jit(do_not_specialize=["n_mols"])
def known_kernel(
    c_ptr,  # [n_atoms]
    energy_ptr,  # float64 [n_mols]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    known_ptr,  # [n_atoms]
    n_mols,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    a = tl.program_id(0).to(tl.int64)
    charge = 0.0
    if a < tl.load(ptr_ptr + n_mols):
        energy = tl.load(energy_ptr + tl.load(mol_idx_ptr + a))
        charge = tl.where(energy == energy, tl.load(c_ptr + a), float("nan"))
    tl.store(known_ptr + a, charge)


def tile(n_atoms: int, n_out: int, n_in: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid of a product, and what its launch is told besides."""
    columns = n_out if n_atoms >= _MANY else min(n_out, _COLUMNS)
    sizes = {"BLOCK_M": _ROWS, "BLOCK_N": columns, "BLOCK_K": min(n_in, _COLUMNS)}
    told = {"PRECISION": PRODUCT, **overlap(n_atoms)}
    return (triton.cdiv(n_atoms, _ROWS), n_out // columns), sizes | told


class KernelChargeStep(ChargeStep):
    """`charges.ChargeStep` by kernels, which add to energies and gradients where these are.

    Of padding nothing is written but, by `known`, that it has no charge.
    """

    layout: Spans

    def __init__(
        self,
        module: "PartialCharges",
        after: int,
        positions: Tensor,
        charge: Tensor,
        layout: Spans,
        end: Tensor,
        energy: Tensor,
        gradient: Tensor,
    ):
        """Get ready.

        Args:
            module: The weights.
            after: The block after which the charges are read, from 1.
            positions: Å [n_atoms, 3].
            charge: Total charges in e [n_mols].
            layout: Of the molecules.
            end: Number of atoms that are no padding, int32 [1].
            energy: Of each atom in eV [n_atoms]; `forward` adds to it.
            gradient: In the positions, eV/Å [n_atoms, 3]; likewise.
        """
        super().__init__(module, after, positions, charge, layout)
        self.end, self.energy, self.gradient = end, energy, gradient

    def added(self, atomic: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """What there is: it was added when it was found."""
        return atomic, gradient

    def known(self, energy: Tensor, mol_idx: Tensor) -> Tensor:
        """As of `ChargeStep`; zero for padding."""
        known = torch.empty_like(self.charges)
        known_kernel[(len(known),)](
            self.charges, energy, mol_idx, self.layout.ptr, known, len(energy),
            num_warps=1, **overlap(len(known)),
        )  # fmt: skip
        return known

    def forward(self, q: Tensor) -> Tensor:
        """As of `ChargeStep`."""
        module, (n_atoms, n_features) = self.module, q.shape
        w1, b1, w2, b2 = self._weights()
        grid, how = tile(n_atoms, len(w1), n_features)
        self._hidden = q.new_empty(n_atoms, len(w1))
        parts = q.new_empty(grid[1], n_atoms, 2)
        read_kernel[grid](
            q, w1, b1, w2, self._hidden, parts, self.end, n_atoms,
            N_FEATURES=n_features, N_HIDDEN=len(w1), **how,
        )  # fmt: skip
        self.charges, self._saved = equilibrate_parts(parts, b2, self.charge, self.layout)
        self._potential = torch.empty_like(self.charges)
        if module.feedback is None and module.strength is None:
            return q
        fed = q if module.feedback is None else torch.empty_like(q)
        charges_act_kernel[(n_atoms,)](
            self.charges, self.positions, module.strength, self.layout.mol_idx, self.layout.ptr,
            self.energy, self._potential, self.gradient, q, module.feedback, fed, len(self.charge),
            UNIT=COULOMB_EV_ANGSTROM, ONSET=COULOMB_ONSET, COULOMB=module.strength is not None,
            ADDED=True, FEEDBACK=module.feedback is not None, N_FEATURES=n_features, BLOCK=_BLOCK,
            num_warps=1, **overlap(n_atoms),
        )  # fmt: skip
        return fed

    def backward(self, g_q: Tensor) -> Tensor:
        """As of `ChargeStep`."""
        module, (n_atoms, n_features) = self.module, g_q.shape
        if module.feedback is None and module.strength is None:  # Nobody hears of the charges.
            return g_q
        w1, _, w2, _ = self._weights()
        y, weight, total, share = self._saved
        g_c, g_y, out = torch.empty_like(self.charges), torch.empty_like(y), torch.empty_like(g_q)
        ptr, n_mols = self.layout.ptr, len(self.charge)
        gradient_in_charges_kernel[(n_atoms,)](
            g_q, module.feedback, self._potential, ptr, g_c, n_mols,
            FEEDBACK=module.feedback is not None, COULOMB=module.strength is not None,
            N_FEATURES=n_features, num_warps=1, **overlap(n_atoms),
        )  # fmt: skip
        equilibrate_gradient_kernel[(n_mols,)](
            g_c, y, ptr, weight, total, share, g_y, BLOCK=_BLOCK, num_warps=1, **overlap(n_atoms)
        )
        grid, how = tile(n_atoms, n_features, len(w1))
        read_gradient_kernel[grid](
            g_y, self._hidden, w1, w2, g_q, out, self.end,
            N_FEATURES=n_features, N_HIDDEN=len(w1), **how,
        )  # fmt: skip
        return out
