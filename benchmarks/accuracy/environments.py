"""Errors on held-out molecules by how often the training's table has their atoms' surroundings.

What counts as surroundings, and how often a table has them, `datasets/count_environments.py` says.
A molecule belongs to the fold of the rarest of its atoms' surroundings; beside it are the forces on
the atoms of these surroundings alone, whose molecules may be of any fold of rarer ones.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import embedded
from benchmarks.accuracy.labels import labelled
from benchmarks.accuracy.part import Part
from benchmarks.accuracy.rare import summary
from mlff_core.distill import evaluation
from mlff_core.models.potential import Potential

#: Where folds begin, in molecules of the table.
FOLDS = (0, 10, 100, 1_000, 10_000)
#: Folds of fewer molecules are not told.
FEWEST = 10


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)
    command.add_argument(
        "--counts", type=Path, required=True, help="what datasets/count_environments.py wrote"
    )


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Errors by fold."""
    smiles, molecules, failed = embedded(arguments, student)
    rows = pq.read_table(arguments.counts).to_pylist()
    counts = {row["smiles"]: np.array(row["counts"]) for row in rows}
    blocks, _, _ = labelled(arguments, molecules, student)
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    errors = evaluation.subset(errors, evaluation.finite_geometries(errors))
    known = {k: counts[text] for k, text in enumerate(smiles) if text in counts}
    return {"embedding_failed": dict(failed), "folds": by_fold(errors, known)}


def by_fold(errors: dict[str, np.ndarray], counts: dict[int, np.ndarray]) -> list[Part]:
    """Errors of the molecules and of the atoms of each fold, the rarest first.

    Args:
        errors: As from `evaluation.geometry_errors`.
        counts: For each molecule how many of the table have the surroundings of its atoms: of its
            first ones in `errors`, since hydrogens, which SMILES leave out, come last.
    """
    rarest = {k: int(own.min()) for k, own in counts.items()}
    of_molecule = np.array([rarest.get(k, -1) for k in errors["molecule"]])
    starts = np.searchsorted(errors["geometry"], np.arange(len(errors["molecule"])))
    of_atom = np.full(len(errors["geometry"]), -1)
    for start, k in zip(starts, errors["molecule"], strict=True):
        own = counts.get(k, np.zeros(0, int))
        of_atom[start : start + len(own)] = own
    off = 1e3 * (errors["student_force"] - errors["force"])
    folds = []
    for first, end in pairwise((*FOLDS, np.inf)):
        chosen = (of_molecule >= first) & (of_molecule < end)
        atoms = (of_atom >= first) & (of_atom < end)
        if len(np.unique(errors["molecule"][chosen])) < FEWEST:
            continue
        own = {
            "n_atoms": int(atoms.sum()),
            "atom_force_mae": float(np.abs(off[atoms]).mean(dtype=np.float64)),
            "atom_force_rmse": float(np.sqrt(np.square(off[atoms], dtype=np.float64).mean())),
        }
        last = None if end == np.inf else int(end)
        part = summary(evaluation.subset(errors, chosen))
        folds.append({"from": first, "below": last, **part, **own})
    return folds
