"""How far the teacher's own members are apart, beside the student's errors."""

import argparse
import functools
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.labels import MOVED, labelled
from benchmarks.accuracy.part import Part, log
from benchmarks.accuracy.ranking import CONFORMERS, ranking, stored
from mlff_core.distill import evaluation
from mlff_core.distill.sampling import KINDS
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential
from mlff_core.units import EV_KCAL_MOL


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """How far the teacher's members are apart where the student's errors are measured."""
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    teacher = Teacher(arguments.teacher, student.device)
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    answers = []
    for k in range(teacher.n_members):
        found = evaluation.geometry_errors(blocks, functools.partial(answer_of, teacher, k))
        answers.append({name: found[f"student_{name}"] for name in ("energy", "force")})
        log(f"member {k + 1} of {teacher.n_members}")
    moved = np.isin(errors["kind"], MOVED)
    charge = errors["charge"]
    groups = {
        "all": np.ones(len(charge), bool),
        "neutral": charge == 0,
        "charged": charge != 0,
        "distorted_neutral": moved & (charge == 0),
        "distorted_charged": moved & (charge != 0),
        **{kind: errors["kind"] == k for k, kind in enumerate(KINDS)},
    }
    finite = evaluation.finite_geometries(errors)
    return {
        "teacher_sha256": teacher.sha256,
        "n_members": teacher.n_members,
        "n_molecules": len(np.unique(errors["molecule"])),
        "n_conformers": arguments.conformers,
        "groups": {
            name: disagreement(errors, answers, chosen & finite) for name, chosen in groups.items()
        },
        "conformers": rankings_of_members(teacher, CONFORMERS),
    }


def answer_of(
    teacher: Teacher, member: int, numbers: torch.Tensor, x: torch.Tensor, charge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies in eV and forces in eV/Å of one of the teacher's members, in a student's place."""
    label = teacher.member(member, numbers, x, charge)
    return label.energy, label.forces


def disagreement(
    errors: dict[str, np.ndarray], answers: list[dict[str, np.ndarray]], geometries: np.ndarray
) -> Part:
    """Each member against the mean of the others, and the student against the mean of all.

    Args:
        errors: Of student and teacher (`evaluation.geometry_errors`).
        answers: Of each member: energies [n_geometries] and forces [n_atoms, 3].
        geometries: Which count, bool [n_geometries].

    Returns:
        `student` and `member`, headline errors as of `evaluation.summarise` with those of whole
        molecules (`between_molecules`), the latter the mean over the members; `standard_error`,
        the root mean square of that of a force component's mean over the members, in meV/Å.
    """
    n = len(answers)

    def summary(answer: dict[str, np.ndarray]) -> dict[str, float]:
        chosen = evaluation.subset(errors | answer, geometries)
        error = chosen["student_energy"] - chosen["energy"]
        return evaluation.summarise(chosen) | between_molecules(chosen["molecule"], error)

    energy, force = (np.stack([answer[name] for answer in answers]) for name in ("energy", "force"))
    each = [
        summary(
            {
                "energy": np.delete(energy, k, 0).mean(0),
                "force": np.delete(force, k, 0).mean(0),
                "student_energy": energy[k],
                "student_force": force[k],
            }
        )
        for k in range(n)
    ]
    atoms = geometries[errors["geometry"]]
    variance = force[:, atoms].astype(np.float64).var(0, ddof=1)
    return {
        "student": summary({}),
        "member": {name: float(np.mean([values[name] for values in each])) for name in each[0]},
        "standard_error": float(1e3 * np.sqrt(variance.mean() / n)),
    }


def between_molecules(molecule: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Sizes of the errors in eV that all geometries of a molecule share, in kcal/mol."""
    _, place, count = np.unique(molecule, return_inverse=True, return_counts=True)
    size = EV_KCAL_MOL * np.abs(np.bincount(place, error) / count)
    return {
        "molecule_energy_median": float(np.median(size)),
        "molecule_energy_90_percent": float(np.quantile(size, 0.9)),
        "molecule_energy_largest": float(size.max()),
    }


def rankings_of_members(teacher: Teacher, file: Path) -> dict[str, float]:
    """How a member ranks the conformers of a file as the others' mean does, on average."""
    found: dict[str, list[float]] = {}
    for molecule in stored(file):
        positions = torch.from_numpy(molecule["positions"]).float().to(teacher.device)
        numbers = torch.from_numpy(molecule["numbers"]).long().to(teacher.device)
        numbers = numbers.expand(len(positions), -1)
        charge = torch.full_like(numbers[:, 0], int(molecule["charge"]))
        labels = [teacher.member(k, numbers, positions, charge) for k in range(teacher.n_members)]
        energy = torch.stack([label.energy for label in labels]).cpu().numpy()
        for k, own in enumerate(energy):
            for key, value in ranking(own, np.delete(energy, k, 0).mean(0)).items():
                found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}
