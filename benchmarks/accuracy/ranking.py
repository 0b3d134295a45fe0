"""Conformers of one molecule, ordered by their energies: stored ones, and how well."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import ROOT
from mlff_core.distill import evaluation, minima
from mlff_core.units import EV_KCAL_MOL

#: Conformers with their energies by other methods (see make_conformers.py).
CONFORMERS = ROOT / "benchmarks" / "conformers.npz"


def about(file: Path) -> dict[str, Any]:
    """What a file of conformers says of itself: SMILES, and the teacher's sha256."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(json.loads(str(arrays["about"])))


def stored(file: Path) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each molecule of a file of conformers."""
    with np.load(file, allow_pickle=False) as arrays:
        of_each: dict[int, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            molecule, _, name = key.partition("/")
            if name:
                of_each.setdefault(int(molecule), {})[name] = arrays[key]
    yield from (of_each[k] for k in sorted(of_each))


def ranking(energy: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """How well energies in eV order the conformers of one molecule, and differ by as much.

    Of conformers with one energy, as mirror images have it, one counts: rounding would order them.
    """
    different = minima.different_minima(np.zeros(len(teacher), int), teacher)
    energy, teacher = energy[different], teacher[different]
    i, j = np.triu_indices(len(teacher), 1)
    differences, true = energy[i] - energy[j], teacher[i] - teacher[j]
    error = differences - true
    within = evaluation.within_molecule(np.zeros(len(teacher), int), energy - teacher)
    ranks = [values.argsort().argsort() for values in (energy, teacher)]
    return {
        "spearman": float(np.corrcoef(*ranks)[0, 1]),
        "kendall": float(np.mean(np.sign(differences) * np.sign(true))),
        "pair_mae": float(EV_KCAL_MOL * np.abs(error).mean()),
        "mae": float(EV_KCAL_MOL * np.abs(within).mean()),
        "lowest_found": float(energy.argmin() == teacher.argmin()),
    }
