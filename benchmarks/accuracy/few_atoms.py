"""Bonds of small and of hypervalent molecules at the minima of both, from the same start.

Where the teacher has such a molecule, training may have it too: no table holds many of them.
"""

import argparse

import numpy as np

from benchmarks.accuracy import held_out
from benchmarks.accuracy.part import Part, log
from mlff_core.batch import MolBatch
from mlff_core.cores import usable_cores
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.steps import embed_all
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.potential import Potential
from mlff_core.moves.relax import relax

#: Two atoms; hydrides; SF5, PF6- and their relatives; bonds between nitrogens and oxygens.
MOLECULES = {
    "two atoms": "[H][H] FF ClCl BrBr II FCl ClBr ClI BrI F Cl Br I N#N [C-]#[O+]",
    "hydrides": "O S [SeH2] N P [AsH3] C [SiH4] [NH4+] [OH3+] [OH-] [SH-]",
    "hypervalent": "FS(F)(F)(F)(F)F FS(F)(F)(F)(F)c1ccccc1 CS(F)(F)(F)(F)F F[P-](F)(F)(F)(F)F "
    "FP(F)(F)(F)F FS(F)(F)F O=S(=O)(F)F O=P(Cl)(Cl)Cl",
    "N-N and O-O": "NN OO NO COOC CNNC OOO N=[N+]=[N-] [N-]=[N+]=[N-]",
}


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_teacher(command)
    command.add_argument("--fmax", type=float, default=0.01)
    command.add_argument("--max-steps", type=int, default=500)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """How far bonds of the student's minima are from those of the teacher's."""
    teacher = Teacher(arguments.teacher, student.device)
    kinds = [(kind, text) for kind, texts in MOLECULES.items() for text in texts.split()]
    molecules, failed = embed_all([t for _, t in kinds], 1, arguments.seed, usable_cores())
    starts = MolBatch.from_arrays([(m.numbers, m.positions[0], m.charge) for m in molecules])
    limits = {"fmax": arguments.fmax, "max_steps": arguments.max_steps}
    ends = [
        relax(starts, field, **limits)
        for field in (student, TeacherForceField(teacher, student.device))
    ]
    log("relaxed")
    geometries = [end.batch.split(end.batch.positions.cpu()) for end in ends]
    rows = []
    for k, molecule in enumerate(molecules):
        own, theirs = (bonds_of(molecule, found[k].double().numpy()) for found in geometries)
        off = own - theirs
        rows.append(
            {
                "kind": kinds[molecule.index][0],
                "smiles": kinds[molecule.index][1],
                "status": [str(end.status[k]) for end in ends],
                "largest_error_angstrom": float(np.abs(off).max()),
                "longest_bond_of_the_teacher": float(theirs.max()),
            }
        )
    return {
        "teacher_sha256": teacher.sha256,
        "embedding_failed": dict(failed),
        "molecules": rows,
        "largest": {
            kind: max(r["largest_error_angstrom"] for r in rows if r["kind"] == kind)
            for kind in MOLECULES
            if any(r["kind"] == kind for r in rows)
        },
    }


def bonds_of(molecule: Embedded, positions: np.ndarray) -> np.ndarray:
    """Lengths of its bonds in Å."""
    a, b = molecule.bonds.astype(int).T
    return np.linalg.norm(positions[a] - positions[b], axis=1)
