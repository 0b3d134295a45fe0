"""What the student makes of molecules whose atoms are far from where they belong."""

import argparse
from dataclasses import replace

import numpy as np
import torch

from benchmarks.accuracy import held_out
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.part import Part, log
from mlff_core.batch import MolBatch
from mlff_core.models.potential import Potential
from mlff_core.moves.relax import relax
from mlff_core.status import ConformerStatus

#: Widths in Å of the displacements from which molecules have to find back.
WIDTHS = (0.05, 0.1, 0.15, 0.2, 0.25)

#: How near the energy must come to that of the minimum left for a molecule to be back there, in eV.
RETURNED_EV = 0.05


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_options(command, n_molecules=300, n_conformers=1)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Minima of held-out molecules with every coordinate moved at random, and where they go."""
    _, molecules, _ = embedded(arguments, student)
    starts = MolBatch.from_arrays([(m.numbers, m.positions[0], m.charge) for m in molecules])
    found = relax(starts, student)
    done = [k for k, s in enumerate(found.status) if s == ConformerStatus.CONVERGED]
    minimum, energy = found.batch.select(done).to("cpu", torch.float64), found.energy[done].cpu()
    sizes = minimum.ptr.diff()
    rows = []
    for width in WIDTHS:
        generator = torch.Generator().manual_seed(arguments.seed)
        noise = torch.randn(minimum.positions.shape, generator=generator, dtype=torch.float64)
        moved = replace(minimum, positions=minimum.positions + width * noise)
        above = student(moved).energy.cpu() - energy
        relaxed = relax(moved, student)
        converged = np.array([s == ConformerStatus.CONVERGED for s in relaxed.status])
        gained = (relaxed.energy.cpu() - energy).numpy()
        rows.append(
            {
                "width": width,
                "energy_an_atom_median": float((above / sizes).nanmedian()),
                # What is not a number is no energy above the minimum's either.
                "n_below_minimum": int((~(above > 0)).sum()),
                "n_converged": int(converged.sum()),
                "n_back": int((converged & (np.abs(gained) < RETURNED_EV)).sum()),
            }
        )
        log(f"{rows[-1]}")
    return {"n_molecules": len(done), "returned_ev": RETURNED_EV, "rows": rows}
