# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""All that dynamics does between two force calls: two launches, one program a molecule.

Meaning: `baoab.make_step`. A molecule is a tile [W, 4] of atoms and axes, of which the fourth is
empty.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs
from mlff_core.moves.baoab import Integrator
from mlff_core.moves.state import DynamicsState
from mlff_core.moves.tile import tile_width, warps
from mlff_core.ops.triton.launch import overlap, wait_for_inputs
from mlff_core.units import BOLTZMANN_EV_K

_TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def _mix(z):
    """The finaliser of splitmix64 on uint64; noise.mix."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _normal(key, step, counter):
    """Standard normal numbers, a hash of a molecule's key, the step and a count; noise.normal.

    Args:
        key: uint64.
        step: uint64.
        counter: 3 atom + axis [W, 4].
    """
    golden: tl.constexpr = 0x9E3779B97F4A7C15
    stream = _mix(key + step * golden)
    bits = _mix(stream + (counter + 1).to(tl.uint64) * golden)
    radius = ((bits >> 32).to(tl.float64) + 0.5) * 2.0**-32
    angle = (bits & 0xFFFFFFFF).to(tl.float64) * (_TWO_PI * 2.0**-32)
    return tl.sqrt(-2.0 * tl.log(radius)) * tl.cos(angle)


@triton.jit(do_not_specialize=["width"])
def begin_move_kernel(
    state,  # DynamicsState; positions and velocities are changed in place
    inverse_mass_ptr,  # float64 [n_mols, width], 0 for atoms that do not move
    keys_ptr,  # int64 [n_mols]
    ptr_ptr,  # int64 [n_mols + 1]
    constants_ptr,  # float64 [3]: time step, share of the velocity that friction leaves, k_B
    flat_ptr,  # [n_atoms, 3], out: about each molecule's centre
    width,
    LANGEVIN: tl.constexpr,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    mol = tl.program_id(0).to(tl.int64)
    first = tl.load(ptr_ptr + mol)
    size = tl.load(ptr_ptr + mol + 1) - first
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = mol * (3 * width) + coordinate
    inverse_mass = tl.load(inverse_mass_ptr + mol * width + a, mask=a < size, other=0.0)[:, None]
    half = 0.5 * tl.load(constants_ptr)
    x = tl.load(state.positions + tile, mask=inside, other=0.0)
    v = tl.load(state.velocities + tile, mask=inside, other=0.0)
    v += half * tl.load(state.forces + tile, mask=inside, other=0.0) * inverse_mass
    if LANGEVIN:
        x += half * v
        keep = tl.load(constants_ptr + 1)
        kT = tl.load(constants_ptr + 2) * tl.load(state.temperature + mol)
        key = tl.load(keys_ptr + mol).to(tl.uint64, bitcast=True)
        noise = _normal(key, tl.load(state.step + mol).to(tl.uint64, bitcast=True), coordinate)
        v = keep * v + tl.sqrt((1.0 - keep * keep) * kT * inverse_mass) * noise
        x += half * v
    else:
        x += 2.0 * half * v
    tl.store(state.positions + tile, x, mask=inside)
    tl.store(state.velocities + tile, v, mask=inside)
    centre = tl.sum(tl.where(inside, x, 0.0), 0) / size.to(tl.float64)
    near = (x - centre[None, :]).to(tl.float32)
    tl.store(flat_ptr + first * 3 + coordinate, near, mask=inside)


@triton.jit(do_not_specialize=["width"])
def end_move_kernel(
    state,  # DynamicsState; velocities, forces, energy and step are changed in place
    inverse_mass_ptr,  # float64 [n_mols, width], 0 for atoms that do not move
    ptr_ptr,  # int64 [n_mols + 1]
    constants_ptr,  # float64 [3]: time step first
    flat_energy_ptr,  # float64 [n_mols]
    flat_forces_ptr,  # [n_atoms, 3]
    width,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_inputs(OVERLAP)
    mol = tl.program_id(0).to(tl.int64)
    first = tl.load(ptr_ptr + mol)
    size = tl.load(ptr_ptr + mol + 1) - first
    a = tl.arange(0, W)
    axis = tl.arange(0, 4)
    coordinate = a[:, None] * 3 + axis[None, :]
    inside = (a[:, None] < size) & (axis[None, :] < 3)
    tile = mol * (3 * width) + coordinate
    inverse_mass = tl.load(inverse_mass_ptr + mol * width + a, mask=a < size, other=0.0)[:, None]
    half = 0.5 * tl.load(constants_ptr)
    f = tl.load(flat_forces_ptr + first * 3 + coordinate, mask=inside, other=0.0).to(tl.float64)
    v = tl.load(state.velocities + tile, mask=inside, other=0.0) + half * f * inverse_mass
    tl.store(state.velocities + tile, v, mask=inside)
    tl.store(state.forces + tile, f, mask=inside)
    tl.store(state.energy + mol, tl.load(flat_energy_ptr + mol))
    tl.store(state.step + mol, tl.load(state.step + mol) + 1)


def begin_move(
    state: DynamicsState,
    inverse_mass: Tensor,
    keys: Tensor,
    ptr: Tensor,
    constants: Tensor,
    flat: Tensor,
    *,
    langevin: bool,
) -> None:
    """The first half of a step of BAOAB, up to the force call; in place.

    Args:
        state: Where the molecules are.
        inverse_mass: 1/amu, 0 for atoms that do not move, float64 [n_mols, width].
        keys: Of the random streams, int64 [n_mols].
        ptr: First atom of each molecule in the flat batch, int64 [n_mols + 1].
        constants: Time step in sqrt(amu Å²/eV), share of its velocity that friction leaves an atom
            in one step, Boltzmann's constant in eV/K, float64 [3].
        flat: Written: positions about each molecule's centre, Å [n_atoms, 3].
        langevin: Whether there is a bath.
    """
    n_mols, width = inverse_mass.shape
    W = tile_width(width)
    begin_move_kernel[(n_mols,)](
        state,
        inverse_mass,
        keys,
        ptr,
        constants,
        flat,
        width,
        LANGEVIN=langevin,
        W=W,
        num_warps=warps(W),
        **overlap(len(flat)),
    )


def end_move(
    state: DynamicsState,
    inverse_mass: Tensor,
    ptr: Tensor,
    constants: Tensor,
    energy: Tensor,
    forces: Tensor,
) -> None:
    """The rest of a step of BAOAB, from the force call at the new positions; in place.

    Args:
        state: Where the molecules are.
        inverse_mass: As in `begin_move`.
        ptr: As in `begin_move`.
        constants: As in `begin_move`.
        energy: eV, float64 [n_mols].
        forces: eV/Å, of the flat batch [n_atoms, 3].
    """
    n_mols, width = inverse_mass.shape
    W = tile_width(width)
    end_move_kernel[(n_mols,)](
        state,
        inverse_mass,
        ptr,
        constants,
        energy,
        forces,
        width,
        W=W,
        num_warps=warps(W),
        **overlap(len(forces)),
    )


def kernel_step(
    batch: MolBatch, integrator: Integrator, compute: Callable[[MolBatch], Outputs]
) -> Callable[[DynamicsState], DynamicsState]:
    """`baoab.make_step` by these kernels: two launches beside the force call, in place.

    Args:
        batch: The molecules, in float64.
        integrator: How they move.
        compute: Energies and forces of a flat batch, as `ForceField.bare_step`.
    """
    near = batch.with_positions(batch.positions.clone())
    inverse_mass = integrator.inverse_mass[..., 0].contiguous()
    constants = torch.tensor(
        [integrator.dt, integrator.keep, BOLTZMANN_EV_K], dtype=torch.float64, device=batch.device
    )

    def step(state: DynamicsState) -> DynamicsState:
        begin_move(
            state,
            inverse_mass,
            integrator.keys,
            batch.ptr,
            constants,
            near.positions,
            langevin=integrator.langevin,
        )
        out = compute(near)
        end_move(state, inverse_mass, batch.ptr, constants, out.energy, out.forces)
        return state

    return step
