# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The whole minimisation of a conformer's distance-geometry coordinates in one program.

Meaning: embedding.plain.minimise.

A program keeps coordinates and Adam's means of its conformer in registers from the first step to
the last. Each step it lays the coordinates down in memory once, so that pairs and terms can read
those of other atoms; each term writes its gradient on its four atoms to slots of its own, and each
atom gathers its slots in a fixed order. So nothing depends on which thread is first, and a
conformer does not depend on those beside it. Bounds come from the second-level cache, where all
conformers of a molecule share them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.embedding.packing import Packed
from mlff_core.embedding.plain import NEAR_BELOW, SOFT_NORMAL, TINY
from mlff_core.embedding.schedule import COLUMNS, FIRST_DECAY, MAX_GRADIENT, SECOND_DECAY

#: Columns of pairs at a time and warps of a program, by size class;
#: the fastest of those tried on one H200.
TILES = {16: (16, 1), 32: (8, 1), 64: (8, 2), 128: (8, 2), 256: (8, 4)}
#: Terms at a time.
TERMS = {16: 32, 32: 32, 64: 64, 128: 128, 256: 256}

_N_COLUMNS = tl.constexpr(len(COLUMNS))
_FIRST = tl.constexpr(FIRST_DECAY)
_SECOND = tl.constexpr(SECOND_DECAY)
_MAX_GRADIENT = tl.constexpr(MAX_GRADIENT)
_TINY = tl.constexpr(TINY)
_NEAR_BELOW = tl.constexpr(NEAR_BELOW)
_SOFT_NORMAL = tl.constexpr(SOFT_NORMAL)


@triton.jit
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit
def _load_atom(xs, atoms_ptr, term, mask, place: tl.constexpr, SIZE: tl.constexpr):
    atom = tl.load(atoms_ptr + term * 4 + place, mask=mask, other=0)
    x = tl.load(xs + atom, mask=mask, other=0.0)
    y = tl.load(xs + SIZE + atom, mask=mask, other=0.0)
    z = tl.load(xs + 2 * SIZE + atom, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def _store_slot(slots, slot, x, y, z, mask, stride):
    tl.store(slots + slot, x, mask=mask)
    tl.store(slots + stride + slot, y, mask=mask)
    tl.store(slots + 2 * stride + slot, z, mask=mask)


@triton.jit
def minimise_kernel(
    x_ptr,  # float32 [n_conformers, 4, SIZE], in: where they start, out: where they end
    molecule_ptr,  # int64 [n_conformers]
    n_atoms_ptr,  # int64 [n_mols]
    inverse_upper_ptr,  # float32 [n_mols, SIZE, SIZE], symmetric
    lower_ptr,  # float32 [n_mols, SIZE, SIZE], symmetric
    stretch_ptr,  # float32 [n_mols]
    volume_ptr,  # int64 [n_mols + 1]
    volume_atoms_ptr,  # int32 [n_volumes, 4]
    volume_bounds_ptr,  # float32 [n_volumes, 3]
    volume_flat_ptr,  # bool [n_volumes]
    torsion_ptr,  # int64 [n_mols + 1]
    torsion_atoms_ptr,  # int32 [n_torsions, 4]
    torsion_series_ptr,  # float32 [n_torsions, 6]
    incident_ptr,  # int32 [n_slots]
    incident_first_ptr,  # int32 [n_mols, SIZE + 1]
    schedule_ptr,  # float32 [n_steps, _N_COLUMNS]
    slots_ptr,  # float32 [n_conformers, 3, stride], scratch
    n_steps,
    stride,
    SIZE: tl.constexpr,
    COLS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """One program a conformer."""
    conformer = tl.program_id(0).to(tl.int64)
    molecule = tl.load(molecule_ptr + conformer)
    n_atoms = tl.load(n_atoms_ptr + molecule).to(tl.int32)
    rows = tl.arange(0, SIZE)
    xs = x_ptr + conformer * 4 * SIZE
    slots = slots_ptr + conformer * 3 * stride
    most_stretch = tl.load(stretch_ptr + molecule)
    inverse_upper_ptr += molecule * SIZE * SIZE
    lower_ptr += molecule * SIZE * SIZE
    first_volume = tl.load(volume_ptr + molecule)
    n_volumes = (tl.load(volume_ptr + molecule + 1) - first_volume).to(tl.int32)
    first_torsion = tl.load(torsion_ptr + molecule)
    n_torsions = (tl.load(torsion_ptr + molecule + 1) - first_torsion).to(tl.int32)
    volume_atoms_ptr += first_volume * 4
    volume_bounds_ptr += first_volume * 3
    volume_flat_ptr += first_volume
    torsion_atoms_ptr += first_torsion * 4
    torsion_series_ptr += first_torsion * 6
    first_slot = tl.load(incident_first_ptr + molecule * (SIZE + 1) + rows)
    n_slots = tl.load(incident_first_ptr + molecule * (SIZE + 1) + rows + 1) - first_slot
    most_slots = tl.max(n_slots, 0)

    x = tl.load(xs + rows)
    y = tl.load(xs + SIZE + rows)
    z = tl.load(xs + 2 * SIZE + rows)
    w = tl.load(xs + 3 * SIZE + rows)
    mean_x = tl.zeros([SIZE], tl.float32)
    mean_y = tl.zeros([SIZE], tl.float32)
    mean_z = tl.zeros([SIZE], tl.float32)
    mean_w = tl.zeros([SIZE], tl.float32)
    square_x = tl.zeros([SIZE], tl.float32)
    square_y = tl.zeros([SIZE], tl.float32)
    square_z = tl.zeros([SIZE], tl.float32)
    square_w = tl.zeros([SIZE], tl.float32)

    for step in range(n_steps):
        now = schedule_ptr + step * _N_COLUMNS
        rate = tl.load(now)
        near = tl.load(now + 1)
        far = tl.load(now + 2)
        fourth = tl.load(now + 3)
        chiral = tl.load(now + 4)
        flat = tl.load(now + 5)
        torsion = tl.load(now + 6)
        keep = tl.load(now + 7)
        first_bias = tl.load(now + 8)
        second_bias = tl.load(now + 9)
        stretch = tl.load(now + 10) * most_stretch
        # Every thread has read the coordinates of the step before: a barrier lies between.
        tl.store(xs + rows, x)
        tl.store(xs + SIZE + rows, y)
        tl.store(xs + 2 * SIZE + rows, z)
        tl.store(xs + 3 * SIZE + rows, w)
        tl.debug_barrier()

        for start in range(0, n_volumes, TERMS):
            term = start + tl.arange(0, TERMS)
            mask = term < n_volumes
            ax, ay, az = _load_atom(xs, volume_atoms_ptr, term, mask, 0, SIZE)
            bx, by, bz = _load_atom(xs, volume_atoms_ptr, term, mask, 1, SIZE)
            cx, cy, cz = _load_atom(xs, volume_atoms_ptr, term, mask, 2, SIZE)
            dx, dy, dz = _load_atom(xs, volume_atoms_ptr, term, mask, 3, SIZE)
            ax, ay, az = ax - dx, ay - dy, az - dz
            bx, by, bz = bx - dx, by - dy, bz - dz
            cx, cy, cz = cx - dx, cy - dy, cz - dz
            low = tl.load(volume_bounds_ptr + term * 3, mask=mask, other=0.0)
            high = tl.load(volume_bounds_ptr + term * 3 + 1, mask=mask, other=0.0)
            factor = tl.load(volume_bounds_ptr + term * 3 + 2, mask=mask, other=0.0)
            is_flat = tl.load(volume_flat_ptr + term, mask=mask, other=0)
            bcx, bcy, bcz = _cross(bx, by, bz, cx, cy, cz)
            cax, cay, caz = _cross(cx, cy, cz, ax, ay, az)
            abx, aby, abz = _cross(ax, ay, az, bx, by, bz)
            volume = ax * bcx + ay * bcy + az * bcz
            slope = 2.0 * factor * tl.where(is_flat != 0, flat, chiral)
            slope *= tl.maximum(volume - high, 0.0) - tl.maximum(low - volume, 0.0)
            _store_slot(slots, 4 * term, slope * bcx, slope * bcy, slope * bcz, mask, stride)
            _store_slot(slots, 4 * term + 1, slope * cax, slope * cay, slope * caz, mask, stride)
            _store_slot(slots, 4 * term + 2, slope * abx, slope * aby, slope * abz, mask, stride)
            dx = -slope * (bcx + cax + abx)
            dy = -slope * (bcy + cay + aby)
            dz = -slope * (bcz + caz + abz)
            _store_slot(slots, 4 * term + 3, dx, dy, dz, mask, stride)

        for start in range(0, n_torsions, TERMS):
            term = start + tl.arange(0, TERMS)
            mask = term < n_torsions
            ax, ay, az = _load_atom(xs, torsion_atoms_ptr, term, mask, 0, SIZE)
            bx, by, bz = _load_atom(xs, torsion_atoms_ptr, term, mask, 1, SIZE)
            cx, cy, cz = _load_atom(xs, torsion_atoms_ptr, term, mask, 2, SIZE)
            dx, dy, dz = _load_atom(xs, torsion_atoms_ptr, term, mask, 3, SIZE)
            ax, ay, az = bx - ax, by - ay, bz - az  # first bond, axis and last bond from here on
            dx, dy, dz = dx - cx, dy - cy, dz - cz
            bx, by, bz = cx - bx, cy - by, cz - bz
            lx, ly, lz = _cross(ax, ay, az, bx, by, bz)
            rx, ry, rz = _cross(bx, by, bz, dx, dy, dz)
            left = 1.0 / tl.sqrt(lx * lx + ly * ly + lz * lz + _SOFT_NORMAL)
            right = 1.0 / tl.sqrt(rx * rx + ry * ry + rz * rz + _SOFT_NORMAL)
            lx, ly, lz = lx * left, ly * left, lz * left
            rx, ry, rz = rx * right, ry * right, rz * right
            cosine = lx * rx + ly * ry + lz * rz
            slope = tl.zeros([TERMS], tl.float32)
            for k in tl.static_range(6):
                power = 6 - k
                c = tl.load(torsion_series_ptr + term * 6 + power - 1, mask=mask, other=0.0)
                slope = slope * cosine + power * c
            slope *= torsion
            # Gradient on the two normals, then on the three bonds.
            sx = slope * left * (rx - cosine * lx)
            sy = slope * left * (ry - cosine * ly)
            sz = slope * left * (rz - cosine * lz)
            tx = slope * right * (lx - cosine * rx)
            ty = slope * right * (ly - cosine * ry)
            tz = slope * right * (lz - cosine * rz)
            fx, fy, fz = _cross(bx, by, bz, sx, sy, sz)
            mx, my, mz = _cross(sx, sy, sz, ax, ay, az)
            nx, ny, nz = _cross(dx, dy, dz, tx, ty, tz)
            mx, my, mz = mx + nx, my + ny, mz + nz
            ex, ey, ez = _cross(tx, ty, tz, bx, by, bz)
            slot = 4 * (n_volumes + term)
            _store_slot(slots, slot, -fx, -fy, -fz, mask, stride)
            _store_slot(slots, slot + 1, fx - mx, fy - my, fz - mz, mask, stride)
            _store_slot(slots, slot + 2, mx - ex, my - ey, mz - ez, mask, stride)
            _store_slot(slots, slot + 3, ex, ey, ez, mask, stride)

        sum_x = tl.zeros([SIZE, COLS], tl.float32)
        sum_y = tl.zeros([SIZE, COLS], tl.float32)
        sum_z = tl.zeros([SIZE, COLS], tl.float32)
        sum_w = tl.zeros([SIZE, COLS], tl.float32)
        for start in range(0, n_atoms, COLS):
            cols = start + tl.arange(0, COLS)
            # The matrices are symmetric: columns are read as rows, which lie side by side.
            pair = cols[None, :] * SIZE + rows[:, None]
            inverse_upper = tl.load(inverse_upper_ptr + pair)
            lower = tl.load(lower_ptr + pair)
            dx = x[:, None] - tl.load(xs + cols)[None, :]
            dy = y[:, None] - tl.load(xs + SIZE + cols)[None, :]
            dz = z[:, None] - tl.load(xs + 2 * SIZE + cols)[None, :]
            dw = w[:, None] - tl.load(xs + 3 * SIZE + cols)[None, :]
            squared = dx * dx + dy * dy + dz * dz + dw * dw
            if stretch > 0:
                root = tl.sqrt(lower)
                raised = root + stretch * (1.0 / tl.sqrt(tl.abs(inverse_upper)) - root)
                lower = tl.where((inverse_upper > 0) & (lower > 0), raised * raised, lower)
            strength = 4.0 * tl.where(inverse_upper < 0, near, far)
            below = 2.0 * lower * tl.where(inverse_upper < 0, _NEAR_BELOW, 1.0)
            inverse_upper = tl.abs(inverse_upper)
            inverse = 1.0 / (lower + squared + _TINY)
            over = tl.maximum(squared * inverse_upper - 1.0, 0.0)
            under = tl.maximum(2.0 * lower * inverse - 1.0, 0.0)
            slope = strength * (over * inverse_upper - below * under * inverse * inverse)
            sum_x += slope * dx
            sum_y += slope * dy
            sum_z += slope * dz
            sum_w += slope * dw
        gx = tl.sum(sum_x, 1)
        gy = tl.sum(sum_y, 1)
        gz = tl.sum(sum_z, 1)
        gw = tl.sum(sum_w, 1) + 2.0 * fourth * w
        tl.debug_barrier()
        for k in range(most_slots):
            mask = k < n_slots
            slot = tl.load(incident_ptr + first_slot + k, mask=mask, other=0)
            gx += tl.load(slots + slot, mask=mask, other=0.0)
            gy += tl.load(slots + stride + slot, mask=mask, other=0.0)
            gz += tl.load(slots + 2 * stride + slot, mask=mask, other=0.0)

        length = tl.sqrt(gx * gx + gy * gy + gz * gz + gw * gw)
        clip = tl.minimum(1.0 / (length + _TINY) * _MAX_GRADIENT, 1.0)
        gx, gy, gz, gw = gx * clip, gy * clip, gz * clip, gw * clip
        mean_x = mean_x * _FIRST + gx * (1 - _FIRST)
        mean_y = mean_y * _FIRST + gy * (1 - _FIRST)
        mean_z = mean_z * _FIRST + gz * (1 - _FIRST)
        mean_w = mean_w * _FIRST + gw * (1 - _FIRST)
        square_x = square_x * _SECOND + gx * gx * (1 - _SECOND)
        square_y = square_y * _SECOND + gy * gy * (1 - _SECOND)
        square_z = square_z * _SECOND + gz * gz * (1 - _SECOND)
        square_w = square_w * _SECOND + gw * gw * (1 - _SECOND)
        rate *= first_bias
        x -= rate * mean_x / (tl.sqrt(square_x * second_bias) + 1e-6)
        y -= rate * mean_y / (tl.sqrt(square_y * second_bias) + 1e-6)
        z -= rate * mean_z / (tl.sqrt(square_z * second_bias) + 1e-6)
        w = keep * (w - rate * mean_w / (tl.sqrt(square_w * second_bias) + 1e-6))

    tl.debug_barrier()
    tl.store(xs + rows, x)
    tl.store(xs + SIZE + rows, y)
    tl.store(xs + 2 * SIZE + rows, z)
    tl.store(xs + 3 * SIZE + rows, w)


def minimise(x: Tensor, packed: Packed, molecule: Tensor, schedule: Tensor) -> Tensor:
    """As `embedding.plain.minimise`, in float32, on a CUDA device.

    Raises:
        ValueError: The coordinates are not float32, or do not fit the size class.
    """
    if x.dtype != torch.float32 or x.shape[1:] != (4, packed.size):
        raise ValueError(
            f"expected float32 [n, 4, {packed.size}], found {x.dtype} {tuple(x.shape)}"
        )
    x = x.clone()
    n_terms = (packed.volumes.ptr + packed.torsions.ptr).diff()
    # A multiple of 16: kernels are compiled anew for odd strides.
    stride = triton.cdiv(max(int(n_terms.max()), 1), 4) * 16
    slots = torch.empty(len(x), 3, stride, device=x.device)
    schedule = schedule.to(x.device, torch.float32).contiguous()
    if len(x):
        cols, warps = TILES[packed.size]
        minimise_kernel[(len(x),)](
            x,
            molecule,
            packed.n_atoms,
            packed.inverse_upper,
            packed.lower,
            packed.stretch,
            packed.volumes.ptr,
            packed.volumes.atoms.int(),
            packed.volume_bounds,
            packed.volume_flat,
            packed.torsions.ptr,
            packed.torsions.atoms.int(),
            packed.torsion_series,
            packed.incident,
            packed.incident_ptr,
            schedule,
            slots,
            len(schedule),
            stride,
            SIZE=packed.size,
            COLS=cols,
            TERMS=TERMS[packed.size],
            num_warps=warps,
        )
    return x
