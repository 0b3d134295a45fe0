"""Frames of a trajectory, in files and as ASE's Atoms."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as write_ase
from ase.io.trajectory import TrajectoryWriter
from torch import Tensor

from mlff_core.batch import MolBatch


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
