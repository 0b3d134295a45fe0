"""Batched molecular dynamics: many molecules at once, each on its own trajectory.

Positions and velocities stay on the device; on CUDA with the triton backend several steps are
captured in one graph and replayed, which is what makes one long trajectory of a single molecule
fast as well. (Steps of one trajectory cannot be batched: each needs the one before.)

Molecules are in vacuum. They have no volume, hence no pressure, so there is neither a stress nor an
NPT ensemble here.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from ase.data import atomic_masses
from torch import Tensor

from mlff_core.batch import MolBatch, require_batch
from mlff_core.models.force_field import ForceField, Outputs, require_force_field
from mlff_core.moves.baoab import Integrator, make_step
from mlff_core.moves.noise import normal, stream_keys
from mlff_core.moves.slots import Rows, evaluate_rows, frozen_atoms, molecules_of
from mlff_core.moves.state import DynamicsState
from mlff_core.moves.stepper import Stepper
from mlff_core.moves.trajectory import Frame
from mlff_core.units import BOLTZMANN_EV_K, TIME_FS

#: Steps that one captured launch holds.
STEPS_PER_LAUNCH = 10


class Dynamics:
    """Molecules in motion.

    Without a friction they keep their energy (NVE, velocity Verlet). With one, each is coupled to a
    heat bath of its own temperature (NVT, Langevin) by the splitting BAOAB of B. Leimkuhler and
    C. Matthews, Appl. Math. Res. Express 2013, 34, whose averages over positions are exact for
    harmonic motion at any time step; without friction BAOAB is velocity Verlet.

    A molecule's random numbers depend on the seed, on its stream and on the step, and on nothing
    else: it takes the same path alone and in a batch, on any device.
    """

    def __init__(
        self,
        batch: MolBatch,
        potential: ForceField,
        *,
        timestep_fs: float = 0.5,
        temperature_k: float | Sequence[float] | np.ndarray = 0.0,
        friction_per_ps: float = 0.0,
        velocities: Tensor | np.ndarray | None = None,
        frozen: Tensor | np.ndarray | Sequence[int] | None = None,
        seed: int = 0,
        streams: Sequence[int] | None = None,
    ):
        """Put molecules on the device.

        Args:
            batch: The molecules.
            potential: What computes the forces.
            timestep_fs: Length of a step; 0.5 suits molecules with hydrogens.
            temperature_k: Of all molecules or of each [n_mols]. Initial velocities are drawn at it,
                without net momentum, unless they are given; with a friction it is the bath's.
            friction_per_ps: How fast the bath takes hold; 0 for none (NVE).
            velocities: To begin with, Å/fs [n_atoms, 3].
            frozen: Atoms that stay where they are: bool [n_atoms], or their indices in the batch.
            seed: Of the random numbers.
            streams: Random stream of each molecule; None for its place in the batch.

        Raises:
            OutOfDomainError: The batch holds an element or a charge that the model does not know,
                or a molecule with an odd number of electrons.
            TypeError: The first argument is no batch or the second no force field.
            ValueError: An argument is out of its range.
        """
        require_batch(batch)
        require_force_field(potential)
        if not timestep_fs > 0:
            raise ValueError(f"timestep_fs: expected more than 0, found {timestep_fs!r}")
        if not friction_per_ps >= 0:
            raise ValueError(f"friction_per_ps: expected 0 or more, found {friction_per_ps!r}")
        if batch.n_mols == 0:
            raise ValueError("batch: expected at least one molecule, found none")
        potential.domain.check(batch, potential.name)
        self.potential, self.timestep_fs, self.n_steps = potential, timestep_fs, 0
        self._host = batch.to("cpu", torch.float64)
        self._here = self._pack(frozen)
        self._atoms = self._here.numbers != 0
        masses = torch.tensor(atomic_masses, dtype=torch.float64, device=potential.device)
        self.masses = torch.where(self._atoms, masses[self._here.numbers], 1.0)[..., None]

        ids = torch.arange(batch.n_mols) if streams is None else torch.tensor(list(streams))
        if len(ids) != batch.n_mols:
            raise ValueError(f"streams: expected {batch.n_mols} numbers, found {len(ids)}")
        keys = stream_keys(seed, ids).to(potential.device)
        one = torch.zeros(batch.n_mols, dtype=torch.float64, device=potential.device)
        state = DynamicsState(
            step=one.long(),
            positions=self._here.positions.clone(),
            velocities=torch.zeros_like(self._here.positions),
            forces=torch.zeros_like(self._here.positions),
            energy=one.clone(),
            temperature=one.clone(),
        )
        self._integrator = Integrator(
            inverse_mass=self._here.free[..., None] / self.masses,
            dt=timestep_fs / TIME_FS,
            keep=float(np.exp(-friction_per_ps * 1e-3 * timestep_fs)),
            keys=keys,
            langevin=friction_per_ps > 0,
        )
        if potential.bare_step is not None:
            step = self.kernel_step(potential.bare_step)
        else:
            step = make_step(self.evaluate, self._integrator)
        graph = potential.bare_step is not None and potential.device.type == "cuda"
        self._stepper = Stepper(step, state, graph=graph)
        self.set_temperature(temperature_k)
        if velocities is None:
            self._draw_velocities()
        else:
            given = torch.as_tensor(velocities, dtype=torch.float64)
            if given.shape != self._host.positions.shape:
                raise ValueError(
                    f"velocities: expected {tuple(self._host.positions.shape)}, "
                    f"found {tuple(given.shape)}"
                )
            state.velocities[self._atoms] = given.to(potential.device) * TIME_FS
            state.velocities.mul_(self._here.free[..., None])
        energy, forces = self.evaluate(state.positions)
        state.energy.copy_(energy)
        state.forces.copy_(forces)

    def _pack(self, frozen: Tensor | np.ndarray | Sequence[int] | None) -> Rows:
        molecules = molecules_of(self._host, ~frozen_atoms(frozen, self._host.n_atoms))
        width = max(molecule.size for molecule in molecules)
        return Rows.pack(molecules, width, self.potential.device, torch.float64)

    def _draw_velocities(self) -> None:
        """Maxwell-Boltzmann, without net momentum where all atoms may move."""
        state = self._stepper.state
        kT = BOLTZMANN_EV_K * state.temperature[:, None, None]
        # The bath's steps count from 0.
        noise = normal(self._integrator.keys, state.step - 1, state.velocities.shape[1])
        v = noise * (kT / self.masses).sqrt() * self._here.free[..., None]
        momentum = (v * self.masses * self._atoms[..., None]).sum(1, keepdim=True)
        total = (self.masses * self._atoms[..., None]).sum(1, keepdim=True)
        held = (self._atoms & ~self._here.free).any(1)[:, None, None]
        several = (self._here.sizes > 1)[:, None, None]
        v = v - torch.where(several & ~held, momentum / total, 0.0)
        state.velocities.copy_(v * self._here.free[..., None])

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies in eV [n_mols] and forces in eV/Å of positions in Å [n_mols, w, 3], float64."""
        return evaluate_rows(self._here, positions, self._here.sizes > 0, self.potential)

    def kernel_step(
        self, compute: Callable[[MolBatch], Outputs]
    ) -> Callable[[DynamicsState], DynamicsState]:
        """One step by the kernels of `dynamics_triton.py`.

        Args:
            compute: Energies and forces of a flat batch, as `ForceField.bare_step`.
        """
        # Triton is an extra, which only its backend needs.
        from mlff_core.moves.dynamics_triton import kernel_step

        batch = self._host.to(self.potential.device, torch.float64)
        return kernel_step(batch, self._integrator, compute)

    def set_temperature(
        self, temperature_k: float | Sequence[float] | np.ndarray, *, rescale: bool = False
    ) -> None:
        """Give the bath of each molecule a temperature.

        Args:
            temperature_k: Of all molecules or of each [n_mols].
            rescale: Also scale the velocities by the square root of the ratio, as replica exchange
                does.

        Raises:
            ValueError: A temperature is negative, or there are not as many as molecules.
        """
        state = self._stepper.state
        given = np.asarray(temperature_k, np.float64)
        if given.shape not in ((), (self._host.n_mols,)):
            raise ValueError(
                f"temperature_k: expected one or ({self._host.n_mols},), found {given.shape}"
            )
        if not (given >= 0).all():
            raise ValueError(f"temperature_k: expected 0 or more, found {given.min()}")
        new = torch.as_tensor(given, device=self.potential.device).expand(self._host.n_mols)
        if rescale:
            # From absolute zero there is nothing to scale.
            ratio = torch.where(state.temperature > 0, new / state.temperature, 1.0).sqrt()
            state.velocities.mul_(ratio[:, None, None])
        state.temperature.copy_(new)

    def run(self, n_steps: int) -> None:
        """Advance every molecule by a number of steps; does not wait for the device."""
        if n_steps < 0:
            raise ValueError(f"n_steps: expected 0 or more, found {n_steps!r}")
        self._stepper.run(n_steps, per_launch=STEPS_PER_LAUNCH)
        self.n_steps += n_steps

    def frames(self, n_steps: int, every: int) -> Iterator[Frame]:
        """Advance by a number of steps; yields the present frame, then one every so many steps."""
        if every < 1:
            raise ValueError(f"every: expected at least 1, found {every!r}")
        yield self.frame()
        for _ in range(n_steps // every):
            self.run(every)
            yield self.frame()

    @property
    def potential_energy(self) -> Tensor:
        """eV, float64 [n_mols], on the device."""
        return self._stepper.state.energy.clone()

    @property
    def kinetic_energy(self) -> Tensor:
        """eV, float64 [n_mols], on the device."""
        v = self._stepper.state.velocities
        return 0.5 * (self.masses * v.square()).sum((1, 2))

    def frame(self) -> Frame:
        """The present moment; waits for the device."""
        state = self._stepper.state
        n_free = self._here.free.sum(1).clamp(min=1)
        kinetic = self.kinetic_energy
        return Frame(
            step=self.n_steps,
            time_fs=self.n_steps * self.timestep_fs,
            batch=self._host.with_positions(state.positions[self._atoms].cpu()),
            velocities=(state.velocities[self._atoms] / TIME_FS).cpu(),
            forces=state.forces[self._atoms].cpu(),
            potential_energy=self.potential_energy.cpu(),
            kinetic_energy=kinetic.cpu(),
            temperature=(2.0 * kinetic / (3.0 * n_free * BOLTZMANN_EV_K)).cpu(),
        )
