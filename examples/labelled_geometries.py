"""Labelled geometries for training: minima of a run, and geometries away from them.

    python examples/labelled_geometries.py DIR FILE.extxyz [--temperature K] [--frames N]

DIR is the folder of a run (`mlff-screen run quick --out DIR`). Each usable conformer goes into the
file with its energy in eV and its forces in eV/Å, as ASE and trainers like those of MACE and NequIP
read them. At minima forces say little, so each conformer is also moved for some steps at a
temperature, and the frames are labelled, too. The labels are the student's: good for
pre-training and tests, no better than it is.
"""

import argparse
import os
from pathlib import Path

from ase.io import write

from mlff_core import Dynamics, MolBatch, load_potential
from mlff_core.tables import read


def label(folder: Path, file: Path, temperature_k: float, n_frames: int, model: str) -> int:
    """Write the file; returns how many geometries are in it."""
    file.unlink(missing_ok=True)
    minima = list(read(folder).atoms())
    potential = load_potential(model)
    moving = Dynamics(
        MolBatch.from_ase(minima), potential, temperature_k=temperature_k, friction_per_ps=10.0,
        seed=7,
    )  # fmt: skip
    systems = list(minima)
    for _ in range(n_frames):
        moving.run(20)
        batch = moving.frame().batch
        out = potential(batch)
        for atoms, start, energy, forces in zip(
            batch.to_ase(), minima, out.energy.tolist(), batch.split(out.forces.cpu()), strict=True
        ):
            atoms.info |= {name: start.info[name] for name in ("smiles", "inchikey")}
            atoms.info["energy"] = energy
            atoms.arrays["forces"] = forces.numpy()
            systems.append(atoms)
    write(file, systems, format="extxyz")
    return len(systems)


def main() -> None:
    """Read the arguments and go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("file", metavar="FILE.extxyz", type=Path)
    parser.add_argument("--temperature", type=float, default=600.0, help="K (default 600)")
    parser.add_argument("--frames", type=int, default=3, help="of each conformer (default 3)")
    parser.add_argument("--model", default="default")
    given = parser.parse_args()
    n = label(given.folder, given.file, given.temperature, given.frames, given.model)
    print(f"{given.file}: {n} geometries")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
