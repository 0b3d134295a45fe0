"""Conformers of held-out molecules relaxed by teacher and student from the same start."""

import argparse

from benchmarks.accuracy import held_out
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.part import Part, add_part, log, setting
from mlff_core.distill import minima
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_options(command, n_molecules=300, n_conformers=4)
    held_out.add_teacher(command)
    command.add_argument("--at-once", type=int, default=100)
    command.add_argument("--fmax", type=float, nargs="+", default=[0.05, 0.005])
    command.add_argument("--max-steps", type=int, default=500)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Conformers of held-out molecules, relaxed by teacher and student from the same start."""
    teacher = Teacher(arguments.teacher, student.device)
    _, molecules, failed = embedded(arguments, student)
    parts: list[list[minima.RelaxedConformers]] = []
    # A few at a time, so that what is done is kept if this is cut off.
    for k in range(0, len(molecules), arguments.at_once):
        some = molecules[k : k + arguments.at_once]
        parts.append(
            minima.compare_minima(
                teacher, student, some, fmax=arguments.fmax, max_steps=arguments.max_steps
            )
        )
        part = {
            **setting(student),
            "teacher_sha256": teacher.sha256,
            "n_embedded": k + len(some),
            "embedding_failed": dict(failed),
            "at": [
                {"fmax": fmax, **summary_of_minima(minima.join(list(found)))}
                for fmax, found in zip(arguments.fmax, zip(*parts, strict=True), strict=True)
            ],
        }
        add_part(arguments.out, "minima", part, student)
        log(f"{k + len(some)} molecules: {part['at'][-1]['all']}")
    return part


def summary_of_minima(result: minima.RelaxedConformers) -> Part:
    """Headline numbers of all, of neutral and of charged molecules."""
    return {
        **{name: getattr(result, name) for name in minima.COUNTS},
        "all": minima.summarise_minima(result),
        "neutral": minima.summarise_minima(result.select(result.charge == 0)),
        "charged": minima.summarise_minima(result.select(result.charge != 0)),
    }
