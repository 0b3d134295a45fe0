# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Partial charges and their Coulomb energy: a program for each molecule, or for each atom.

Meaning: charges.equilibrate_fwd, charges.equilibrate_bwd and charges.coulomb; `charge_step` has
the same kernels do with what comes before and after. Inside, everything is float64: there are as
many numbers as atoms and pairs of atoms, not times features, and every sum has a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.charges import COULOMB_ONSET, WEIGHT_FLOOR, ChargeOps
from mlff_core.ops.triton.launch import overlap, wait_for_inputs
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
def what_atoms_say(
    parts_ptr, bias_ptr, n_atoms, a, real, N_PARTS: tl.constexpr, FLOOR: tl.constexpr
):
    """Of some atoms: both numbers of y, and the weight, float64; nothing where not real."""
    own = tl.where(real, tl.load(bias_ptr), 0.0)
    before = tl.where(real, tl.load(bias_ptr + 1), 0.0)
    for part in tl.static_range(N_PARTS):
        here = parts_ptr + 2 * (n_atoms.to(tl.int64) * part + a)
        own += tl.load(here, mask=real, other=0.0)
        before += tl.load(here + 1, mask=real, other=0.0)
    wide = before.to(tl.float64)
    weight = tl.maximum(wide, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(wide))) + FLOOR
    return own, before, tl.where(real, weight, 0.0)


@triton.jit(do_not_specialize=["n_atoms"])
def equilibrate_kernel(
    parts_ptr,  # [N_PARTS, n_atoms, 2], whose sum is y but for the bias
    bias_ptr,  # [2]
    charge_ptr,  # int64 [n_mols]
    ptr_ptr,  # int64 [n_mols + 1]
    c_ptr,  # [n_atoms]
    y_ptr,  # [n_atoms, 2]
    weight_ptr,  # float64 [n_atoms]
    total_ptr,  # float64 [n_mols]
    share_ptr,  # float64 [n_mols]
    n_atoms,
    N_PARTS: tl.constexpr,
    FLOOR: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    m = tl.program_id(0).to(tl.int64)
    first, end = tl.load(ptr_ptr + m), tl.load(ptr_ptr + m + 1)
    owns = tl.zeros([BLOCK], tl.float64)
    weights = tl.zeros([BLOCK], tl.float64)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        own, before, weight = what_atoms_say(parts_ptr, bias_ptr, n_atoms, a, real, N_PARTS, FLOOR)
        tl.store(y_ptr + 2 * a, own, mask=real)
        tl.store(y_ptr + 2 * a + 1, before, mask=real)
        tl.store(weight_ptr + a, weight, mask=real)
        owns += own.to(tl.float64)
        weights += weight
    total = tl.sum(weights, 0)
    share = (tl.load(charge_ptr + m).to(tl.float64) - tl.sum(owns, 0)) / total
    tl.store(total_ptr + m, total)
    tl.store(share_ptr + m, share)
    for start in range(first, end, BLOCK):
        a = start + tl.arange(0, BLOCK)
        real = a < end
        own, before, weight = what_atoms_say(parts_ptr, bias_ptr, n_atoms, a, real, N_PARTS, FLOOR)
        tl.store(c_ptr + a, own.to(tl.float64) + weight * share, mask=real)


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
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
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
def charges_act_kernel(
    c_ptr,  # [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    strength_ptr,  # [1]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    energy_ptr,  # [n_atoms]
    potential_ptr,  # [n_atoms]
    gradient_ptr,  # [n_atoms, 3]
    q_ptr,  # [n_atoms, N_FEATURES]
    feedback_ptr,  # [N_FEATURES]
    fed_ptr,  # [n_atoms, N_FEATURES]
    n_mols,
    UNIT: tl.constexpr,
    ONSET: tl.constexpr,
    COULOMB: tl.constexpr,  # Whether there is such an energy
    ADDED: tl.constexpr,  # Whether energy and gradient are added to what is there
    FEEDBACK: tl.constexpr,  # Whether there is some
    N_FEATURES: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    a = tl.program_id(0).to(tl.int64)
    if a >= tl.load(ptr_ptr + n_mols):
        if not ADDED:
            tl.store(energy_ptr + a, 0.0)
            tl.store(potential_ptr + a, 0.0)
            tl.store(gradient_ptr + 3 * a + tl.arange(0, 4), 0.0, mask=tl.arange(0, 4) < 3)
        return
    own = tl.load(c_ptr + a)
    if FEEDBACK:
        f = tl.arange(0, N_FEATURES)
        q = tl.load(q_ptr + a * N_FEATURES + f)
        tl.store(fed_ptr + a * N_FEATURES + f, q + own * tl.load(feedback_ptr + f))
    if COULOMB:
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
            charge = tl.load(c_ptr + b, mask=pair, other=0.0).to(tl.float64)
            potentials += tl.where(pair, charge * value, 0.0)
            pull = tl.where(pair, charge * slope / d, 0.0)
            xs += pull * dx
            ys += pull * dy
            zs += pull * dz
        unit = UNIT * tl.load(strength_ptr).to(tl.float64)
        potential = unit * tl.sum(potentials, 0)
        tl.store(potential_ptr + a, potential)
        strong = own.to(tl.float64) * unit
        energy = 0.5 * own.to(tl.float64) * potential
        axis = tl.arange(0, 4)
        gx, gy, gz = tl.sum(xs, 0), tl.sum(ys, 0), tl.sum(zs, 0)
        gradient = strong * tl.where(axis == 0, gx, tl.where(axis == 1, gy, gz))
        if ADDED:
            energy += tl.load(energy_ptr + a)
            gradient += tl.load(gradient_ptr + 3 * a + axis, mask=axis < 3, other=0.0)
        tl.store(energy_ptr + a, energy)
        tl.store(gradient_ptr + 3 * a + axis, gradient, mask=axis < 3)


#: What is kept: y, weights [n_atoms], their sums, and what is missing a unit of them [n_mols].
Saved = tuple[Tensor, Tensor, Tensor, Tensor]


def equilibrate_fwd(y: Tensor, charge: Tensor, layout: Spans) -> tuple[Tensor, Saved]:
    """`charges.equilibrate_fwd`; padding has no charge."""
    c, saved = equilibrate_parts(y.contiguous()[None], y.new_zeros(2), charge, layout)
    # Of padding nothing was written.
    there = torch.arange(len(y), device=y.device) < layout.ptr[-1]
    return torch.where(there, c, 0.0), saved


def equilibrate_parts(
    parts: Tensor, bias: Tensor, charge: Tensor, layout: Spans
) -> tuple[Tensor, Saved]:
    """The same of a y that comes in parts, without its bias; of padding nothing is written.

    Args:
        parts: [n_parts, n_atoms, 2].
        bias: [2].
        charge: Total charges in e [n_mols].
        layout: Of the molecules.
    """
    n_atoms, n_mols = parts.shape[1], len(charge)
    c, y = parts.new_empty(n_atoms), parts.new_empty(n_atoms, 2)
    weight, total, share = (
        parts.new_empty(n, dtype=torch.float64) for n in (n_atoms, n_mols, n_mols)
    )
    if n_mols:
        equilibrate_kernel[(n_mols,)](
            parts, bias, charge, layout.ptr, c, y, weight, total, share, n_atoms,
            N_PARTS=len(parts), FLOOR=WEIGHT_FLOOR, BLOCK=_BLOCK, num_warps=1, **overlap(n_atoms),
        )  # fmt: skip
    return c, (y, weight, total, share)


def equilibrate_bwd(g_c: Tensor, saved: Saved, layout: Spans) -> Tensor:
    """`charges.equilibrate_bwd`; nothing for padding."""
    y, weight, total, share = saved
    g_y = torch.zeros_like(y)
    if len(total):
        equilibrate_gradient_kernel[(len(total),)](
            g_c.contiguous(), y, layout.ptr, weight, total, share, g_y, BLOCK=_BLOCK, num_warps=1,
            **overlap(len(y)),
        )  # fmt: skip
    return g_y


def coulomb(
    c: Tensor, positions: Tensor, strength: Tensor, layout: Spans
) -> tuple[Tensor, Tensor, Tensor]:
    """`charges.coulomb`, of positions in float32 or float64; nothing for padding."""
    energy, potential = torch.empty_like(c), torch.empty_like(c)
    gradient = c.new_empty(len(c), 3)
    if len(c):
        charges_act_kernel[(len(c),)](
            c, positions.contiguous(), strength, layout.mol_idx, layout.ptr,
            energy, potential, gradient, c, c, c, len(layout.ptr) - 1,
            UNIT=COULOMB_EV_ANGSTROM, ONSET=COULOMB_ONSET, COULOMB=True, ADDED=False,
            FEEDBACK=False, N_FEATURES=1, BLOCK=_BLOCK, num_warps=1, **overlap(len(c)),
        )  # fmt: skip
    return energy, potential, gradient


#: The operators of the contract, with `Spans` in the place of a layout.
CHARGE_OPS = ChargeOps(equilibrate_fwd, equilibrate_bwd, coulomb)
