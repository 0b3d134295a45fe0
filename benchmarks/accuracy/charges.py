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


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """How far charges and dipoles are off, of neutral and of charged molecules."""
    if not student.config.charges_after:
        raise SystemExit(f"{student.name} has no partial charges")
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    networks = Teacher(arguments.teacher, student.device).networks
    if networks is None:
        raise SystemExit("the teacher's file holds no AIMNet2, so there are no charges")
    errors = charge_errors(blocks, teachers_charges(blocks, networks), student)
    groups = {"all": np.ones(len(errors["charge"]), bool), "neutral": errors["charge"] == 0}
    return {name: summary(errors, chosen) for name, chosen in groups.items()} | {
        "charged": summary(errors, errors["charge"] != 0)
    }


def teachers_charges(blocks: list[TestBlock], networks: AIMNet2) -> list[Tensor]:
    """Charges in e of every geometry of every block [n, n_geometries, width]."""
    return [
        torch.stack([networks.charges(b.numbers, x, b.charge) for x in b.positions.unbind(1)], 1)
        for b in blocks
    ]


def charge_errors(
    blocks: list[TestBlock], expected: list[Tensor], student: Potential
) -> dict[str, np.ndarray]:
    """Of each labelled geometry: molecule, its charge, n_atoms, the sum of the sizes of the errors
    of its charges in e, and the size of that of its dipole moment in debye."""
    columns: dict[str, list[np.ndarray]] = {}
    for block, theirs in zip(blocks, expected, strict=True):
        real = block.numbers > 0
        sizes = real.sum(1)
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        mol_idx = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        for kind, x in enumerate(block.positions.unbind(1)):
            valid = block.valid[:, kind]
            out = student.evaluate(
                MolBatch(block.numbers[real], x[real], mol_idx, ptr, block.charge)
            )
            assert out.charges is not None
            error = torch.zeros_like(x[..., 0])
            error[real] = out.charges.to(x.dtype) - theirs[:, kind][real]
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
