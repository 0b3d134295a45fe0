"""Folds of rare surroundings hold the molecules and the atoms that are said to be in them."""

import numpy as np
import pytest

from benchmarks.accuracy.environments import FEWEST, by_fold
from benchmarks.model_pages import environments


def errors_of(n_molecules: int) -> dict[str, np.ndarray]:
    """Two geometries of molecules of three atoms, the first of which is off by 1, 2, 3 … meV/Å."""
    molecule = np.repeat(np.arange(n_molecules), 2)
    n = len(molecule)
    off = np.zeros((n, 3, 3))
    off[:, 0] = 1e-3 * (1 + molecule[:, None])
    return {
        "molecule": molecule,
        "kind": np.tile([0, 1], n_molecules),
        "charge": np.zeros(n),
        "n_atoms": np.full(n, 3),
        "spread": np.zeros(n),
        "energy": np.zeros(n),
        "student_energy": np.zeros(n),
        "geometry": np.repeat(np.arange(n), 3),
        "number": np.tile([7, 6, 1], n),
        "force": np.zeros((n * 3, 3)),
        "student_force": off.reshape(-1, 3),
    }


def test_a_molecule_is_in_the_fold_of_its_rarest_atom_and_atoms_are_in_their_own():
    few, all_of_them = FEWEST, 2 * FEWEST
    # The first half have a rare atom, which is the one that is off, and a common one each.
    counts = {k: np.array([5 if k < few else 2_000, 50_000]) for k in range(all_of_them)}
    folds = by_fold(errors_of(all_of_them), counts)
    assert [(f["from"], f["below"]) for f in folds] == [(0, 10), (1_000, 10_000)]
    rare, common = folds
    assert rare["n_molecules"] == common["n_molecules"] == few
    assert rare["n_atoms"] == 2 * few
    assert rare["atom_force_mae"] == pytest.approx(np.mean(np.arange(1, few + 1)))
    assert common["atom_force_mae"] == pytest.approx(np.mean(np.arange(few + 1, 2 * few + 1)))
    # One of three atoms is off.
    assert rare["force_mae"] == pytest.approx(rare["atom_force_mae"] / 3)
    assert "| 0 to 9 | 10 |" in "\n".join(environments({"folds": folds}, "one CPU"))


def test_a_fold_of_few_molecules_is_not_told():
    counts = {k: np.array([5, 5]) for k in range(FEWEST - 1)}
    assert by_fold(errors_of(FEWEST - 1), counts) == []
