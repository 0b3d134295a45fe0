"""Forces and energies of held-out molecules against the teacher's."""

import argparse
import itertools
import re
from typing import Any

import numpy as np

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.labels import LABELS, MOVED, labelled
from benchmarks.accuracy.part import Part, log
from mlff_core.distill import evaluation
from mlff_core.distill.molecules import UNUSUAL_CHARGE
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential

#: Bounds in eV/Å between geometries on which the teacher's members agree more and less.
SPREADS = (0.0, 0.1, 0.2, 0.5, LABELS.max_force_spread)


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Forces and energies of held-out molecules."""
    smiles, molecules, failed = embedded(arguments, student)
    blocks, counts, driven_by = labelled(arguments, molecules, student)
    log(f"labelled: {dict(counts)}")
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    finite = evaluation.finite_geometries(errors)
    errors = evaluation.subset(errors, finite)
    moved = np.isin(errors["kind"], MOVED)
    charge = errors["charge"]
    strange = np.array([bool(re.search(UNUSUAL_CHARGE, text)) for text in smiles])
    unusual = strange[errors["molecule"]] & (charge != 0)

    def summary(geometries: np.ndarray) -> dict[str, float]:
        return evaluation.summarise(evaluation.subset(errors, geometries))

    return {
        "teacher_sha256": Teacher.check(arguments.teacher),
        "n_embedded": len(molecules),
        "n_conformers": arguments.conformers,
        "driven_by": "the student" if driven_by == student.name else driven_by,
        "embedding_failed": dict(failed),
        "labels": dict(counts),
        "n_student_not_finite": int((~finite).sum()),
        "all": evaluation.summarise(errors),
        "distorted": summary(moved),
        "distorted_neutral": summary(moved & (charge == 0)),
        "distorted_charged": summary(moved & (charge != 0)),
        "by_kind": evaluation.by_kind(errors),
        "neutral": summary(charge == 0),
        "charged": summary(charge != 0),
        "charged_unusually": summary(unusual),
        "charged_otherwise": summary((charge != 0) & ~unusual),
        "by_charge": {int(q): summary(charge == q) for q in np.unique(charge)},
        "by_spread": {
            f"{low:g} to {high:g}": summary((errors["spread"] >= low) & (errors["spread"] < high))
            for low, high in itertools.pairwise(SPREADS)
        },
        "by_element": by_element(errors),
        "worst": worst(errors, smiles),
        "energy_histogram": energy_histogram(errors),
        "force_histogram": histogram(errors["force"].ravel(), errors["student_force"].ravel()),
    }


def by_element(errors: dict[str, np.ndarray]) -> dict[int, dict[str, float]]:
    """Force errors in meV/Å of the atoms of each element."""
    difference = 1e3 * (errors["student_force"] - errors["force"]).astype(np.float64)
    out = {}
    for z in np.unique(errors["number"]):
        part = difference[errors["number"] == z]
        out[int(z)] = {
            "n_atoms": len(part),
            "force_mae": float(np.abs(part).mean()),
            "force_rmse": float(np.sqrt(np.square(part).mean())),
        }
    return out


def worst(errors: dict[str, np.ndarray], smiles: list[str], n: int = 12) -> list[dict[str, Any]]:
    """The molecules with the largest force errors, to learn where the student fails."""
    square = np.square(errors["student_force"] - errors["force"], dtype=np.float64).mean(-1)
    molecule = errors["molecule"][errors["geometry"]]
    size = int(molecule.max()) + 1
    mean = np.bincount(molecule, square, size) / np.maximum(
        np.bincount(molecule, minlength=size), 1
    )
    return [
        {"smiles": smiles[k], "force_rmse": float(1e3 * np.sqrt(mean[k]))}
        for k in np.argsort(-mean)[:n]
    ]


def energy_histogram(errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of energies relative to the mean of their molecule, in eV."""
    _, place, count = np.unique(errors["molecule"], return_inverse=True, return_counts=True)

    def relative(energy: np.ndarray) -> np.ndarray:
        return energy - (np.bincount(place, energy) / count)[place]

    return histogram(relative(errors["energy"]), relative(errors["student_energy"]))


def histogram(teacher: np.ndarray, student: np.ndarray, bins: int = 100) -> dict[str, Any]:
    """Counts on a square grid, a row of text for each of the teacher's bins, to stay small.

    The grid spans -limit to limit on both axes, which holds all but the teacher's outermost
    ten-thousandth; what lies outside is counted in the outermost bins.
    """
    limit = float(np.quantile(np.abs(teacher), 0.9999))
    edges = np.linspace(-limit, limit, bins + 1)
    inside = 0.999999 * limit
    counts, _, _ = np.histogram2d(
        teacher.clip(-inside, inside), student.clip(-inside, inside), (edges, edges)
    )
    return {"limit": limit, "rows": [" ".join(f"{n:.0f}" for n in row) for row in counts]}
