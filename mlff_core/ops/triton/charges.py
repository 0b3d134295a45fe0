# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Partial charges and their Coulomb energy: a program for each molecule, or for each atom.

Meaning: charges.equilibrate_fwd, charges.equilibrate_bwd and charges.coulomb. Inside, everything
is float64: there are as many numbers as atoms and pairs of atoms, not times features, and every sum
has a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.charges import COULOMB_ONSET, WEIGHT_FLOOR, ChargeOps
from mlff_core.units import COULOMB_EV_ANGSTROM

#: Atoms that a program looks at a time.
_BLOCK = 64


class Spans(NamedTuple):
    """Where the atoms of each molecule are, for the kernels; atoms from ptr[-1] on are padding.

    Attributes:
        ptr: int64 [n_mols + 1].
        mol_idx: int64 [n_atoms].
    """

    ptr: Tensor
    mol_idx: Tensor


@triton.jit
def equilibrate_kernel(
    y_ptr,  # [n_atoms, 2]
    charge_ptr,  # int64 [n_mols]
    ptr_ptr,  # int64 [n_mols + 1]
    c_ptr,  # [n_atoms]
    weight_ptr,  # float64 [n_atoms]
    total_ptr,  # float64 [n_mols]
    share_ptr,  # float64 [n_mols]
    FLOOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64)
    first, end = tl.load(ptr_ptr + m), tl.load(ptr_ptr + m + 1)
    owns = tl.zeros([BLOCK], tl.float64)
    weights = tl.zeros([BLOCK], tl.float64)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        owns += tl.load(y_ptr + 2 * a, mask=real, other=0.0).to(tl.float64)
        before = tl.load(y_ptr + 2 * a + 1, mask=real, other=0.0).to(tl.float64)
        weight = tl.maximum(before, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(before))) + FLOOR
        weights += tl.where(real, weight, 0.0)
        tl.store(weight_ptr + a, weight, mask=real)
    total = tl.sum(weights, 0)
    share = (tl.load(charge_ptr + m).to(tl.float64) - tl.sum(owns, 0)) / total
    tl.store(total_ptr + m, total)
    tl.store(share_ptr + m, share)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        own = tl.load(y_ptr + 2 * a, mask=real, other=0.0).to(tl.float64)
        before = tl.load(y_ptr + 2 * a + 1, mask=real, other=0.0).to(tl.float64)
        weight = tl.maximum(before, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(before))) + FLOOR
        tl.store(c_ptr + a, own + weight * share, mask=real)


@triton.jit
def equilibrate_gradient_kernel(
    g_c_ptr,  # [n_atoms]
    y_ptr,  # [n_atoms, 2]
    ptr_ptr,  # int64 [n_mols + 1]
    weight_ptr,  # float64 [n_atoms]
    total_ptr,  # float64 [n_mols]
    share_ptr,  # float64 [n_mols]
    g_y_ptr,  # [n_atoms, 2]
    BLOCK: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64)
    first, end = tl.load(ptr_ptr + m), tl.load(ptr_ptr + m + 1)
    products = tl.zeros([BLOCK], tl.float64)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        g_c = tl.load(g_c_ptr + a, mask=real, other=0.0).to(tl.float64)
        products += g_c * tl.load(weight_ptr + a, mask=real, other=0.0)
    taken = tl.sum(products, 0) / tl.load(total_ptr + m)
    share = tl.load(share_ptr + m)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        own = tl.load(g_c_ptr + a, mask=real, other=0.0).to(tl.float64) - taken
        before = tl.load(y_ptr + 2 * a + 1, mask=real, other=0.0).to(tl.float64)
        tl.store(g_y_ptr + 2 * a, own, mask=real)
        tl.store(g_y_ptr + 2 * a + 1, share * own / (1.0 + tl.exp(-before)), mask=real)


@triton.jit(do_not_specialize=["n_mols"])
def coulomb_kernel(
    c_ptr,  # [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    strength_ptr,  # [1]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    energy_ptr,  # [n_atoms]
    potential_ptr,  # [n_atoms]
    gradient_ptr,  # [n_atoms, 3]
    n_mols,
    UNIT: tl.constexpr,
    ONSET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    a = tl.program_id(0).to(tl.int64)
    first, end = a, a  # Padding has nobody around it.
    if a < tl.load(ptr_ptr + n_mols):
        m = tl.load(mol_idx_ptr + a)
        first, end = tl.load(ptr_ptr + m), tl.load(ptr_ptr + m + 1)
    x = tl.load(positions_ptr + 3 * a).to(tl.float64)
    y = tl.load(positions_ptr + 3 * a + 1).to(tl.float64)
    z = tl.load(positions_ptr + 3 * a + 2).to(tl.float64)
    potentials = tl.zeros([BLOCK], tl.float64)
    xs = tl.zeros([BLOCK], tl.float64)
    ys = tl.zeros([BLOCK], tl.float64)
    zs = tl.zeros([BLOCK], tl.float64)
    for start in range(first, end, BLOCK):
        b = start + tl.arange(0, BLOCK)
        pair = (b < end) & (b != a)
        dx = x - tl.load(positions_ptr + 3 * b, mask=pair, other=0.0).to(tl.float64)
        dy = y - tl.load(positions_ptr + 3 * b + 1, mask=pair, other=0.0).to(tl.float64)
        dz = z - tl.load(positions_ptr + 3 * b + 2, mask=pair, other=0.0).to(tl.float64)
        d = tl.sqrt(tl.where(pair, dx * dx + dy * dy + dz * dz, 1.0))
        x2 = d * d / (ONSET * ONSET)
        left = tl.maximum(1.0 - x2, 1e-3)  # There the exponential is nothing.
        fades = tl.where(x2 < 1.0 - 1e-3, tl.exp(-x2 / left), 0.0)
        value = (1.0 - fades) / d
        slope = (fades * 2.0 * d / (ONSET * ONSET * left * left) - value) / d
        q = tl.load(c_ptr + b, mask=pair, other=0.0).to(tl.float64)
        potentials += tl.where(pair, q * value, 0.0)
        pull = tl.where(pair, q * slope / d, 0.0)
        xs += pull * dx
        ys += pull * dy
        zs += pull * dz
    unit = UNIT * tl.load(strength_ptr).to(tl.float64)
    potential = unit * tl.sum(potentials, 0)
    own = tl.load(c_ptr + a).to(tl.float64)
    tl.store(energy_ptr + a, 0.5 * own * potential)
    tl.store(potential_ptr + a, potential)
    tl.store(gradient_ptr + 3 * a, own * unit * tl.sum(xs, 0))
    tl.store(gradient_ptr + 3 * a + 1, own * unit * tl.sum(ys, 0))
    tl.store(gradient_ptr + 3 * a + 2, own * unit * tl.sum(zs, 0))


#: What is kept: y, weights [n_atoms], their sums, and what is missing a unit of them [n_mols].
Saved = tuple[Tensor, Tensor, Tensor, Tensor]


def equilibrate_fwd(y: Tensor, charge: Tensor, layout: Spans) -> tuple[Tensor, Saved]:
    """`charges.equilibrate_fwd`; padding has no charge."""
    y = y.contiguous()
    c = y.new_zeros(len(y))
    weight, total, share = (
        y.new_empty(n, dtype=torch.float64) for n in (len(y), len(charge), len(charge))
    )
    if len(charge):
        equilibrate_kernel[(len(charge),)](
            y, charge, layout.ptr, c, weight, total, share,
            FLOOR=WEIGHT_FLOOR, BLOCK=_BLOCK, num_warps=1,
        )  # fmt: skip
    return c, (y, weight, total, share)


def equilibrate_bwd(g_c: Tensor, saved: Saved, layout: Spans) -> Tensor:
    """`charges.equilibrate_bwd`; nothing for padding."""
    y, weight, total, share = saved
    g_y = torch.zeros_like(y)
    if len(total):
        equilibrate_gradient_kernel[(len(total),)](
            g_c.contiguous(), y, layout.ptr, weight, total, share, g_y, BLOCK=_BLOCK, num_warps=1
        )
    return g_y


def coulomb(
    c: Tensor, positions: Tensor, strength: Tensor, layout: Spans
) -> tuple[Tensor, Tensor, Tensor]:
    """`charges.coulomb`, of positions in float32 or float64; nothing for padding."""
    energy, potential = torch.empty_like(c), torch.empty_like(c)
    gradient = c.new_empty(len(c), 3)
    if len(c):
        coulomb_kernel[(len(c),)](
            c, positions.contiguous(), strength, layout.mol_idx, layout.ptr,
            energy, potential, gradient, len(layout.ptr) - 1,
            UNIT=COULOMB_EV_ANGSTROM, ONSET=COULOMB_ONSET, BLOCK=_BLOCK, num_warps=1,
        )  # fmt: skip
    return energy, potential, gradient


#: For `TritonEngine`, with `Spans` in the place of a layout.
CHARGE_OPS = ChargeOps(equilibrate_fwd, equilibrate_bwd, coulomb)
