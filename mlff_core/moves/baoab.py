"""The plain step of dynamics: what the compiled one means."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mlff_core.moves.noise import normal
from mlff_core.moves.state import DynamicsState
from mlff_core.units import BOLTZMANN_EV_K


@dataclass(frozen=True)
class Integrator:
    """How molecules move: BAOAB, which without a bath is velocity Verlet.

    Attributes:
        inverse_mass: 1/amu, 0 for atoms that do not move, float64 [n_mols, w, 1].
        dt: Time step in sqrt(amu Å²/eV).
        keep: Share of its velocity that friction leaves an atom in one step.
        keys: Of the random streams, int64 [n_mols].
        langevin: Whether there is a bath.
    """

    inverse_mass: Tensor
    dt: float
    keep: float
    keys: Tensor
    langevin: bool


def make_step(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], integrator: Integrator
) -> Callable[[DynamicsState], DynamicsState]:
    """One step as a function from state to state.

    Args:
        evaluate: Energies in eV [n_mols] and forces in eV/Å of positions [n_mols, w, 3].
        integrator: How the molecules move.
    """
    inverse_mass, dt, keep = integrator.inverse_mass, integrator.dt, integrator.keep

    def step(state: DynamicsState) -> DynamicsState:
        v = state.velocities + 0.5 * dt * state.forces * inverse_mass
        if integrator.langevin:
            x = state.positions + 0.5 * dt * v
            kT = BOLTZMANN_EV_K * state.temperature[:, None, None]
            noise = normal(integrator.keys, state.step, x.shape[1])
            v = keep * v + ((1.0 - keep * keep) * kT * inverse_mass).sqrt() * noise
            x = x + 0.5 * dt * v
        else:
            x = state.positions + dt * v
        energy, forces = evaluate(x)
        return state._replace(
            step=state.step + 1,
            positions=x,
            velocities=v + 0.5 * dt * forces * inverse_mass,
            forces=forces,
            energy=energy,
        )

    return step
