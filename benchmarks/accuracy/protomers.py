"""Energies of other protonation states of these molecules, charged as no table has them."""

import argparse
import random

import numpy as np
import torch
from rdkit import Chem

from benchmarks.accuracy import held_out
from benchmarks.accuracy.other_bonds import rearranged, relaxed
from benchmarks.accuracy.part import Part
from mlff_core.cores import usable_cores
from mlff_core.distill.protomers import protomer
from mlff_core.distill.steps import embed_all
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.force_field import evaluate_checked
from mlff_core.models.potential import Potential
from mlff_core.units import EV_KCAL_MOL

#: Errors in kcal/mol from which on the energy of a molecule is counted as far off.
FAR_OFF_KCAL_MOL = 5.0


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_options(command, n_molecules=1000)
    held_out.add_teacher(command)
    command.add_argument("--at-once", type=int, default=32, help="for the teacher")
    command.add_argument(
        "--both-signs",
        type=int,
        default=250,
        help="so many states besides that have several groups of both signs: few drawn ones do",
    )


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Energies of held-out molecules with other protons and charges, where the student relaxed."""
    teacher = Teacher(arguments.teacher, student.device)
    own = held_out.smiles_of(arguments, student)
    drawn = other_states(own, arguments, student, arguments.molecules)
    more = other_states(own, arguments, student, arguments.both_signs, both_signs=True)
    smiles = list(dict.fromkeys([*drawn, *more]))
    molecules, failed = embed_all(smiles, 1, arguments.seed, usable_cores())
    found, converged, changed, theirs = relaxed(molecules, student, teacher)
    done = np.flatnonzero(converged & ~changed).tolist()
    in_place, energies = TeacherForceField(teacher, student.device), []
    for k in range(0, len(done), arguments.at_once):
        some = found.batch.select(done[k : k + arguments.at_once])
        energies.append(evaluate_checked(in_place, some).energy.cpu())
    error = EV_KCAL_MOL * (found.energy[done].cpu() - torch.cat(energies)).numpy()
    signs = np.array([charged_groups(smiles[molecules[k].index]) for k in done])
    by_chance = np.array([molecules[k].index < len(drawn) for k in done], bool)
    groups = {
        "all": by_chance,
        "no charged group": by_chance & (signs == 0).all(1),
        "groups of one sign": by_chance & ((signs > 0).sum(1) == 1),
        "groups of both signs, one of each": by_chance & (signs == 1).all(1),
        "groups of both signs, more": (signs > 0).all(1) & (signs > 1).any(1),
    }
    order = np.argsort(-np.abs(error))
    return {
        "teacher_sha256": teacher.sha256,
        "n_embedded": len(molecules),
        "n_both_signs_besides": int((~by_chance).sum()),
        "embedding_failed": dict(failed),
        "n_converged": int(converged.sum()),
        "rearranged": rearranged(smiles, molecules, changed, theirs),
        "far_off_kcal_mol": FAR_OFF_KCAL_MOL,
        "groups": {
            name: sizes_of_errors(error[chosen]) for name, chosen in groups.items() if chosen.any()
        },
        "worst": [
            {"smiles": smiles[molecules[done[k]].index], "error": float(error[k])}
            for k in order[:10]
        ],
    }


def other_states(
    smiles: list[str],
    arguments: argparse.Namespace,
    student: Potential,
    most: int,
    *,
    both_signs: bool = False,
) -> list[str]:
    """A protonation state of each molecule that is not its own, so many at most."""
    rng = random.Random(arguments.seed)
    max_charge = min(student.config.max_charge, -student.config.min_charge)
    states: dict[str, None] = {}
    for text in smiles if most else ():
        state = protomer(text, rng, max_charge=max_charge, both_signs=both_signs)
        if state is not None and state != Chem.CanonSmiles(text):
            states[state] = None
        if len(states) == most:
            break
    return list(states)


def charged_groups(smiles: str) -> tuple[int, int]:
    """Atoms with a positive and with a negative charge that no neighbour's charge makes up for."""
    atoms = [
        atom
        for atom in Chem.MolFromSmiles(smiles).GetAtoms()
        if not any(atom.GetFormalCharge() * n.GetFormalCharge() < 0 for n in atom.GetNeighbors())
    ]
    return (
        sum(atom.GetFormalCharge() > 0 for atom in atoms),
        sum(atom.GetFormalCharge() < 0 for atom in atoms),
    )


def sizes_of_errors(error: np.ndarray) -> dict[str, float]:
    """Of errors in kcal/mol."""
    size = np.abs(error)
    return {
        "n": len(size),
        "median": float(np.median(size)),
        "90_percent": float(np.quantile(size, 0.9)),
        "largest": float(size.max()),
        "n_far_off": int((size > FAR_OFF_KCAL_MOL).sum()),
    }
