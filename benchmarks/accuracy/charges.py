"""Partial charges and dipole moments of held-out molecules against the teacher's."""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.labels import labelled
from benchmarks.accuracy.part import Part, log
from mlff_core.batch import MolBatch
from mlff_core.distill.aimnet2 import AIMNet2
from mlff_core.distill.evaluation import TestBlock
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential
from mlff_core.units import E_ANGSTROM_DEBYE

#: What `summary` gives of some geometries, besides how many.
MEANS = ("charge_mae_e", "dipole_mae_debye")


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """How far charges and dipoles are off, of neutral and of charged molecules; and the teacher's
    members from each other."""
    if not student.config.charges_after:
        raise SystemExit(f"{student.name} has no partial charges")
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    networks = Teacher(arguments.teacher, student.device).networks
    if networks is None:
        raise SystemExit("the teacher's file holds no AIMNet2, so there are no charges")
    theirs = teachers_charges(blocks, networks)
    errors = charge_errors(
        blocks, students_charges(blocks, student), [charges.mean(0) for charges in theirs]
    )
    of_members = [
        charge_errors(
            blocks,
            [charges[k] for charges in theirs],
            [(charges.sum(0) - charges[k]) / (len(charges) - 1) for charges in theirs],
        )
        for k in range(len(networks.members))
    ]
    groups = {
        "all": np.ones(len(errors["charge"]), bool),
        "neutral": errors["charge"] == 0,
        "charged": errors["charge"] != 0,
    }
    return {
        name: summary(errors, chosen) | {"members": disagreement(of_members, chosen)}
        for name, chosen in groups.items()
    }


def teachers_charges(blocks: list[TestBlock], networks: AIMNet2) -> list[Tensor]:
    """Charges in e of every geometry of every block by each member [n_members, n, n_geometries,
    width]."""
    return [
        torch.stack(
            [networks.charges_of_members(b.numbers, x, b.charge) for x in b.positions.unbind(1)], 2
        )
        for b in blocks
    ]


def students_charges(blocks: list[TestBlock], student: Potential) -> list[Tensor]:
    """Charges in e of every geometry of every block, 0 on padding [n, n_geometries, width]."""
    found = []
    for block in blocks:
        real = block.numbers > 0
        sizes = real.sum(1)
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        mol_idx = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        charges = torch.zeros_like(block.positions[..., 0])
        for kind, x in enumerate(block.positions.unbind(1)):
            out = student.evaluate(
                MolBatch(block.numbers[real], x[real], mol_idx, ptr, block.charge)
            )
            assert out.charges is not None
            charges[:, kind][real] = out.charges.to(x.dtype)
        found.append(charges)
    return found


def charge_errors(
    blocks: list[TestBlock], charges: list[Tensor], expected: list[Tensor]
) -> dict[str, np.ndarray]:
    """Of each labelled geometry: molecule, its charge, n_atoms, the sum of the sizes of the errors
    of its charges in e, and the size of that of its dipole moment in debye.

    Args:
        blocks: The geometries.
        charges: In e, 0 on padding [n, n_geometries, width] of each block.
        expected: Likewise.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for block, own, theirs in zip(blocks, charges, expected, strict=True):
        real = block.numbers > 0
        sizes = real.sum(1)
        for kind, x in enumerate(block.positions.unbind(1)):
            valid = block.valid[:, kind]
            error = torch.where(real, own[:, kind] - theirs[:, kind], 0.0)
            dipole = E_ANGSTROM_DEBYE * (error[..., None] * x).sum(1).norm(dim=1)
            for name, values in (
                ("molecule", block.index.to(valid.device)), ("charge", block.charge),
                ("n_atoms", sizes), ("charge_error", error.abs().sum(1)), ("dipole_error", dipole),
            ):  # fmt: skip
                columns.setdefault(name, []).append(values[valid].cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def summary(errors: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    """Mean errors of some geometries."""
    n_atoms = int(errors["n_atoms"][chosen].sum())
    return {
        "n_geometries": int(chosen.sum()),
        "charge_mae_e": float(errors["charge_error"][chosen].sum() / max(1, n_atoms)),
        "dipole_mae_debye": float(errors["dipole_error"][chosen].mean()) if chosen.any() else None,
    }


def disagreement(of_members: list[dict[str, np.ndarray]], chosen: np.ndarray) -> dict[str, Any]:
    """How far a member is from the mean of the others, and the standard error of the mean of all.

    Args:
        of_members: Each member's errors against the mean of the others, as of `charge_errors`.
        chosen: Which geometries count, bool [n_geometries].
    """
    if not chosen.any():
        return dict.fromkeys((*MEANS, "dipole_standard_error_debye"))
    n = len(of_members)
    each = [summary(errors, chosen) for errors in of_members]
    out = {name: float(np.mean([one[name] for one in each])) for name in MEANS}
    # From the mean of the others it is n / (n - 1) as far as from the mean of all.
    square = np.sum([errors["dipole_error"][chosen] ** 2 for errors in of_members], 0)
    error = np.sqrt((n - 1) / n**3 * square)
    return out | {"dipole_standard_error_debye": float(error.mean())}
