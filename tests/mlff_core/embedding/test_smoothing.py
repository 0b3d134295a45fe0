"""Smoothing bounds on a device: RDKit's own smoothing is the truth."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from mlff_core.chem.constraints import constraining
from mlff_core.chem.stages import at_once
from mlff_core.embedding import smoothing
from mlff_core.embedding.packing import pack
from mlff_core.embedding.smoothing import smoothed
from tests.mlff_core.embedding.molecules import constraints, molecule

SMILES = ["C", "CC(=O)Oc1ccccc1C(=O)O", "C1CC2CCC1CC2", "OCC#CC=C=CCl", "FS(F)(F)(F)(F)F", "CO"]


def rough(smiles: str):
    return at_once(constraining(molecule(smiles), smooth=False))


@pytest.mark.parametrize("at_once_", [1 << 25, 900])
def test_bounds_are_those_of_rdkit(monkeypatch, at_once_):
    monkeypatch.setattr(smoothing, "_PAIRS_AT_ONCE", at_once_)
    given = [rough(smiles) for smiles in SMILES]
    found = smoothed(given, "cpu")
    changed = 0
    for one, before, smiles in zip(found, given, SMILES, strict=True):
        assert one.smoothed
        assert not before.smoothed
        np.testing.assert_allclose(one.bounds, constraints(smiles).bounds, rtol=0, atol=2e-5)
        changed += np.abs(one.bounds - before.bounds).max() > 0.1
    assert changed >= 3


def test_a_molecule_is_smoothed_the_same_beside_any_others():
    alone = smoothed([rough(SMILES[1])], "cpu")[0]
    together = smoothed([rough("C" * 30), rough(SMILES[1]), rough("C")], "cpu")[1]
    np.testing.assert_array_equal(alone.bounds, together.bounds)


def test_what_is_smoothed_is_left_as_it_is():
    done = constraints(SMILES[1])
    found = smoothed([rough("CCO"), done], "cpu")
    assert found[1] is done
    assert smoothed([], "cpu") == []


def test_bounds_that_contradict_each_other_do_so_in_the_end():
    bounds = np.zeros((3, 3), np.float32)
    bounds[np.triu_indices(3, 1)] = 1.0, 9.0, 1.0  # a chain whose ends are within 2 Å ...
    bounds[np.tril_indices(3, -1)] = 0.9, 5.0, 0.9  # ... and at least 5 Å apart
    water = replace(constraints("O"), bounds=bounds, smoothed=False)
    (found,) = smoothed([water], "cpu")
    assert found.bounds.max() > found.bounds[0, 2] == pytest.approx(2.0)
    assert not pack([found], "cpu").sound.item()
    assert pack([constraints("O")], "cpu").sound.item()


def test_what_travels_says_whether_it_is_smoothed():
    for one in (rough("CCO"), constraints("CCO")):
        assert pickle.loads(pickle.dumps(one)).smoothed == one.smoothed
