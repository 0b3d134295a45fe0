"""Steps a second of molecular dynamics, for 1, 16, 256 and 4,096 molecules at once.

    python benchmarks/dynamics.py [--device auto|cpu|cuda] [--models default,small,PATH ...]
        [--molecules N ...] [--seconds S] [--out FILE]

Molecules are those of molecules.npz (40 atoms on average; one of 40 atoms alone), each turned at
random, at 300 K with steps of 0.5 fs. NVE and Langevin are timed from the state on the device to
the state on the device, after 50 steps that are not counted, for about `--seconds` each; ASE's
VelocityVerlet over the same model is timed for one molecule. The drift is that of the total energy
of NVE over the timed steps, in meV per atom and picosecond, the mean over the molecules.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _harness import RESULTS, Results, conformers, environment, synchronize
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.models.potential import Potential, load_potential
from mlff_core.models.reference import SHORT_NAMES
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.relax import relax

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


def rows(potential: Potential, n: int, seconds: float) -> Iterator[dict[str, Any]]:
    """NVE, Langevin and, of one molecule, ASE, from minima."""
    chosen = conformers(max(n, 64), seed=n)
    if n == 1:
        chosen = [min(chosen, key=lambda c: abs(len(c[0]) - 40))]
    # From a minimum half of the kinetic energy goes into the potential; from anywhere else
    # the strain that is let go heats the molecule.
    batch = relax(MolBatch.from_arrays(chosen[:n]), potential, max_steps=100).batch
    for friction in (0.0, 1.0):
        yield measure(potential, batch, friction, seconds)
    if n == 1:
        yield measure_ase(potential, batch, seconds)


def markdown(content: dict[str, Any]) -> str:
    """The tables of the results, one a model."""
    lines = [
        f"`benchmarks/dynamics.py` on one {content['device']} ({content['backend']}), torch "
        f"{content['torch']}, commit {content['commit'][:7]}, {content['date']}. Steps of "
        f"{content['timestep_fs']} fs from minima at 300 K; 40 atoms a molecule on average. The "
        "drift is that of the total energy, over the timed steps alone, which are few where "
        "molecules are many.",
    ]
    for model in dict.fromkeys(row["model"] for row in content["rows"]):
        lines += [
            "",
            f"## {model}",
            "",
            "| | molecules | steps/s | µs/atom/step | ns/day, all | K | drift, meV/atom/ps |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in content["rows"]:
            if row["model"] == model:
                warm = f"{row['temperature_k']:.0f}" if "temperature_k" in row else ""
                drift = row.get("drift_mev_per_atom_ps")
                lines.append(
                    f"| {row['name']} | {row['molecules']:,} | {row['steps_per_s']:,.0f} "
                    f"| {row['us_per_atom_step']:.3f} | {row['ns_per_day_all']:,.1f} | {warm} "
                    f"| {'' if drift is None else f'{drift:+.3f}'} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--models", default=",".join(SHORT_NAMES), help="names or files")
    parser.add_argument(
        "--molecules", type=int, nargs="+", help="default: 1 16 256 4096; CPU: 1 16"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="a row")
    parser.add_argument("--out", type=Path, default=RESULTS / "dynamics.json")
    options = parser.parse_args()
    names = options.models.split(",")
    potentials = {
        name: load_potential(name, device=options.device, backend=options.backend) for name in names
    }
    first = potentials[names[0]]
    about = {"backend": first.backend, "timestep_fs": TIMESTEP_FS}
    results = Results(options.out, environment(first.device) | about)
    cuda = first.device.type == "cuda"
    for n in options.molecules or ((1, 16, 256, 4096) if cuda else (1, 16)):
        for name, potential in potentials.items():
            for row in rows(potential, n, options.seconds):
                results.add({"model": name, **row})
    results.finish(markdown)


if __name__ == "__main__":
    main()
