"""Held-out molecules that the student relaxes to other bonds, and whether the teacher does, too."""

import argparse

import numpy as np

from benchmarks.accuracy import held_out
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.part import Part, log
from mlff_core.batch import MolBatch
from mlff_core.distill import minima
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.potential import Potential
from mlff_core.moves.relax import RelaxResult, relax
from mlff_core.status import ConformerStatus

#: Largest force of a minimum, eV/Å.
FMAX = 0.05


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_options(command, n_molecules=1500, n_conformers=1)
    held_out.add_teacher(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Which held-out molecules come to other bonds."""
    teacher = Teacher(arguments.teacher, student.device)
    smiles, molecules, failed = embedded(arguments, student)
    _, converged, changed, theirs = relaxed(molecules, student, teacher)
    return {
        "teacher_sha256": teacher.sha256,
        "n_molecules": len(molecules),
        "embedding_failed": dict(failed),
        "n_converged": int(converged.sum()),
        "rearranged": rearranged(smiles, molecules, changed, theirs),
    }


def relaxed(
    molecules: list[Embedded], student: Potential, teacher: Teacher
) -> tuple[RelaxResult, np.ndarray, np.ndarray, np.ndarray]:
    """Molecules relaxed by the student; which of them came to a minimum, and which to other bonds.

    The last is which of these the teacher brings to other bonds as well, from the same start.
    """
    starts = MolBatch.from_arrays([(m.numbers, m.positions[0], m.charge) for m in molecules])
    found = relax(starts, student, fmax=FMAX)
    converged = np.array([s == ConformerStatus.CONVERGED for s in found.status])
    topologies = [minima.topology_of(m) for m in molecules]
    changed = converged & minima.have_other_bonds(found.batch, topologies)
    log(f"relaxed {converged.sum()} of {len(molecules)}, {changed.sum()} to other bonds")
    theirs = np.zeros(len(molecules), bool)
    if changed.any():
        again = np.flatnonzero(changed).tolist()
        in_place = TeacherForceField(teacher, student.device)
        ends = relax(starts.select(again), in_place, fmax=FMAX)
        theirs[again] = minima.have_other_bonds(ends.batch, [topologies[k] for k in again])
    return found, converged, changed, theirs


def rearranged(
    smiles: list[str], molecules: list[Embedded], changed: np.ndarray, theirs: np.ndarray
) -> list[Part]:
    """Those that came to other bonds."""
    return [
        {"smiles": smiles[molecules[k].index], "teacher_too": bool(theirs[k])}
        for k in np.flatnonzero(changed)
    ]
