"""Batched molecular dynamics: many molecules at once, each on its own trajectory.

Positions and velocities stay on the device; on CUDA with the triton backend several steps are
captured in one graph and replayed, which is what makes one long trajectory of a single molecule
fast as well. (Steps of one trajectory cannot be batched: each needs the one before.)

Molecules are in vacuum. They have no volume, hence no pressure, so there is neither a stress nor an
NPT ensemble here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses
from ase.io import write as write_ase
from ase.io.trajectory import TrajectoryWriter
from torch import Tensor

from mlff_core.batch import MolBatch, require_batch
from mlff_core.models.force_field import ForceField, require_force_field
from mlff_core.moves.relax import frozen_atoms
from mlff_core.moves.slots import Compute, Molecule, Rows, State, Stepper, evaluate_rows
from mlff_core.units import BOLTZMANN_EV_K, TIME_FS

#: Steps that one captured launch holds.
STEPS_PER_LAUNCH = 10

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed integer
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15


@dataclass(frozen=True)
class Frame:
    """All molecules at one moment, on the host.

    Attributes:
        step: Steps since the beginning.
        time_fs: Time since the beginning.
        batch: The molecules, positions in Å, float64.
        velocities: Å/fs, float64 [n_atoms, 3].
        forces: eV/Å, float64 [n_atoms, 3].
        potential_energy: eV, float64 [n_mols].
        kinetic_energy: eV, float64 [n_mols].
        temperature: K, float64 [n_mols], of all 3 n degrees of freedom of the atoms that may move,
            as ASE counts them.
    """

    step: int
    time_fs: float
    batch: MolBatch
    velocities: Tensor
    forces: Tensor
    potential_energy: Tensor
    kinetic_energy: Tensor
    temperature: Tensor


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
        self._keys = _mix(_mix(torch.tensor(seed) * _GOLDEN) + ids * _GOLDEN).to(potential.device)
        one = torch.zeros(batch.n_mols, dtype=torch.float64, device=potential.device)
        state = {
            "step": one.long(),
            "positions": self._here.positions.clone(),
            "velocities": torch.zeros_like(self._here.positions),
            "forces": torch.zeros_like(self._here.positions),
            "energy": one.clone(),
            "temperature": one.clone(),
        }
        evaluate = _make_evaluate(self._here, potential)
        self._dt, self._langevin = timestep_fs / TIME_FS, friction_per_ps > 0
        self._keep = np.exp(-friction_per_ps * 1e-3 * timestep_fs)
        if potential.bare_step is not None:
            step = self.kernel_step(potential.bare_step)
        else:
            step = _make_step(
                evaluate,
                self._here.free[..., None] / self.masses,
                self._dt,
                self._keep,
                self._keys,
                langevin=self._langevin,
            )
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
            state["velocities"][self._atoms] = given.to(potential.device) * TIME_FS
            state["velocities"] *= self._here.free[..., None]
        energy, forces = evaluate(state["positions"])
        state["energy"].copy_(energy)
        state["forces"].copy_(forces)

    def _pack(self, frozen: Tensor | np.ndarray | Sequence[int] | None) -> Rows:
        host = self._host
        free = ~frozen_atoms(frozen, host.n_atoms)
        numbers, positions, ptr = host.numbers.numpy(), host.positions.numpy(), host.ptr.tolist()
        molecules = [
            Molecule(k, numbers[a:b], positions[a:b], charge, free[a:b])
            for k, (a, b, charge) in enumerate(
                zip(ptr[:-1], ptr[1:], host.charge.tolist(), strict=True)
            )
        ]
        width = max(molecule.size for molecule in molecules)
        return Rows.pack(molecules, width, self.potential.device, torch.float64)

    def _draw_velocities(self) -> None:
        """Maxwell-Boltzmann, without net momentum where all atoms may move."""
        state = self._stepper.state
        kT = BOLTZMANN_EV_K * state["temperature"][:, None, None]
        # The bath's steps count from 0.
        noise = _normal(self._keys, state["step"] - 1, state["velocities"].shape[1])
        v = noise * (kT / self.masses).sqrt() * self._here.free[..., None]
        momentum = (v * self.masses * self._atoms[..., None]).sum(1, keepdim=True)
        total = (self.masses * self._atoms[..., None]).sum(1, keepdim=True)
        held = (self._atoms & ~self._here.free).any(1)[:, None, None]
        several = (self._here.sizes > 1)[:, None, None]
        v = v - torch.where(several & ~held, momentum / total, 0.0)
        state["velocities"].copy_(v * self._here.free[..., None])

    def kernel_step(self, compute: Compute) -> Callable[[State], State]:
        """One step by the kernels of `minimise_triton.py`: two launches beside the force call.

        Args:
            compute: Energies and forces of a flat batch.
        """
        # Triton is an extra, which only its backend needs.
        from mlff_core.moves import minimise_triton as moves

        device = self.potential.device
        batch = self._host.to(device, torch.float64)
        flat = batch.positions.clone()
        near = batch.with_positions(flat)
        inverse_mass = (self._here.free / self.masses[..., 0]).contiguous()
        constants = torch.tensor(
            [self._dt, self._keep, BOLTZMANN_EV_K], dtype=torch.float64, device=device
        )

        def step(state: State) -> State:
            moves.begin_move(
                state,
                inverse_mass,
                self._keys,
                batch.ptr,
                constants,
                flat,
                langevin=self._langevin,
            )
            out = compute(near)
            moves.end_move(state, inverse_mass, batch.ptr, constants, out.energy, out.forces)
            return {}

        return step

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
            ratio = torch.where(state["temperature"] > 0, new / state["temperature"], 1.0).sqrt()
            state["velocities"] *= ratio[:, None, None]
        state["temperature"].copy_(new)

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
        return self._stepper.state["energy"].clone()

    @property
    def kinetic_energy(self) -> Tensor:
        """eV, float64 [n_mols], on the device."""
        v = self._stepper.state["velocities"]
        return 0.5 * (self.masses * v.square()).sum((1, 2))

    def frame(self) -> Frame:
        """The present moment; waits for the device."""
        state = self._stepper.state
        n_free = self._here.free.sum(1).clamp(min=1)
        kinetic = self.kinetic_energy
        return Frame(
            step=self.n_steps,
            time_fs=self.n_steps * self.timestep_fs,
            batch=self._host.with_positions(state["positions"][self._atoms].cpu()),
            velocities=(state["velocities"][self._atoms] / TIME_FS).cpu(),
            forces=state["forces"][self._atoms].cpu(),
            potential_energy=self.potential_energy.cpu(),
            kinetic_energy=kinetic.cpu(),
            temperature=(2.0 * kinetic / (3.0 * n_free * BOLTZMANN_EV_K)).cpu(),
        )


def _make_evaluate(rows: Rows, potential: ForceField) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Energies [n_mols] and forces [n_mols, w, 3] of positions, in eV and Å, float64."""
    everyone = rows.sizes > 0
    return lambda positions: evaluate_rows(rows, positions, everyone, potential)


def _make_step(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    inverse_mass: Tensor,
    dt: float,
    keep: float,
    keys: Tensor,
    *,
    langevin: bool,
) -> Callable[[State], State]:
    """One step of BAOAB as a function from state to state.

    Args:
        evaluate: Energies and forces of positions.
        inverse_mass: 1/amu, 0 for atoms that do not move [n_mols, w, 1].
        dt: Time step in sqrt(amu Å²/eV).
        keep: Share of its velocity that friction leaves an atom in one step.
        keys: Of the random streams, int64 [n_mols].
        langevin: Whether there is a bath.
    """

    def step(state: State) -> State:
        v = state["velocities"] + 0.5 * dt * state["forces"] * inverse_mass
        if langevin:
            x = state["positions"] + 0.5 * dt * v
            kT = BOLTZMANN_EV_K * state["temperature"][:, None, None]
            noise = _normal(keys, state["step"], x.shape[1])
            v = keep * v + ((1.0 - keep * keep) * kT * inverse_mass).sqrt() * noise
            x = x + 0.5 * dt * v
        else:
            x = state["positions"] + dt * v
        energy, forces = evaluate(x)
        return state | {
            "step": state["step"] + 1,
            "positions": x,
            "velocities": v + 0.5 * dt * forces * inverse_mass,
            "forces": forces,
            "energy": energy,
        }

    return step


# --- Random numbers ------------------------------------------------------------------------------


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 (G. L. Steele et al., OOPSLA 2014) on signed int64."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, n: int) -> Tensor:
    """Logical shift to the right, which torch does not have for signed integers."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def _normal(keys: Tensor, step: Tensor, width: int) -> Tensor:
    """Standard normal numbers, float64 [n_mols, width, 3]: a hash of key, step, atom and axis.

    Numbering atoms before padding keeps an atom's numbers whatever the width is.
    """
    counter = torch.arange(3 * width, device=keys.device).view(width, 3)
    stream = _mix(keys + step * _GOLDEN)
    bits = _mix(stream[:, None, None] + (counter + 1) * _GOLDEN)
    # Two uniform numbers from the halves of 64 bits; Box and Muller make a normal one of them.
    radius = (_shift(bits, 32).double() + 0.5) * 2.0**-32
    angle = (bits & 0xFFFFFFFF).double() * (2.0 * torch.pi * 2.0**-32)
    return (-2.0 * radius.log()).sqrt() * angle.cos()


# --- Trajectories --------------------------------------------------------------------------------

FRAME_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("time_fs", pa.float64()),
        ("molecule", pa.int64()),
        ("potential_energy_ev", pa.float64()),
        ("kinetic_energy_ev", pa.float64()),
        ("temperature_k", pa.float64()),
        ("atomic_numbers", pa.list_(pa.int8())),
        ("positions_angstrom", pa.list_(pa.float32())),
        ("velocities_angstrom_per_fs", pa.list_(pa.float32())),
    ]
)


def write_trajectory(path: Path | str, frames: Iterable[Frame]) -> None:
    """Write frames as they come, so that a long trajectory does not have to fit into memory.

    Args:
        path: By its ending: `.parquet` holds all molecules, a row for each molecule of each frame
            (`FRAME_SCHEMA`). `.traj` and `.extxyz` are ASE's and hold one molecule; the name of
            the file then has `{molecule}` in it where there are several.
        frames: From `Dynamics.frames`.

    Raises:
        ValueError: The ending is none of these, or one name is given for several molecules.
    """
    path = Path(path)
    writers = {
        ".parquet": _write_parquet,
        ".traj": _write_ase_files,
        ".extxyz": _write_ase_files,
    }
    if path.suffix not in writers:
        raise ValueError(f"path: expected an ending of {', '.join(writers)}, found {path.name!r}")
    writers[path.suffix](path, frames)


def _write_parquet(path: Path, frames: Iterable[Frame]) -> None:
    with pq.ParquetWriter(path, FRAME_SCHEMA, compression="zstd") as writer:
        for frame in frames:
            batch, n_mols = frame.batch, frame.batch.n_mols
            columns = {
                "step": [frame.step] * n_mols,
                "time_fs": [frame.time_fs] * n_mols,
                "molecule": range(n_mols),
                "potential_energy_ev": frame.potential_energy.numpy(),
                "kinetic_energy_ev": frame.kinetic_energy.numpy(),
                "temperature_k": frame.temperature.numpy(),
                "atomic_numbers": [z.numpy() for z in batch.split(batch.numbers)],
                "positions_angstrom": [x.ravel().numpy() for x in batch.split(batch.positions)],
                "velocities_angstrom_per_fs": [
                    v.ravel().numpy() for v in batch.split(frame.velocities)
                ],
            }
            writer.write_table(
                pa.table(
                    [pa.array(columns[field.name]).cast(field.type) for field in FRAME_SCHEMA],
                    schema=FRAME_SCHEMA,
                )
            )


def _write_ase_files(path: Path, frames: Iterable[Frame]) -> None:
    with ExitStack() as stack:
        files: list[Callable[[Atoms], None]] = []
        for frame in frames:
            if not files:
                if frame.batch.n_mols > 1 and "{molecule}" not in path.name:
                    raise ValueError(
                        f"path: expected {{molecule}} in the name for {frame.batch.n_mols} "
                        f"molecules, found {path.name!r}"
                    )
                names = [
                    path.with_name(path.name.replace("{molecule}", str(k)))
                    for k in range(frame.batch.n_mols)
                ]
                files = [_ase_file(name, stack) for name in names]
            for write, atoms in zip(files, to_ase(frame), strict=True):
                write(atoms)


def _ase_file(path: Path, stack: ExitStack) -> Callable[[Atoms], None]:
    if path.suffix == ".traj":
        return stack.enter_context(TrajectoryWriter(str(path), "w")).write
    file = stack.enter_context(path.open("w", encoding="utf-8"))
    return lambda atoms: write_ase(file, atoms, format="extxyz")


def to_ase(frame: Frame) -> list[Atoms]:
    """The molecules of a frame as ASE's Atoms, with velocities, energies, forces and charges."""
    batch = frame.batch
    molecules = []
    for k, (numbers, positions, velocities, forces) in enumerate(
        zip(
            *(
                batch.split(values)
                for values in (batch.numbers, batch.positions, frame.velocities, frame.forces)
            ),
            strict=True,
        )
    ):
        atoms = Atoms(
            numbers.numpy(),
            positions.numpy(),
            velocities=velocities.numpy() / units.fs,
            info={
                "charge": int(batch.charge[k]),
                "time_fs": frame.time_fs,
                "temperature_k": float(frame.temperature[k]),
            },
        )
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(frame.potential_energy[k]), forces=forces.numpy()
        )
        molecules.append(atoms)
    return molecules
