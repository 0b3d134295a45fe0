"""Replica exchange over a ladder of temperatures: find low conformers of a flexible molecule.

    python examples/replica_exchange.py [SMILES] [--replicas N] [--picoseconds T] [--out FILE]

Copies of one molecule move side by side in one batch, each coupled to a bath of its own
temperature. Every so many steps neighbours on the ladder try to swap temperatures, accepted with
the probability min(1, exp((1/kT_a - 1/kT_b) (E_a - E_b))) (Y. Sugita, Y. Okamoto, Chem. Phys. Lett.
314, 141 (1999)), so that a conformer found while hot cools down step by step. In the end all
replicas are relaxed, and the energies above the lowest are printed.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core import Dynamics, MolBatch, load_potential, relax, write_trajectory
from mlff_core.units import BOLTZMANN_EV_K, EV_KCAL_MOL


def ladder(lowest_k: float, highest_k: float, n: int) -> np.ndarray:
    """Temperatures in constant ratio, so that neighbours swap about equally often."""
    return np.geomspace(lowest_k, highest_k, n)


def exchange(
    energy_ev: np.ndarray, temperature_k: np.ndarray, first: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Try to swap the temperatures of neighbours on the ladder.

    Args:
        energy_ev: Potential energy of each replica.
        temperature_k: Temperature of each replica.
        first: 0 pairs rungs 0-1, 2-3, …; 1 pairs rungs 1-2, 3-4, ….
        rng: Decides.

    Returns:
        The new temperature of each replica, and how many pairs swapped.
    """
    order = np.argsort(temperature_k)
    new, n_swaps = temperature_k.copy(), 0
    for a, b in zip(order[first:-1:2], order[first + 1 :: 2], strict=True):
        beta_a, beta_b = 1 / (BOLTZMANN_EV_K * temperature_k[[a, b]])
        if np.log(rng.random()) < (beta_a - beta_b) * (energy_ev[a] - energy_ev[b]):
            new[a], new[b] = temperature_k[b], temperature_k[a]
            n_swaps += 1
    return new, n_swaps


def embed(smiles: str) -> tuple[list[int], np.ndarray, int]:
    """Atomic numbers, positions in Å and charge of one conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return numbers, mol.GetConformer().GetPositions(), Chem.GetFormalCharge(mol)


def main() -> None:
    """Run the ladder, relax, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("smiles", nargs="?", default="OCCCCN")
    parser.add_argument("--replicas", type=int, default=8)
    # With CI set the example only shows that it runs.
    default = 0.05 if "CI" in os.environ else 5.0
    parser.add_argument("--picoseconds", type=float, default=default)
    parser.add_argument("--every", type=int, default=50, help="steps between two exchanges")
    parser.add_argument("--out", type=Path, help="trajectory, .parquet or {molecule}.traj")
    options = parser.parse_args()

    potential = load_potential("default")
    start = MolBatch.from_arrays([embed(options.smiles)] * options.replicas)
    start = relax(start, potential).batch
    temperature = ladder(300.0, 800.0, options.replicas)
    dynamics = Dynamics(start, potential, temperature_k=temperature, friction_per_ps=5.0, seed=1)
    rng, frames = np.random.default_rng(1), []
    n_rounds = max(int(options.picoseconds * 1e3 / dynamics.timestep_fs) // options.every, 1)
    n_swaps = n_tries = 0
    for k in range(n_rounds):
        dynamics.run(options.every)
        energy = dynamics.potential_energy.cpu().numpy()
        temperature, swapped = exchange(energy, temperature, k % 2, rng)
        dynamics.set_temperature(temperature, rescale=True)
        n_swaps, n_tries = n_swaps + swapped, n_tries + (options.replicas - k % 2) // 2
        if options.out:
            frames.append(dynamics.frame())
    if options.out:
        write_trajectory(options.out, frames)
    print(f"{n_rounds} rounds, {n_swaps} of {n_tries} exchanges accepted")

    final = relax(dynamics.frame().batch, potential)
    energy = np.sort(final.energy.cpu().numpy())
    print("kcal/mol above the lowest:", np.round((energy - energy[0]) * EV_KCAL_MOL, 2))
    print(
        f"lowest is {(energy[0] - potential(start).energy[0].item()) * EV_KCAL_MOL:+.2f} kcal/mol "
        "from the conformer it began with"
    )


if __name__ == "__main__":
    main()
