"""How much of the student's errors is electrostatics between atoms far apart."""

import argparse
import itertools
import math

import numpy as np
import torch

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.labels import labelled
from benchmarks.accuracy.part import Part, log
from mlff_core.distill import evaluation
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential
from mlff_core.units import COULOMB_EV_ANGSTROM

#: Distances in Å between which the teacher's charges are made to pull at each other: from the
#: student's cutoff to what three blocks reach, and all that is beyond.
SHELLS = (5.0, 7.0, 10.0, 15.0, math.inf)


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Which share of the Coulomb forces between atoms far apart the student's errors hold."""
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    networks = Teacher(arguments.teacher, student.device).networks
    if networks is None:
        raise SystemExit("the teacher's file holds no AIMNet2, so there are no charges")
    evaluate = evaluation.on_padded(student)
    columns: dict[str, list[np.ndarray]] = {"error": [], "far": [], "molecule": [], "charge": []}
    for block in blocks:
        for kind in range(block.positions.shape[1]):
            x, valid = block.positions[:, kind], block.valid[:, kind]
            energy, forces = evaluate(block.numbers, x, block.charge)
            q = networks.charges(block.numbers, x, block.charge)
            real = (block.numbers > 0) & (valid & energy.isfinite())[:, None]
            shells = coulomb_forces(q, x, block.numbers > 0)
            columns["error"].append((block.forces[:, kind] - forces)[real].cpu().numpy())
            columns["far"].append(shells[real].cpu().numpy())
            for name, values in (("molecule", block.index), ("charge", block.charge)):
                columns[name].append(values[:, None].expand_as(real)[real].cpu().numpy())
    error, shells, molecule, charge = (np.concatenate(c) for c in columns.values())
    groups = {
        "all": np.ones(len(charge), bool),
        "neutral": charge == 0,
        "charged": charge != 0,
        "charged more than once": np.abs(charge) > 1,
    }
    return {
        "shells": [None if math.isinf(bound) else bound for bound in SHELLS],
        "n_molecules": len(np.unique(molecule)),
        **{
            group: far_shares(error[chosen], shells[chosen], molecule[chosen])
            for group, chosen in groups.items()
            if len(np.unique(molecule[chosen])) > 1
        },
    }


def coulomb_forces(q: torch.Tensor, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Forces of point charges on each other, by the SHELLS of distance [n, width, 3, n_shells].

    Args:
        q: Charges in e, 0 on padding [n, width].
        x: Å [n, width, 3].
        real: What is no padding [n, width].
    """
    towards = x[:, None, :] - x[:, :, None]  # [n, i, j, 3]
    distance = towards.square().sum(-1).sqrt()
    pull = -COULOMB_EV_ANGSTROM * q[:, :, None] * q[:, None, :] / distance**3
    shells = []
    for low, high in itertools.pairwise(SHELLS):
        inside = (distance > low) & (distance <= high) & real[:, :, None] & real[:, None, :]
        shells.append((torch.where(inside, pull, 0.0)[..., None] * towards).sum(2))
    return torch.stack(shells, -1)


def far_shares(error: np.ndarray, shells: np.ndarray, molecule: np.ndarray) -> Part:
    """Least squares of the errors by the forces of the shells; molecules err independently.

    Args:
        error: Teacher's force minus the student's, eV/Å [n_atoms, 3].
        shells: eV/Å [n_atoms, 3, n_shells].
        molecule: Of each atom [n_atoms].
    """
    y, a = error.astype(np.float64), shells.astype(np.float64)
    inverse = np.linalg.pinv(np.einsum("ncs,nct->st", a, a))
    share = inverse @ np.einsum("ncs,nc->s", a, y)
    rest = y - a @ share
    _, place = np.unique(molecule, return_inverse=True)
    pulls = np.zeros((place.max() + 1, len(share)))
    np.add.at(pulls, place, np.einsum("ncs,nc->ns", a, rest))
    return {
        "force_mae": float(1e3 * np.abs(y).mean()),
        "force_mae_without": float(1e3 * np.abs(rest).mean()),
        "rms": (1e3 * np.sqrt(np.square(a).mean((0, 1)))).tolist(),
        "share": share.tolist(),
        "share_error": np.sqrt(np.diag(inverse @ (pulls.T @ pulls) @ inverse)).tolist(),
    }
