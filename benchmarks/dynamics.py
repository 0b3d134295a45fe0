"""Steps a second of molecular dynamics, for 1, 16, 256 and 4,096 molecules at once.

    python benchmarks/dynamics.py [--device auto|cpu|cuda] [--model default|random|PATH]
        [--molecules N ...] [--seconds S] [--json FILE]

Molecules are those of molecules.npz (40 atoms on average; one of 40 atoms alone), each turned at
random, at 300 K with steps of 0.5 fs. NVE and Langevin are timed from the state on the device to
the state on the device, after 50 steps that are not counted, for about `--seconds` each; ASE's
VelocityVerlet over the same model is timed for one molecule. The drift is that of the total energy
of NVE over the timed steps, in meV per atom and picosecond, the mean over the molecules.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from relaxation import load_conformers, setting, synchronize, write

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.relax import relax
from mlff_core.testing import random_model

WARM_UP, TIMESTEP_FS = 50, 0.5


def measure(
    potential: Potential, batch: MolBatch, friction_per_ps: float, seconds: float
) -> dict[str, Any]:
    """One row of the table."""
    dynamics = Dynamics(
        batch,
        potential,
        timestep_fs=TIMESTEP_FS,
        temperature_k=300.0,
        friction_per_ps=friction_per_ps,
    )
    dynamics.run(WARM_UP)
    synchronize(potential.device)
    begin = time.perf_counter()
    dynamics.run(10)
    synchronize(potential.device)
    n_steps = max(int(seconds / (time.perf_counter() - begin) * 10) // 10 * 10, 10)
    before = dynamics.potential_energy + dynamics.kinetic_energy
    synchronize(potential.device)
    begin = time.perf_counter()
    dynamics.run(n_steps)
    synchronize(potential.device)
    wall = time.perf_counter() - begin
    change = (dynamics.potential_energy + dynamics.kinetic_energy - before) / batch.sizes.to(
        potential.device
    )
    row = {
        "name": "Langevin" if friction_per_ps else "NVE",
        "molecules": batch.n_mols,
        "atoms": batch.n_atoms,
        "steps": n_steps,
        "steps_per_s": n_steps / wall,
        "us_per_atom_step": wall / n_steps / batch.n_atoms * 1e6,
        "ns_per_day_all": batch.n_mols * n_steps / wall * TIMESTEP_FS * 1e-6 * 86400,
        "temperature_k": float(dynamics.frame().temperature.mean()),
    }
    if not friction_per_ps:
        picoseconds = n_steps * TIMESTEP_FS * 1e-3
        row["drift_mev_per_atom_ps"] = float(change.mean()) * 1e3 / picoseconds
    return row


def measure_ase(potential: Potential, batch: MolBatch, seconds: float) -> dict[str, Any]:
    """ASE's VelocityVerlet on one molecule, same model."""
    atoms = Atoms(batch.numbers.cpu().numpy(), batch.positions.cpu().double().numpy())
    atoms.info["charge"] = int(batch.charge[0])
    atoms.calc = PaiNNCalculator(potential)
    thermal = np.sqrt(atoms.get_masses() * units.kB * 300.0)[:, None]
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * thermal)
    verlet = VelocityVerlet(atoms, timestep=TIMESTEP_FS * units.fs, logfile=None)
    verlet.run(5)
    begin, n_steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        verlet.run(10)
        n_steps += 10
    wall = time.perf_counter() - begin
    return {
        "name": "ASE VelocityVerlet",
        "molecules": 1,
        "atoms": batch.n_atoms,
        "steps": n_steps,
        "steps_per_s": n_steps / wall,
        "us_per_atom_step": wall / n_steps / batch.n_atoms * 1e6,
        "ns_per_day_all": n_steps / wall * TIMESTEP_FS * 1e-6 * 86400,
    }


def show(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    temperature = f"{row['temperature_k']:.0f}" if "temperature_k" in row else ""
    drift = f"{row['drift_mev_per_atom_ps']:+.3f}" if "drift_mev_per_atom_ps" in row else ""
    print(
        f"| {row['name']} | {row['molecules']} | {row['steps_per_s']:.0f} "
        f"| {row['us_per_atom_step']:.3f} | {row['ns_per_day_all']:.1f} | {temperature} "
        f"| {drift} |",
        flush=True,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", default="default", help="a model, or `random` weights")
    parser.add_argument(
        "--molecules", type=int, nargs="+", help="default: 1 16 256 4096; CPU: 1 16"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="a row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.model == "random":
        potential = Potential(random_model(), device=options.device, backend=options.backend)
    else:
        potential = load_potential(options.model, device=options.device, backend=options.backend)
    cuda = potential.device.type == "cuda"
    report: dict[str, Any] = {"setting": setting(potential) | {"timestep_fs": TIMESTEP_FS}}
    print(json.dumps(report["setting"]))
    rows = report["rows"] = []
    print("| | molecules | steps/s | µs/atom/step | ns/day, all | K | drift, meV/atom/ps |")
    print("|---|---|---|---|---|---|---|")
    for n in options.molecules or ((1, 16, 256, 4096) if cuda else (1, 16)):
        conformers = load_conformers(max(n, 64), seed=n)
        if n == 1:
            conformers = [min(conformers, key=lambda c: abs(len(c[0]) - 40))]
        # From a minimum half of the kinetic energy goes into the potential; from anywhere else
        # the strain that is let go heats the molecule.
        batch = relax(MolBatch.from_arrays(conformers[:n]), potential, max_steps=100).batch
        for friction in (0.0, 1.0):
            rows.append(measure(potential, batch, friction, options.seconds))
            show(rows[-1])
        if n == 1:
            rows.append(measure_ase(potential, batch, options.seconds))
            show(rows[-1])
        write(report, options.json)


if __name__ == "__main__":
    main()
