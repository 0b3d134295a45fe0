"""Partial charges and their Coulomb energy for a CPU, molecule by molecule, in float64 inside.

Meaning: charges.equilibrate_fwd, charges.equilibrate_bwd and charges.coulomb.
"""

import math

import numpy as np
import torch
from numba import prange
from torch import Tensor

from mlff_core.ops.charges import (
    COULOMB_ONSET,
    WEIGHT_FLOOR,
    ChargeOps,
    EquilibrateSaved,
    Layout,
)
from mlff_core.ops.numba.compile import kernel, run
from mlff_core.units import COULOMB_EV_ANGSTROM


@kernel(error_model="numpy")
def _equilibrate(
    y: np.ndarray,  # [n_atoms, 2]
    charge: np.ndarray,  # [n_mols]
    place: np.ndarray,  # [n_mols, width]
    floor: float,
    c: np.ndarray,  # [n_atoms], out
    weight: np.ndarray,  # float64 [n_mols, width], zeros; out
    total: np.ndarray,  # float64 [n_mols, 1], out
    share: np.ndarray,  # float64 [n_mols, 1], out
) -> None:
    n_atoms, width = len(y), place.shape[1]
    for m in prange(len(place)):
        sum_own, sum_weight = 0.0, 0.0
        for k in range(width):
            a = place[m, k]
            if a == n_atoms:
                break
            before = float(y[a, 1])
            w = max(before, 0.0) + math.log1p(math.exp(-abs(before))) + floor
            weight[m, k] = w
            sum_own += float(y[a, 0])
            sum_weight += w
        missing = (charge[m] - sum_own) / sum_weight
        total[m, 0], share[m, 0] = sum_weight, missing
        for k in range(width):
            a = place[m, k]
            if a == n_atoms:
                break
            c[a] = float(y[a, 0]) + weight[m, k] * missing


@kernel(error_model="numpy")
def _equilibrate_gradient(
    g_c: np.ndarray,  # [n_atoms]
    y: np.ndarray,  # [n_atoms, 2]
    weight: np.ndarray,  # float64 [n_mols, width]
    total: np.ndarray,  # float64 [n_mols, 1]
    share: np.ndarray,  # float64 [n_mols, 1]
    place: np.ndarray,  # [n_mols, width]
    g_y: np.ndarray,  # [n_atoms, 2], out
) -> None:
    n_atoms, width = len(y), place.shape[1]
    for m in prange(len(place)):
        taken = 0.0
        for k in range(width):
            a = place[m, k]
            if a == n_atoms:
                break
            taken += weight[m, k] * float(g_c[a])
        taken /= total[m, 0]
        for k in range(width):
            a = place[m, k]
            if a == n_atoms:
                break
            own = float(g_c[a]) - taken
            g_y[a, 0] = own
            g_y[a, 1] = share[m, 0] * own / (1.0 + math.exp(-float(y[a, 1])))


@kernel(error_model="numpy")
def _coulomb(
    c: np.ndarray,  # [n_atoms]
    positions: np.ndarray,  # [n_atoms, 3]
    place: np.ndarray,  # [n_mols, width]
    unit: float,
    onset: float,
    potential: np.ndarray,  # float64 [n_atoms], zeros; out
    gradient: np.ndarray,  # float64 [n_atoms, 3], zeros; out
) -> None:
    n_atoms, width = len(c), place.shape[1]
    for m in prange(len(place)):
        for k in range(width):
            a = place[m, k]
            if a == n_atoms:
                break
            for other in range(k):
                b = place[m, other]
                dx = float(positions[a, 0]) - float(positions[b, 0])
                dy = float(positions[a, 1]) - float(positions[b, 1])
                dz = float(positions[a, 2]) - float(positions[b, 2])
                d = math.sqrt(dx * dx + dy * dy + dz * dz)
                value, slope = 1.0 / d, -1.0 / (d * d)
                left = 1.0 - d * d / (onset * onset)
                if left > 1e-3:  # Beyond, the exponential is nothing.
                    exponent = -(1.0 - left) / left
                    value = -math.expm1(exponent) / d
                    reach = onset * left
                    slope = (math.exp(exponent) * 2.0 * d / (reach * reach) - value) / d
                q_a, q_b = float(c[a]), float(c[b])
                potential[a] += unit * q_b * value
                potential[b] += unit * q_a * value
                pull = unit * q_a * q_b * slope / d
                gradient[a, 0] += pull * dx
                gradient[a, 1] += pull * dy
                gradient[a, 2] += pull * dz
                gradient[b, 0] -= pull * dx
                gradient[b, 1] -= pull * dy
                gradient[b, 2] -= pull * dz


def equilibrate_fwd(y: Tensor, charge: Tensor, layout: Layout) -> tuple[Tensor, EquilibrateSaved]:
    """`charges.equilibrate_fwd`."""
    c = y.new_zeros(len(y))
    weight = torch.zeros(layout.place.shape, dtype=torch.float64)
    total, share = (torch.empty(len(charge), 1, dtype=torch.float64) for _ in range(2))
    run(_equilibrate, y, charge, layout.place, WEIGHT_FLOOR, c, weight, total, share)
    return c, EquilibrateSaved(y, weight, total, share)


def equilibrate_bwd(g_c: Tensor, saved: EquilibrateSaved, layout: Layout) -> Tensor:
    """`charges.equilibrate_bwd`."""
    y, weight, total, share = saved
    g_y = torch.zeros_like(y)
    run(_equilibrate_gradient, g_c, y, weight, total, share, layout.place, g_y)
    return g_y


def coulomb(
    c: Tensor, positions: Tensor, strength: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """`charges.coulomb`."""
    potential = torch.zeros(len(c), dtype=torch.float64)
    gradient = torch.zeros(len(c), 3, dtype=torch.float64)
    unit = float(strength) * COULOMB_EV_ANGSTROM
    run(_coulomb, c, positions, layout.place, unit, COULOMB_ONSET, potential, gradient)
    energy = (0.5 * c * potential).to(c.dtype)
    return energy, potential.to(c.dtype), gradient.to(positions.dtype)


#: For `AnalyticEngine`.
CHARGE_OPS = ChargeOps(equilibrate_fwd, equilibrate_bwd, coulomb)
