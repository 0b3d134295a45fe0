"""Drift of the total energy in constant-energy dynamics at 300 K, and bonds that broke."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from benchmarks.accuracy import held_out
from benchmarks.accuracy.part import Part, log
from mlff_core.batch import MolBatch
from mlff_core.chem.topology import BROKEN
from mlff_core.elements import COVALENT_RADII
from mlff_core.models.potential import Potential
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.relax import relax
from mlff_core.moves.trajectory import Frame
from mlff_core.units import TIME_FS

#: Dynamics: steps in fs, friction of the bath that brings molecules to 300 K in 1/ps.
TIMESTEP_FS, TEMPERATURE_K, FRICTION_PER_PS, WARM_UP_PS = 0.5, 300.0, 5.0, 2.0


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_options(command, n_molecules=10)
    command.add_argument("--picoseconds", type=float, default=100.0)
    command.add_argument("--limit-s", type=float, default=float("inf"))


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Energy drift and broken bonds of molecules in motion, from 300 K on without a bath."""
    molecules, bonds, smiles = [], [], []
    for text in held_out.smiles_of(arguments, student):
        if len(molecules) == arguments.molecules:
            break
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        if not 30 <= mol.GetNumAtoms() <= 50:
            continue
        if rdDistGeom.EmbedMolecule(mol, randomSeed=arguments.seed):
            continue
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        x = mol.GetConformer().GetPositions()
        molecules.append((numbers, x, Chem.GetFormalCharge(mol)))
        bonds.append([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()])
        smiles.append(text)
    relaxed = relax(MolBatch.from_arrays(molecules), student, fmax=0.02, max_steps=500)
    warming = Dynamics(
        relaxed.batch, student, timestep_fs=TIMESTEP_FS, temperature_k=TEMPERATURE_K,
        friction_per_ps=FRICTION_PER_PS, seed=arguments.seed,
    )  # fmt: skip
    warming.run(round(WARM_UP_PS * 1e3 / TIMESTEP_FS))
    warm = warming.frame()
    log(f"at {warm.temperature.mean():.0f} K")
    dynamics = Dynamics(warm.batch, student, timestep_fs=TIMESTEP_FS, velocities=warm.velocities)
    every, per_look = 20, 1000
    total: list[torch.Tensor] = []
    shadow: list[torch.Tensor] = []
    kinetic: list[torch.Tensor] = []
    stretched = np.zeros(len(molecules))
    broken: dict[int, dict[str, Any]] = {}
    picoseconds = 0.0
    until = time.monotonic() + arguments.limit_s
    for _ in range(round(arguments.picoseconds * 1e3 / TIMESTEP_FS) // per_look):
        if time.monotonic() > until:
            log("out of time")
            break
        for _ in range(per_look // every):
            dynamics.run(every - 2)
            before, now, after = dynamics.frames(2, every=1)
            kinetic.append(now.kinetic_energy)
            total.append(now.potential_energy + now.kinetic_energy)
            shadow.append(total[-1] + shadow_correction(before, now, after))
        lengths, which = longest_bonds(after.batch, bonds)
        stretched = np.maximum(stretched, lengths)
        picoseconds = len(total) * every * TIMESTEP_FS * 1e-3
        # What is not a number is broken as well.
        for k in set(np.flatnonzero(~(lengths <= BROKEN)).tolist()) - broken.keys():
            bond = bond_name(molecules[k][0], bonds[k][which[k]])
            broken[k] = {"smiles": smiles[k], "bond": bond, "picoseconds": picoseconds}
    energies = {"shadow": torch.stack(shadow, 1).numpy(), "total": torch.stack(total, 1).numpy()}
    spacing_ns = every * TIMESTEP_FS * 1e-6
    return {
        "picoseconds": picoseconds,
        "timestep_fs": TIMESTEP_FS,
        "warm_up_ps": WARM_UP_PS,
        **{
            name: drift(energy, torch.stack(kinetic, 1).numpy(), spacing_ns)
            for name, energy in energies.items()
        },
        "temperature_k": float(dynamics.frame().temperature.mean()),
        "n_molecules": len(molecules),
        "n_broken": len(broken),
        "broken": list(broken.values()),
        "longest_bond": float(stretched.max()),
        "smiles": smiles,
    }


def bond_name(numbers: Sequence[int], bond: tuple[int, int]) -> str:
    """A bond by its elements, the lighter one last: O-H."""
    return "-".join(chemical_symbols[z] for z in sorted((numbers[i] for i in bond), reverse=True))


def longest_bonds(
    batch: MolBatch, bonds: list[list[tuple[int, int]]]
) -> tuple[np.ndarray, np.ndarray]:
    """The longest bond of each molecule relative to the sum of its covalent radii, and which."""
    longest, which = [], []
    for x, numbers, pairs in zip(
        batch.split(batch.positions), batch.split(batch.numbers), bonds, strict=True
    ):
        i, j = np.array(pairs).T
        radii = np.array([COVALENT_RADII[z] for z in numbers.tolist()])
        length = np.linalg.norm(x.numpy()[i] - x.numpy()[j], axis=1)
        relative = length / (radii[i] + radii[j])
        longest.append(relative.max())
        which.append(relative.argmax())
    return np.array(longest), np.array(which)


def shadow_correction(before: Frame, now: Frame, after: Frame) -> torch.Tensor:
    """What velocity Verlet keeps beyond the total energy, eV, float64 [n_mols].

    With a time step h it keeps H + h² (v·U''v / 12 - Σ F²/m / 24) + O(h⁴) rather than H (R. D.
    Skeel and D. J. Hardy, SIAM J. Sci. Comput. 23, 1172 (2001)), and so H goes up and down with
    what is in fast vibrations: by a percent of what a C-H bond's holds, at 0.5 fs. Here
    U''v = -dF/dt, from the forces one step before and after.

    Args:
        before: One step before `now`.
        now: When it is wanted.
        after: One step after `now`.
    """
    batch, h = now.batch, (after.time_fs - now.time_fs) / TIME_FS
    mass = torch.tensor(atomic_masses, dtype=torch.float64)[batch.numbers.long()]
    curvature = -(now.velocities * TIME_FS * (after.forces - before.forces)).sum(1) / (2 * h)
    slope = now.forces.square().sum(1) / mass
    of_atoms = h**2 * (curvature / 12 - slope / 24)
    return of_atoms.new_zeros(batch.n_mols).index_add_(0, batch.mol_idx, of_atoms)


def drift(total: np.ndarray, kinetic: np.ndarray, spacing_ns: float) -> dict[str, Any]:
    """Slopes of straight lines through the total energy, in % of the kinetic energy per ns.

    Args:
        total: eV [n_molecules, n_times].
        kinetic: eV, likewise.
        spacing_ns: From one time to the next.

    Returns:
        Of each molecule and of all together, with the standard errors of the fits, for which
        neighbouring energies are first averaged in a hundred blocks.
    """
    blocks = min(100, total.shape[1])
    length = total.shape[1] // blocks

    def slope(energy: np.ndarray) -> tuple[float, float]:
        means = energy[: blocks * length].reshape(blocks, length).mean(1)
        t = np.arange(blocks) * length * spacing_ns
        t -= t.mean()
        a = float((t * means).sum() / (t * t).sum())
        rest = means - means.mean() - a * t
        return a, float(np.sqrt((rest**2).sum() / max(1, blocks - 2) / (t * t).sum()))

    percent = 100.0 / kinetic.mean(1)
    each = [slope(energy) for energy in total]
    a, error = slope(total.sum(0))
    together = 100.0 / float(kinetic.mean(1).sum())
    return {
        "drift_percent_per_ns": together * a,
        "drift_error": together * error,
        "drift_of_each": [float(p * a) for p, (a, _) in zip(percent, each, strict=True)],
        "drift_error_of_each": [float(p * e) for p, (_, e) in zip(percent, each, strict=True)],
        "energy_fluctuation_mev": float(1e3 * total.std(1).mean()),
    }
