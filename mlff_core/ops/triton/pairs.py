# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Pairs within the cutoff, their geometry, and the nuclear repulsion, one program an atom.

Meaning: neighbors.neighbor_pairs, plain.edge_geometry and plain.repulsion_fwd_bwd.

Each atom owns a row of fixed capacity, filled with its neighbours in ascending order, so nothing
that the host must know depends on the geometry, and no two programs write to one place. Pairs
come in both directions, so the row of an atom lists its sources and its destinations alike: the
backward pass gathers over the same row, and the list is its own transpose.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.plain import REPULSION_WIDTH, ZBL_LENGTH, ZBL_TERMS
from mlff_core.ops.triton.launch import let_next_begin, overlap, wait_for_inputs
from mlff_core.units import COULOMB_EV_ANGSTROM

#: An atom with more neighbours than this turns its molecule into NaN. Diamond has 92 within 5 Å.
MAX_NEIGHBORS = 192
#: Columns of the geometry of a pair: unit vector and distance.
N_GEOMETRY = 4

_COULOMB = tl.constexpr(COULOMB_EV_ANGSTROM)
_REPULSION_WIDTH = tl.constexpr(REPULSION_WIDTH)
_INVERSE_LENGTH = tl.constexpr(1.0 / ZBL_LENGTH)
_A0, _A1, _A2, _A3 = (tl.constexpr(a) for a, _ in ZBL_TERMS)
_B0, _B1, _B2, _B3 = (tl.constexpr(b) for _, b in ZBL_TERMS)


class PairRows(NamedTuple):
    """Neighbours of every atom, a row each.

    Attributes:
        kind: Row of each atom in the table of kinds, which element and charge decide,
            element * n_charges + charge - min_charge, int32 [n_atoms].
        n_pairs: Number of neighbours, int32 [n_atoms].
        j: The neighbour in each place of a row, ascending, int32 [n_atoms, stride].
        geometry: Unit vector from the atom to the neighbour and distance in Å
            [n_atoms, stride, N_GEOMETRY].
        end: Number of atoms that are no padding, int32 [1].
    """

    kind: Tensor
    n_pairs: Tensor
    j: Tensor
    geometry: Tensor
    end: Tensor


class AtomTables(NamedTuple):
    """What an atom's element and its molecule's charge decide.

    Attributes:
        atom_index: Atomic number -> row of the tables here, int64 [128].
        nuclear: Nuclear charge [n_elements].
        nuclear_power: Nuclear charge to the power 0.23 [n_elements].
        radius: Covalent radius in Å [n_elements].
        element: Embedding of the element [n_elements, n_features].
        charge: Embedding of the total charge [n_charges, n_features].
        min_charge: Charge of the first row of that.
    """

    atom_index: Tensor
    nuclear: Tensor
    nuclear_power: Tensor
    radius: Tensor
    element: Tensor
    charge: Tensor
    min_charge: int


@triton.jit(do_not_specialize=["n_mols", "capacity"])
def pairs_kernel(
    numbers_ptr,  # int64 [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    charge_ptr,  # int64 [n_mols]
    atom_index_ptr,  # int64 [128]
    nuclear_ptr,  # [n_elements]
    nuclear_power_ptr,  # [n_elements]
    radius_ptr,  # [n_elements]
    element_ptr,  # [n_elements, n_features]
    charge_embedding_ptr,  # [n_charges, n_features]
    kind_ptr,  # int32 [n_atoms]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    end_ptr,  # int32 [1]
    q_ptr,  # [n_atoms, n_features]
    repulsion_ptr,  # [n_atoms]
    gradient_ptr,  # [n_atoms, 3]
    n_mols,
    min_charge,
    n_charges,
    stride,  # of a row
    capacity,
    cutoff,
    N_FEATURES: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    a = tl.program_id(0)
    f = tl.arange(0, N_FEATURES)
    axis = tl.arange(0, 4)
    row = a.to(tl.int64) * stride
    q = tl.zeros([N_FEATURES], tl.float32)
    energy = 0.0
    gx = 0.0
    gy = 0.0
    gz = 0.0
    count = 0
    kind = 0
    n_real = tl.load(ptr_ptr + n_mols)
    if a == 0:
        tl.store(end_ptr, n_real.to(tl.int32))
    if a < n_real:
        mol = tl.load(mol_idx_ptr + a)
        first = tl.load(ptr_ptr + mol).to(tl.int32)
        end = tl.load(ptr_ptr + mol + 1).to(tl.int32)
        species = tl.load(atom_index_ptr + tl.load(numbers_ptr + a))
        charge = tl.load(charge_ptr + mol) - min_charge
        kind = (species * n_charges + charge).to(tl.int32)
        q = tl.load(element_ptr + species * N_FEATURES + f) + tl.load(
            charge_embedding_ptr + charge * N_FEATURES + f
        )
        x = tl.load(positions_ptr + a * 3)
        y = tl.load(positions_ptr + a * 3 + 1)
        z = tl.load(positions_ptr + a * 3 + 2)
        nuclear = tl.load(nuclear_ptr + species)
        nuclear_power = tl.load(nuclear_power_ptr + species)
        radius = tl.load(radius_ptr + species)
        for start in range(first, end, BLOCK):
            b = start + tl.arange(0, BLOCK)
            real = (b < end) & (b != a)
            # Differences of float64 coordinates lose nothing to where the molecule is.
            dx = (tl.load(positions_ptr + b * 3, mask=real, other=0.0) - x).to(tl.float32)
            dy = (tl.load(positions_ptr + b * 3 + 1, mask=real, other=0.0) - y).to(tl.float32)
            dz = (tl.load(positions_ptr + b * 3 + 2, mask=real, other=0.0) - z).to(tl.float32)
            square = dx * dx + dy * dy + dz * dz
            # Not a number compares as false, so such a pair is not listed.
            inside = real & (square < cutoff * cutoff)
            d = tl.sqrt_rn(tl.where(inside, square, 1.0))
            inverse = 1.0 / d
            ux, uy, uz = dx * inverse, dy * inverse, dz * inverse

            place = count + tl.cumsum(inside.to(tl.int32), 0) - 1
            keep = inside & (place < capacity)
            tl.store(j_ptr + row + place, b, mask=keep)
            out = geometry_ptr + (row + place) * N_GEOMETRY
            tl.store(out, ux, mask=keep)
            tl.store(out + 1, uy, mask=keep)
            tl.store(out + 2, uz, mask=keep)
            tl.store(out + 3, d, mask=keep)
            count += tl.sum(inside.to(tl.int32), 0)

            # Screened nuclear repulsion and its slope: plain.repulsion_fwd_bwd.
            other = tl.load(atom_index_ptr + tl.load(numbers_ptr + b, mask=inside, other=1))
            other = tl.where(inside, other, 0)
            contact = radius + tl.load(radius_ptr + other)
            # Twice as far the repulsion is less than what a float64 energy can show.
            close = inside & (d < 2.0 * contact)
            length = (nuclear_power + tl.load(nuclear_power_ptr + other)) * _INVERSE_LENGTH
            s = length * d
            t0 = tl.exp(s * -_B0) * _A0
            t1 = tl.exp(s * -_B1) * _A1
            t2 = tl.exp(s * -_B2) * _A2
            t3 = tl.exp(s * -_B3) * _A3
            screening = t0 + t1 + t2 + t3
            screening_slope = -length * (t0 * _B0 + t1 * _B1 + t2 * _B2 + t3 * _B3)
            beyond = (d / contact - 1.0) / _REPULSION_WIDTH
            fading = tl.exp(-tl.abs(beyond))
            t = _REPULSION_WIDTH * (tl.log(1.0 + fading) + tl.maximum(-beyond, 0.0))
            inner = tl.where(beyond > 0.0, fading, 1.0) / (1.0 + fading)
            rest = 1.0 - t
            rest2 = rest * rest
            envelope = 336.0 + t * (-280.0 + t * (120.0 - 21.0 * t))
            envelope = t * t * t * (56.0 + t * (-210.0 + t * envelope))
            envelope_slope = -168.0 * rest2 * rest2 * rest * t * t * inner / contact
            coulomb = nuclear * _COULOMB * tl.load(nuclear_ptr + other) * inverse
            pair = coulomb * screening * envelope
            slope = coulomb * (screening_slope * envelope + screening * envelope_slope)
            slope = tl.where(close, slope - pair * inverse, 0.0)
            energy += 0.5 * tl.sum(tl.where(close, pair, 0.0), 0)
            gx -= tl.sum(tl.where(close, slope * ux, 0.0), 0)
            gy -= tl.sum(tl.where(close, slope * uy, 0.0), 0)
            gz -= tl.sum(tl.where(close, slope * uz, 0.0), 0)
        if count > capacity:
            energy = float("nan")
            count = capacity
    let_next_begin(OVERLAP)
    tl.store(kind_ptr + a, kind)
    tl.store(count_ptr + a, count)
    tl.store(q_ptr + a.to(tl.int64) * N_FEATURES + f, q)
    tl.store(repulsion_ptr + a, energy)
    g = tl.where(axis == 0, gx, tl.where(axis == 1, gy, gz))
    tl.store(gradient_ptr + a * 3 + axis, g, mask=axis < 3)


def pairs(
    numbers: Tensor,
    positions: Tensor,
    mol_idx: Tensor,
    ptr: Tensor,
    charge: Tensor,
    tables: AtomTables,
    cutoff: float,
) -> tuple[PairRows, Tensor, Tensor, Tensor]:
    """Neighbours of every atom, its first scalar features, and the repulsion it feels.

    Atoms from ptr[-1] on are padding: no neighbours, features and repulsion zero.

    Args:
        numbers: int64 [n_atoms].
        positions: Å, float32 or float64 [n_atoms, 3]; their differences are float32.
        mol_idx: int64 [n_atoms].
        ptr: int64 [n_mols + 1].
        charge: int64 [n_mols].
        tables: What the element and the charge decide.
        cutoff: Å.

    Returns:
        The rows; q [n_atoms, n_features]; half of the pairs' repulsion in eV [n_atoms], NaN where
        an atom has more neighbours than a row holds; its gradient in eV/Å [n_atoms, 3].
    """
    n_atoms = len(numbers)
    n_features = tables.element.shape[1]
    # A multiple of 16: kernels are compiled anew for odd strides.
    stride = triton.cdiv(max(min(n_atoms - 1, MAX_NEIGHBORS), 1), 16) * 16
    capacity = min(stride, MAX_NEIGHBORS)
    new = tables.element.new_empty
    rows = PairRows(
        kind=new(n_atoms, dtype=torch.int32),
        n_pairs=new(n_atoms, dtype=torch.int32),
        j=new(n_atoms, stride, dtype=torch.int32),
        geometry=new(n_atoms, stride, N_GEOMETRY),
        end=new(1, dtype=torch.int32),
    )
    q, repulsion, gradient = new(n_atoms, n_features), new(n_atoms), new(n_atoms, 3)
    pairs_kernel[(n_atoms,)](
        numbers,
        positions,
        mol_idx,
        ptr,
        charge,
        tables.atom_index,
        tables.nuclear,
        tables.nuclear_power,
        tables.radius,
        tables.element,
        tables.charge,
        rows.kind,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        rows.end,
        q,
        repulsion,
        gradient,
        len(charge),
        tables.min_charge,
        len(tables.charge),
        stride,
        capacity,
        cutoff,
        N_FEATURES=n_features,
        N_GEOMETRY=N_GEOMETRY,
        BLOCK=32,
        num_warps=1,
        **overlap(n_atoms),
    )
    return rows, q, repulsion, gradient
