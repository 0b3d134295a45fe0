# mypy: disable-error-code="arg-type, assignment, attr-defined, call-arg, no-untyped-def"
# mypy: disable-error-code="var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The model Hessian of each molecule and its inverse in one launch, one program a molecule.

Meaning: `hessian.inverse_model_hessian`, whose sixty operators take the host longer to launch than
the device to compute, and work on matrices as wide as the widest molecule there may be. A program
here works on no more than its own molecule's.

The matrix is inverted in place by blocks of columns (Gauss and Jordan): it is positive definite,
so its diagonal blocks need no search for a pivot.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.moves.hessian import HessianConstants, HessianModel, covalent_radius
from mlff_core.moves.slots import Rows


@triton.jit
def _springs(
    x,  # of this molecule, [width, 3]
    z,  # int64 [width]
    free,  # uint8 [width]
    radius,  # by atomic number, Å [128]
    model,  # hessian.HessianModel
    matrix,  # of this molecule, out
    size,
    stride,
    CONSTANTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Springs between all pairs, on the ground."""
    for i0 in range(0, size, ROWS):
        i = i0 + tl.arange(0, ROWS)
        is_i = i < size
        xi = tl.load(x + 3 * i, mask=is_i, other=0.0)
        yi = tl.load(x + 3 * i + 1, mask=is_i, other=0.0)
        zi = tl.load(x + 3 * i + 2, mask=is_i, other=0.0)
        radius_i = tl.load(radius + tl.load(z + i, mask=is_i, other=0))
        free_i = tl.load(free + i, mask=is_i, other=0) != 0
        xx = tl.zeros([ROWS], tl.float32)
        xy = tl.zeros([ROWS], tl.float32)
        xz = tl.zeros([ROWS], tl.float32)
        yy = tl.zeros([ROWS], tl.float32)
        yz = tl.zeros([ROWS], tl.float32)
        zz = tl.zeros([ROWS], tl.float32)
        for j0 in range(0, size, COLUMNS):
            j = j0 + tl.arange(0, COLUMNS)
            is_j = j < size
            dx = tl.load(x + 3 * j, mask=is_j, other=0.0)[None, :] - xi[:, None]
            dy = tl.load(x + 3 * j + 1, mask=is_j, other=0.0)[None, :] - yi[:, None]
            dz = tl.load(x + 3 * j + 2, mask=is_j, other=0.0)[None, :] - zi[:, None]
            radius_j = tl.load(radius + tl.load(z + j, mask=is_j, other=0))
            free_j = tl.load(free + j, mask=is_j, other=0) != 0
            d = tl.sqrt(dx * dx + dy * dy + dz * dz)
            # Two atoms in one place have no direction, and what is not finite has no spring.
            pair = is_i[:, None] & is_j[None, :] & (d > 0.0) & (d < float("inf"))
            d = tl.where(pair, d, 1.0)
            beyond = d / (radius_i[:, None] + radius_j[None, :]) - 1.0
            beyond = tl.minimum(beyond, CONSTANTS.farthest)
            fall = model.spring_decay * beyond + model.spring_curve * beyond * beyond
            along = tl.minimum(model.spring * tl.exp(-fall), model.spring_max)
            across = model.sideways * tl.exp(-model.sideways_decay * beyond)
            across = tl.minimum(across, model.spring_max)
            along = tl.where(pair, (along - across) / (d * d), 0.0)
            across = tl.where(pair, across, 0.0)
            dx = tl.where(pair, dx, 0.0)
            dy = tl.where(pair, dy, 0.0)
            dz = tl.where(pair, dz, 0.0)
            b_xx = along * dx * dx + across
            b_xy = along * dx * dy
            b_xz = along * dx * dz
            b_yy = along * dy * dy + across
            b_yz = along * dy * dz
            b_zz = along * dz * dz + across
            xx += tl.sum(b_xx, 1)
            xy += tl.sum(b_xy, 1)
            xz += tl.sum(b_xz, 1)
            yy += tl.sum(b_yy, 1)
            yz += tl.sum(b_yz, 1)
            zz += tl.sum(b_zz, 1)
            both = free_i[:, None] & free_j[None, :]
            place = matrix + 3 * i[:, None] * stride + 3 * j[None, :]
            others = is_i[:, None] & is_j[None, :] & (i[:, None] != j[None, :])
            tl.store(place, tl.where(both, -b_xx, 0.0), mask=others)
            tl.store(place + 1, tl.where(both, -b_xy, 0.0), mask=others)
            tl.store(place + 2, tl.where(both, -b_xz, 0.0), mask=others)
            tl.store(place + stride, tl.where(both, -b_xy, 0.0), mask=others)
            tl.store(place + stride + 1, tl.where(both, -b_yy, 0.0), mask=others)
            tl.store(place + stride + 2, tl.where(both, -b_yz, 0.0), mask=others)
            tl.store(place + 2 * stride, tl.where(both, -b_xz, 0.0), mask=others)
            tl.store(place + 2 * stride + 1, tl.where(both, -b_yz, 0.0), mask=others)
            tl.store(place + 2 * stride + 2, tl.where(both, -b_zz, 0.0), mask=others)
        own = matrix + 3 * i * stride + 3 * i
        tl.store(own, tl.where(free_i, xx + model.ground, 1.0), mask=is_i)
        tl.store(own + 1, tl.where(free_i, xy, 0.0), mask=is_i)
        tl.store(own + 2, tl.where(free_i, xz, 0.0), mask=is_i)
        tl.store(own + stride, tl.where(free_i, xy, 0.0), mask=is_i)
        tl.store(own + stride + 1, tl.where(free_i, yy + model.ground, 1.0), mask=is_i)
        tl.store(own + stride + 2, tl.where(free_i, yz, 0.0), mask=is_i)
        tl.store(own + 2 * stride, tl.where(free_i, xz, 0.0), mask=is_i)
        tl.store(own + 2 * stride + 1, tl.where(free_i, yz, 0.0), mask=is_i)
        tl.store(own + 2 * stride + 2, tl.where(free_i, zz + model.ground, 1.0), mask=is_i)


@triton.jit
def _bends(
    x,  # as above
    z,
    free,
    radius,
    model,
    matrix,
    size,
    stride,
    CONSTANTS: tl.constexpr,
    W: tl.constexpr,  # holds all atoms
):
    """Angles between bonds, those of one centre after those of another."""
    MOST_BONDS: tl.constexpr = CONSTANTS.most_bonds
    a = tl.arange(0, W)
    is_a = a < size
    xa = tl.load(x + 3 * a, mask=is_a, other=0.0)
    ya = tl.load(x + 3 * a + 1, mask=is_a, other=0.0)
    za = tl.load(x + 3 * a + 2, mask=is_a, other=0.0)
    radius_a = tl.load(radius + tl.load(z + a, mask=is_a, other=0))
    # Coordinates of the centre, then of its neighbours; the last place is empty.
    place = tl.arange(0, 16)
    whose = place // 3
    axis = place % 3
    for centre in range(0, size):
        x0 = tl.load(x + 3 * centre)
        y0 = tl.load(x + 3 * centre + 1)
        z0 = tl.load(x + 3 * centre + 2)
        dx = xa - x0
        dy = ya - y0
        dz = za - z0
        d = tl.sqrt(dx * dx + dy * dy + dz * dz)
        pair = is_a & (d > 0.0) & (d < float("inf"))
        own_radius = tl.load(radius + tl.load(z + centre))
        q = tl.where(pair, d / (own_radius + radius_a), float("inf"))
        atom = tl.where(whose == 0, centre, 0)
        is_there = whose == 0
        ux = ()
        uy = ()
        uz = ()
        length = ()
        decay = ()
        for k in tl.static_range(MOST_BONDS):
            near = tl.min(q, 0)
            nearest = tl.min(tl.where(q == near, a, W), 0)
            q = tl.where(a == nearest, float("inf"), q)
            bonded = near < CONSTANTS.bonded
            nearest = tl.where(bonded, nearest, centre)
            vx = tl.load(x + 3 * nearest) - x0
            vy = tl.load(x + 3 * nearest + 1) - y0
            vz = tl.load(x + 3 * nearest + 2) - z0
            v = tl.where(bonded, tl.sqrt(vx * vx + vy * vy + vz * vz), 1.0)
            ux = ux + (vx / v,)  # noqa: RUF005, a star would not compile
            uy = uy + (vy / v,)  # noqa: RUF005
            uz = uz + (vz / v,)  # noqa: RUF005
            length = length + (tl.maximum(v, CONSTANTS.shortest),)  # noqa: RUF005
            fall = tl.where(bonded, model.bend_decay * (near - 1.0), 0.0)
            decay = decay + (tl.where(bonded, tl.exp(-fall), 0.0),)  # noqa: RUF005
            atom = tl.where(whose == k + 1, nearest, atom)
            is_there = is_there | (whose == tl.where(bonded, k + 1, -1))
        is_there = is_there & (tl.load(free + atom) != 0)
        added = tl.zeros([16, 16], tl.float32)
        for m in tl.static_range(MOST_BONDS):
            for n in tl.static_range(MOST_BONDS):
                if n > m:
                    stiffness = tl.minimum(model.bend * decay[m] * decay[n], model.spring_max)
                    cosine = ux[m] * ux[n] + uy[m] * uy[n] + uz[m] * uz[n]
                    sine = tl.sqrt(1.0 - cosine * cosine + CONSTANTS.in_line)
                    by_m = 1.0 / (length[m] * sine)
                    by_n = 1.0 / (length[n] * sine)
                    mx = (cosine * ux[m] - ux[n]) * by_m
                    my = (cosine * uy[m] - uy[n]) * by_m
                    mz = (cosine * uz[m] - uz[n]) * by_m
                    nx = (cosine * ux[n] - ux[m]) * by_n
                    ny = (cosine * uy[n] - uy[m]) * by_n
                    nz = (cosine * uz[n] - uz[m]) * by_n
                    of_m = tl.where(axis == 0, mx, tl.where(axis == 1, my, mz))
                    of_n = tl.where(axis == 0, nx, tl.where(axis == 1, ny, nz))
                    way = tl.where(whose == 0, -of_m - of_n, 0.0)
                    way = tl.where(whose == m + 1, of_m, way)
                    way = tl.where(whose == n + 1, of_n, way)
                    added += stiffness * way[:, None] * way[None, :]
        # What was written before, here or for the springs, must be there.
        tl.debug_barrier()
        coordinate = 3 * atom + axis
        cell = matrix + coordinate[:, None] * stride + coordinate[None, :]
        inside = is_there[:, None] & is_there[None, :]
        tl.store(cell, tl.load(cell, mask=inside, other=0.0) + added, mask=inside)


@triton.jit
def _invert(
    matrix,  # in place
    n,
    stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIVOTS: tl.constexpr,
):
    """The inverse of a symmetric positive definite matrix of n rows."""
    within = tl.arange(0, PIVOTS)
    for k0 in range(0, n, PIVOTS):
        tl.debug_barrier()
        k = k0 + within
        is_k = k < n
        is_own = is_k[:, None] & is_k[None, :]
        own = tl.load(matrix + k[:, None] * stride + k[None, :], mask=is_own, other=0.0)
        on_diagonal = within[:, None] == within[None, :]
        own = tl.where(is_own, own, tl.where(on_diagonal, 1.0, 0.0))
        for s in range(0, PIVOTS):
            of_row = within[:, None] == s
            of_column = within[None, :] == s
            row = tl.sum(tl.where(of_row, own, 0.0), 0)
            column = tl.sum(tl.where(of_column, own, 0.0), 1)
            over_pivot = 1.0 / tl.sum(tl.where(within == s, row, 0.0), 0)
            rest = own - column[:, None] * (row * over_pivot)[None, :]
            rest = tl.where(of_row, (row * over_pivot)[None, :], rest)
            rest = tl.where(of_column, -(column * over_pivot)[:, None], rest)
            own = tl.where(of_row & of_column, over_pivot, rest)
        for j0 in range(0, n, COLUMNS):
            j = j0 + tl.arange(0, COLUMNS)
            is_j = j < n
            above = matrix + k[:, None] * stride + j[None, :]
            right = tl.load(above, mask=is_k[:, None] & is_j[None, :], other=0.0)
            right = tl.dot(own, right, input_precision="ieee")
            # These rows are about to be written.
            tl.debug_barrier()
            is_other = is_j & ((j < k0) | (j >= k0 + PIVOTS))
            for i0 in range(0, n, ROWS):
                i = i0 + tl.arange(0, ROWS)
                is_i = i < n
                of_pivot = (i >= k0) & (i < k0 + PIVOTS)
                beside = matrix + i[:, None] * stride + k[None, :]
                left = tl.load(beside, mask=is_i[:, None] & is_k[None, :], other=0.0)
                same = i[:, None] == k[None, :]
                left = tl.where(of_pivot[:, None], tl.where(same, -1.0, 0.0), left)
                cell = matrix + i[:, None] * stride + j[None, :]
                old = tl.load(cell, mask=is_i[:, None] & is_other[None, :], other=0.0)
                old = tl.where(of_pivot[:, None], 0.0, old)
                new = old - tl.dot(left, right, input_precision="ieee")
                tl.store(cell, new, mask=is_i[:, None] & is_other[None, :])
        for i0 in range(0, n, ROWS):
            i = i0 + tl.arange(0, ROWS)
            inside = (i < n)[:, None] & is_k[None, :]
            of_pivot = (i >= k0) & (i < k0 + PIVOTS)
            beside = matrix + i[:, None] * stride + k[None, :]
            left = tl.load(beside, mask=inside, other=0.0)
            same = i[:, None] == k[None, :]
            left = tl.where(of_pivot[:, None], tl.where(same, -1.0, 0.0), left)
            new = -tl.dot(left, own, input_precision="ieee")
            tl.debug_barrier()
            tl.store(beside, new, mask=inside)


@triton.jit(do_not_specialize=["width"])
def inverse_hessian_kernel(
    rows,  # slots.Rows, free as uint8
    radius,  # by atomic number, Å [128]
    model,  # hessian.HessianModel
    matrix,  # the identity of each molecule, in place [n_rows, 3 width, 3 width]
    width,
    CONSTANTS: tl.constexpr,  # HessianConstants
    W: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIVOTS: tl.constexpr,
):
    molecule = tl.program_id(0).to(tl.int64)
    size = tl.load(rows.sizes + molecule).to(tl.int32)
    stride = 3 * width
    x = rows.positions + molecule * stride
    z = rows.numbers + molecule * width
    free = rows.free + molecule * width
    own = matrix + molecule * stride * stride
    _springs(x, z, free, radius, model, own, size, stride, CONSTANTS, ROWS, COLUMNS)
    if size > 2:
        _bends(x, z, free, radius, model, own, size, stride, CONSTANTS, W)
    _invert(own, 3 * size, stride, ROWS, COLUMNS, PIVOTS)


def inverse_model_hessian(rows: Rows, model: HessianModel) -> Tensor:
    """What `hessian.inverse_model_hessian` means, of positions in float32."""
    device = rows.positions.device
    n_rows, width = rows.free.shape
    matrix = torch.eye(3 * width, device=device).repeat(n_rows, 1, 1)
    if n_rows:
        inverse_hessian_kernel[(n_rows,)](
            rows._replace(free=rows.free.view(torch.uint8)),
            covalent_radius(device),
            model,
            matrix,
            width,
            CONSTANTS=HessianConstants(),
            W=max(triton.next_power_of_2(width), 256),  # one kernel for most
            ROWS=32,
            COLUMNS=32,
            PIVOTS=16,
            num_warps=4,
            num_stages=1,  # nothing is read before what comes earlier is written
        )
    return matrix
