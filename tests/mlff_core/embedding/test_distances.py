"""Near distances: what a table is made of, and what it changes in the bounds."""

from dataclasses import replace

import numpy as np
import pytest

from mlff_core.embedding import distances
from mlff_core.embedding.distances import near_pairs, settled, tabulated
from tests.mlff_core.embedding.molecules import constraints, numbers

SMILES = ("CCO", "C1CC1", "CC#N")


def arrays():
    return [constraints(s) for s in SMILES], [numbers(s) for s in SMILES]


def test_every_bond_and_every_open_angle_is_a_near_pair():
    molecules, z = arrays()
    pairs = near_pairs(molecules, z)
    # The three C-C-C angles of cyclopropane are its bonds as well.
    expected = [len(m.bonds) + len(m.angles) for m in molecules] - np.array([0, 3, 0])
    assert np.bincount(pairs.owner).tolist() == expected.tolist()


def test_a_table_is_the_mean_of_what_was_seen():
    molecules, z = [constraints("C")] * 5, [numbers("C")] * 5
    pairs = near_pairs(molecules, z)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    scales = [1.0, 1.1, 1.2, 1.1, 1.1]
    x = np.concatenate([np.concatenate([np.zeros((1, 3)), s * corners]) for s in scales])
    rows = tabulated(pairs, x)
    assert [row[3] for row in rows] == [20, 30]  # bonds, then H-C-H
    bond = molecules[0].bounds[0, 1] / 2 + molecules[0].bounds[1, 0] / 2
    assert rows[0][1] == pytest.approx(1.1 - bond, abs=1e-4)
    assert rows[0][2] == pytest.approx(np.std(scales), abs=1e-4)


def test_settled_bounds_are_one_distance_moved_by_the_table(monkeypatch):
    molecules, z = arrays()
    pairs = near_pairs(molecules, z)
    key = pairs.key[(pairs.owner == 0) & (pairs.i == 0)][0]  # the C-C bond of ethanol
    monkeypatch.setattr(distances, "table", lambda: (np.array([key]), np.array([0.25])))
    before, after = molecules[0].bounds, settled(molecules, z)[0]
    assert after[0, 1] == after[1, 0] == pytest.approx(before[[0, 1], [1, 0]].mean() + 0.25)
    assert after[1, 2] == after[2, 1] == pytest.approx(before[[1, 2], [2, 1]].mean())
    assert np.array_equal(after[0, 8], before[0, 8])  # not near


def test_bounds_that_contradict_each_other_or_are_no_numbers_stay_as_they_are():
    good, z = constraints("CCO"), numbers("CCO")
    bounds = good.bounds.copy()
    bounds[0, 1], bounds[1, 2] = 0.5, np.nan
    (after,) = settled([replace(good, bounds=bounds)], [z])
    assert after[0, 1] == 0.5
    assert np.isnan(after[1, 2])


def test_numbers_of_another_molecule_are_refused():
    with pytest.raises(ValueError, match="as many"):
        settled([constraints("CCO")], [numbers("CC")])
