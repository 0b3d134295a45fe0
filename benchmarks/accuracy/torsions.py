"""Torsion profiles of held-out molecules: the student's energies of the teacher's scans.

One bond of each molecule is turned in equal steps. At each angle all else is relaxed by a member of
the teacher while the torsion is held, and the mean of its members and the student say the energy.
"""

import argparse

import numpy as np
import torch

from benchmarks.accuracy import held_out
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.part import Part, log
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.evaluation import on_padded
from mlff_core.distill.labelling import LabelConfig, closest_contact, pad
from mlff_core.distill.sampling import holding, relax_path, turn_bond
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential
from mlff_core.units import EV_KCAL_MOL

#: Points of a profile, and molecules whose profiles are made at once.
N_ANGLES, AT_ONCE = 12, 64
#: Points so far above the lowest, in kcal/mol, are where atoms clash.
MOST = 20.0


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    held_out.add_teacher(command)
    held_out.add_options(command, n_molecules=600, n_conformers=1)
    command.add_argument("--steps", type=int, default=60, help="of each relaxation")


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Errors of torsion profiles, their means taken off."""
    teacher = Teacher(arguments.teacher, student.device)
    smiles, molecules, failed = embedded(arguments, student)
    can_turn = [m for m in molecules if turns_much(m)]
    can_turn.sort(key=lambda m: len(m.numbers))
    profiles = []
    for at in range(0, len(can_turn), AT_ONCE):
        chunk = can_turn[at : at + AT_ONCE]
        found = scanned(chunk, teacher, student, arguments.steps)
        profiles += [
            (molecule, *kept(energies))
            for molecule, energies in zip(chunk, found, strict=True)
            if np.isfinite(energies).any()
        ]
        log(f"{at + len(chunk)} of {len(can_turn)} profiles")
    rows = {
        "all": profiles,
        "neutral": [p for p in profiles if not p[0].charge],
        "charged": [p for p in profiles if p[0].charge],
    }
    worst = sorted(profiles, key=lambda p: -np.abs(p[1]).max())[:10]
    return {
        "teacher_sha256": teacher.sha256,
        "embedding_failed": dict(failed),
        "n_angles": N_ANGLES,
        "most_kcal_mol": MOST,
        "rows": {name: summary(chosen) for name, chosen in rows.items() if chosen},
        "worst": [
            {
                "smiles": smiles[m.index],
                "atoms": [int(a) for a in m.axis],
                "largest_error_kcal_mol": float(np.abs(off).max()),
            }
            for m, off, _ in worst
        ],
    }


def turns_much(molecule: Embedded) -> bool:
    """Whether there are two heavy atoms or more on either side of its bond: no methyl group."""
    heavy = molecule.numbers > 1
    return bool((heavy & molecule.side).sum() > 1 and (heavy & ~molecule.side).sum() > 1)


def scanned(
    molecules: list[Embedded], teacher: Teacher, student: Potential, n_steps: int
) -> np.ndarray:
    """Energies in kcal/mol [n, 2, N_ANGLES] along one bond of each: the teacher's, then ours."""
    n, device = len(molecules), student.device
    padded = pad(molecules, max(len(m.numbers) for m in molecules), device)
    numbers, charge, axis, side = (
        x.repeat_interleave(N_ANGLES, 0)
        for x in (padded.numbers, padded.charge, padded.axis, padded.side)
    )
    angle = torch.arange(N_ANGLES, device=device) * (2 * torch.pi / N_ANGLES)
    start = padded.positions[:, 0].repeat_interleave(N_ANGLES, 0)
    start = turn_bond(start, axis, side, angle.repeat(n).to(start))
    everywhere = torch.ones(len(start), dtype=torch.bool, device=device)
    driver = holding(
        lambda z, x, q: teacher.member(0, z, x, q).forces,
        numbers, start, axis, side, everywhere,
    )  # fmt: skip
    _, x = relax_path(driver, numbers, start, charge, n_steps, torch.zeros_like(charge))
    both = teacher(numbers, x, charge).energy, on_padded(student)(numbers, x, charge)[0]
    # Where the teacher lets two atoms collapse, it is wrong by thousands of kcal/mol, and sure.
    close = closest_contact(numbers, x) < LabelConfig().min_contact
    energies = [torch.where(close, torch.nan, e.double() * EV_KCAL_MOL) for e in both]
    return torch.stack([e.view(n, N_ANGLES) for e in energies], 1).cpu().numpy()


def kept(energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors and the teacher's profile in kcal/mol, without clashes; the errors' mean is zero.

    A number that is none is a clash as well.
    """
    theirs = energies[0] - np.nanmin(energies[0])
    low = theirs < MOST
    off = (energies[1] - energies[0])[low]
    return off - off.mean(), theirs[low]


def summary(profiles: list[tuple[Embedded, np.ndarray, np.ndarray]]) -> Part:
    """Of some profiles."""
    off = np.concatenate([off for _, off, _ in profiles])
    barriers = np.array([theirs.max() for _, _, theirs in profiles])
    return {
        "n_molecules": len(profiles),
        "n_points": len(off),
        "energy_mae_kcal_mol": float(np.abs(off).mean()),
        "energy_rmse_kcal_mol": float(np.sqrt(np.square(off).mean())),
        "highest_median_kcal_mol": float(np.median(barriers)),
    }
