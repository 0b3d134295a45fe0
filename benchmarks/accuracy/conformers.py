"""Conformer energies of MMFF94, GFN2-xTB and the student against the teacher's."""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.accuracy.part import Part
from benchmarks.accuracy.ranking import CONFORMERS, about, ranking, stored
from mlff_core.batch import MolBatch
from mlff_core.distill import minima
from mlff_core.models.potential import Potential
from mlff_core.moves.relax import relax
from mlff_core.status import ConformerStatus


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    command.add_argument("--conformers", type=Path, default=CONFORMERS)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """How each method ranks the conformers of conformers.npz, beside the teacher."""
    methods: dict[str, dict[str, list[float]]] = {}
    starts: list[tuple[np.ndarray, np.ndarray, int]] = []
    ends: list[tuple[np.ndarray, np.ndarray, int]] = []
    charged = []
    for molecule in stored(arguments.conformers):
        numbers, x, charge = (molecule[name] for name in ("numbers", "positions", "charge"))
        batch = MolBatch.from_arrays([(numbers, y, int(charge)) for y in x])
        energies = {
            "MMFF94": molecule["mmff94"],
            "MMFF94, at its own minima": molecule["mmff94_relaxed"],
            "GFN2-xTB": molecule["gfn2"],
            "student": student(batch).energy.cpu().numpy(),
        }
        charged.append(int(charge) != 0)
        starts += [(numbers, y, int(charge)) for y in molecule["start"]]
        ends += [(numbers, y, int(charge)) for y in x]
        for name, energy in energies.items():
            for key, value in ranking(energy, molecule["teacher"]).items():
                methods.setdefault(name, {}).setdefault(key, []).append(value)
    groups = {
        "all": np.ones(len(charged), bool),
        "neutral": ~np.array(charged),
        "charged": np.array(charged),
    }
    return {
        "teacher_sha256": about(arguments.conformers)["teacher_sha256"],
        "n_molecules": len(charged),
        "n_charged": int(sum(charged)),
        "n_conformers": len(ends),
        "minima": nearby_minima(starts, ends, student),
        **{
            group: {
                name: {
                    key: float(np.mean(np.array(values)[chosen])) for key, values in found.items()
                }
                for name, found in methods.items()
            }
            for group, chosen in groups.items()
        },
    }


def nearby_minima(
    starts: list[tuple[np.ndarray, np.ndarray, int]],
    ends: list[tuple[np.ndarray, np.ndarray, int]],
    student: Potential,
) -> dict[str, float]:
    """How far the student ends, in Å, from where the teacher ended from the same starts."""
    relaxed = relax(MolBatch.from_arrays(starts), student, fmax=0.02, max_steps=500)
    done = [k for k, s in enumerate(relaxed.status) if s == ConformerStatus.CONVERGED]
    ours = relaxed.batch.select(done)
    theirs = MolBatch.from_arrays([ends[k] for k in done], device=student.device)
    found: dict[str, float] = {"n_converged": len(done)}
    for name, heavy in (("rmsd", False), ("heavy_rmsd", True)):
        rmsd = minima.superposed_rmsd(ours, theirs, heavy=heavy)
        found[f"{name}_median"] = float(np.median(rmsd))
        found[f"{name}_90_percent"] = float(np.quantile(rmsd, 0.9))
    return found
