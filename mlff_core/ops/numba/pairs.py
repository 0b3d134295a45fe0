"""Pairs within the cutoff, their geometry and their repulsion, for a CPU.

Meaning: neighbors.neighbor_pairs, plain.edge_geometry, plain.repulsion_fwd_bwd and
plain.position_gradient.
"""

import math

import numpy as np
import torch
from numba import prange
from torch import Tensor

from mlff_core.ops.numba.compile import FASTMATH, Unaliased, as_array, compiled, kernel, run
from mlff_core.ops.plain import REPULSION_WIDTH, ZBL_LENGTH, ZBL_TERMS, Edges
from mlff_core.units import COULOMB_EV_ANGSTROM


@kernel()
def _count_pairs(
    positions: np.ndarray,  # [n_atoms, 3]
    mol_idx: np.ndarray,  # [n_atoms]
    ptr: np.ndarray,  # [n_mols + 1]
    cutoff: float,
    count: np.ndarray,  # int64 [n_atoms], out
) -> None:
    limit = positions.dtype.type(cutoff * cutoff)
    for a in prange(len(positions)):
        n = 0
        for b in range(ptr[mol_idx[a]], ptr[mol_idx[a] + 1]):
            dx = positions[b, 0] - positions[a, 0]
            dy = positions[b, 1] - positions[a, 1]
            dz = positions[b, 2] - positions[a, 2]
            if dx * dx + dy * dy + dz * dz < limit and b != a:
                n += 1
        count[a] = n


@kernel(error_model="numpy")
def _fill_pairs(
    positions: np.ndarray,  # [n_atoms, 3]
    mol_idx: np.ndarray,  # [n_atoms]
    ptr: np.ndarray,  # [n_mols + 1]
    cutoff: float,
    row: np.ndarray,  # int64 [n_atoms + 1]
    i: np.ndarray,  # int64 [n_edges], out
    j: np.ndarray,  # int64 [n_edges], out
    distance: np.ndarray,  # [n_edges], out
    unit: np.ndarray,  # [n_edges, 3], out
) -> None:
    limit = positions.dtype.type(cutoff * cutoff)
    for a in prange(len(positions)):
        e = row[a]
        for b in range(ptr[mol_idx[a]], ptr[mol_idx[a] + 1]):
            dx = positions[b, 0] - positions[a, 0]
            dy = positions[b, 1] - positions[a, 1]
            dz = positions[b, 2] - positions[a, 2]
            square = dx * dx + dy * dy + dz * dz
            if square < limit and b != a:
                d = np.sqrt(square)
                i[e], j[e], distance[e] = a, b, d
                unit[e, 0], unit[e, 1], unit[e, 2] = dx / d, dy / d, dz / d
                e += 1


@kernel(fastmath=FASTMATH, error_model="numpy")
def _repulsion(
    row: np.ndarray,  # [n_atoms + 1]
    j: np.ndarray,  # [n_edges]
    distance: np.ndarray,  # [n_edges]
    Z: np.ndarray,  # nuclear charges [n_atoms]
    Z_power: np.ndarray,  # Z^0.23 [n_atoms]
    radius: np.ndarray,  # covalent radii [n_atoms]
    terms: np.ndarray,  # amplitudes and exponents of the screening function [n_terms, 2]
    width: float,
    zbl_length: float,
    coulomb: float,
    energy: np.ndarray,  # [n_atoms], out
    slope: np.ndarray,  # [n_edges], out
) -> None:
    real = distance.dtype.type
    zero, one, half = real(0), real(1), real(0.5)
    w, length, unit_energy = real(width), real(zbl_length), real(coulomb)
    for a in prange(len(energy)):
        total = zero
        for e in range(row[a], row[a + 1]):
            b, d = j[e], distance[e]
            contact = radius[a] + radius[b]
            beyond = (d / contact - one) / w
            slope[e] = zero
            if beyond > 20:
                # What is left here of the envelope, 1e-28, and of its slope no sum would notice.
                continue
            inverse_length = (Z_power[a] + Z_power[b]) / length
            screening, screening_slope = zero, zero
            for k in range(len(terms)):
                decay = terms[k, 1] * inverse_length
                term = terms[k, 0] * math.exp(-decay * d)
                screening += term
                screening_slope -= decay * term
            x = math.exp(-abs(beyond))
            t = w * (max(-beyond, zero) + math.log1p(x))
            sigmoid = (x if beyond > 0 else one) / (one + x)
            envelope = real(120) - real(21) * t
            envelope = real(336) + t * (t * envelope - real(280))
            envelope = t * t * t * (real(56) + t * (t * envelope - real(210)))
            y = one - t
            envelope_slope = -real(168) * (y * y * y * y * y) * (t * t) * sigmoid / contact
            scale = half * unit_energy * Z[a] * Z[b] / d
            total += scale * screening * envelope
            slope[e] = scale * (
                screening_slope * envelope + screening * (envelope_slope - envelope / d)
            )
        energy[a] = total


@compiled(nogil=True, fastmath=FASTMATH, error_model="numpy", pipeline_class=Unaliased)
def _position_gradient(
    i: np.ndarray,  # [n_edges]
    j: np.ndarray,  # [n_edges]
    distance: np.ndarray,  # [n_edges]
    unit: np.ndarray,  # [n_edges, 3]
    g_distance: np.ndarray,  # [n_edges]
    g_unit: np.ndarray,  # [n_edges, 3]
    gradient: np.ndarray,  # [n_atoms, 3], zeros; out
) -> None:
    for e in range(len(i)):
        a, b = i[e], j[e]
        ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
        gx, gy, gz = g_unit[e, 0], g_unit[e, 1], g_unit[e, 2]
        along = gx * ux + gy * uy + gz * uz
        d, radial = distance[e], g_distance[e]
        x = radial * ux + (gx - along * ux) / d
        y = radial * uy + (gy - along * uy) / d
        z = radial * uz + (gz - along * uz) / d
        gradient[b, 0] += x
        gradient[b, 1] += y
        gradient[b, 2] += z
        gradient[a, 0] -= x
        gradient[a, 1] -= y
        gradient[a, 2] -= z


def find_pairs(
    positions: Tensor, mol_idx: Tensor, ptr: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pairs within the cutoff, as `neighbors.neighbor_pairs` lists them, and their geometry.

    Returns:
        Row starts [n_atoms + 1], destinations, sources, distances in Å [n_edges] and unit vectors
        [n_edges, 3].
    """
    count = torch.empty(len(positions), dtype=torch.int64)
    run(_count_pairs, positions, mol_idx, ptr, cutoff, count)
    row = torch.zeros(len(positions) + 1, dtype=torch.int64)
    torch.cumsum(count, 0, out=row[1:])
    n_edges = int(row[-1])
    i, j = (torch.empty(n_edges, dtype=torch.int64) for _ in range(2))
    distance, unit = positions.new_empty(n_edges), positions.new_empty(n_edges, 3)
    run(_fill_pairs, positions, mol_idx, ptr, cutoff, row, i, j, distance, unit)
    return row, i, j, distance, unit


def repulsion(
    row: Tensor, j: Tensor, distance: Tensor, Z: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    """Half of `plain.repulsion_fwd_bwd` a pair, its energies added up by destination.

    Args:
        row: Row starts of the pairs [n_atoms + 1].
        j: Sources [n_edges].
        distance: Å [n_edges].
        Z: Nuclear charges [n_atoms].
        radius: Covalent radii in Å [n_atoms].
    """
    energy, slope = torch.empty_like(Z), torch.empty_like(distance)
    terms = torch.tensor(ZBL_TERMS, dtype=Z.dtype)
    constants = (REPULSION_WIDTH, ZBL_LENGTH, COULOMB_EV_ANGSTROM)
    run(_repulsion, row, j, distance, Z, Z**0.23, radius, terms, *constants, energy, slope)
    return energy, slope


def position_gradient(edges: Edges, g_distance: Tensor, g_unit: Tensor, n_atoms: int) -> Tensor:
    """`plain.position_gradient`, in the caller's thread."""
    gradient = torch.zeros(n_atoms, 3, dtype=g_unit.dtype)
    given = (*edges[:4], g_distance, g_unit, gradient)
    _position_gradient(*(as_array(tensor) for tensor in given))
    return gradient
