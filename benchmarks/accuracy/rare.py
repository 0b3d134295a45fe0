"""Errors on held-out molecules that have something the training hardly saw, beside the others.

What is rare is what a screen flags (`mlff_core.chem.trust`), by how often the model's table of
molecules has it. Half of the molecules have a flag, half have none.
"""

import argparse
from typing import Any

import numpy as np
from rdkit import Chem

from benchmarks.accuracy import labels
from benchmarks.accuracy.held_out import smiles_of
from benchmarks.accuracy.labels import labelled
from benchmarks.accuracy.part import Part, log
from mlff_core.chem.seen import seen_by
from mlff_core.chem.trust import trust_flags
from mlff_core.cores import usable_cores
from mlff_core.distill import evaluation
from mlff_core.distill.steps import embed_all
from mlff_core.models.potential import Potential
from mlff_core.units import EV_KCAL_MOL

#: Groups of fewer molecules are not told.
FEWEST = 10


def add_options(command: argparse.ArgumentParser) -> None:
    """What this part needs to be told."""
    labels.add_options(command)


def measure(arguments: argparse.Namespace, student: Potential) -> Part:
    """Errors by flag."""
    seen = seen_by(student.sha256)
    if seen is None:
        raise SystemExit(f"{student.name}: there is no table of what its training saw")
    flags = {
        text: [str(flag) for flag in trust_flags(Chem.MolFromSmiles(text), text, seen)]
        for text in smiles_of(arguments, student)
    }
    half = arguments.molecules // 2
    rare = [text for text, own in flags.items() if own][:half]
    common = [text for text, own in flags.items() if not own][:half]
    smiles = [*rare, *common]
    molecules, failed = embed_all(smiles, arguments.conformers, arguments.seed, usable_cores())
    log(f"embedded {len(rare)} with a flag and {len(common)} without")
    blocks, _, _ = labelled(arguments, molecules, student)
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    errors = evaluation.subset(errors, evaluation.finite_geometries(errors))
    own = [flags[smiles[k]] for k in errors["molecule"]]
    groups = {"none": np.array([not f for f in own]), "any": np.array([bool(f) for f in own])}
    for flag in sorted({f for some in own for f in some}):
        groups[flag] = np.array([flag in some for some in own])
    return {
        "embedding_failed": dict(failed),
        "groups": {
            name: summary(evaluation.subset(errors, chosen))
            for name, chosen in groups.items()
            if len(np.unique(errors["molecule"][chosen])) >= FEWEST
        },
    }


def summary(errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Forces, energies within a molecule, and between molecules."""
    _, place, count = np.unique(errors["molecule"], return_inverse=True, return_counts=True)
    off = EV_KCAL_MOL * (errors["student_energy"] - errors["energy"])
    size = np.abs(np.bincount(place, off) / count)
    return evaluation.summarise(errors) | {
        "between_median": float(np.median(size)),
        "between_90_percent": float(np.quantile(size, 0.9)),
    }
