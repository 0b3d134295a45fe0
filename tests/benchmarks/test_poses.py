"""How many ligands have a conformer near the crystal's: the shares, before and after relaxation."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.call import ScreenCall

ROOT = Path(__file__).parents[2]


@pytest.fixture
def poses(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks/embedding"), *sys.path])
    spec = importlib.util.spec_from_file_location("poses", ROOT / "benchmarks/chemistry/poses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_nearest_of_the_first_conformers_counts_and_none_is_far_away(poses):
    rows = [
        {"rotatable_bonds": 2, "before": np.array([3.0, 0.5]), "after": np.array([0.4, 2.0])},
        {"rotatable_bonds": 6, "before": np.array([2.0]), "after": np.array([np.inf])},
        {"rotatable_bonds": 6, "before": np.array([]), "after": np.array([])},
    ]
    few, some, every = poses.summary(rows, 5)
    assert few["within_1_percent"]["1"] == {"before": 0.0, "after": 100.0}
    assert few["within_1_percent"]["5"] == {"before": 100.0, "after": 100.0}
    assert some["ligands"] == 2
    assert some["within_1_percent"]["5"] == {"before": 0.0, "after": 0.0}
    assert every["within_1_percent"]["5"]["before"] == pytest.approx(33.3)


def test_a_conformer_is_as_far_from_the_crystals_after_a_short_relaxation_as_before(poses):
    [crystal] = poses.crystal_ligands(1)["ligands"]
    call = ScreenCall(library="x", preset="quick", conformers=1, max_steps=1)
    [row] = poses.distances(call, [crystal], "cpu")
    assert row["rotatable_bonds"] > 1
    assert 0.0 < row["before"][0] < 10.0
    assert np.isinf(row["after"][0])  # one step is no relaxation

    call = ScreenCall(library="x", preset="quick", conformers=1)
    [row] = poses.distances(call, [crystal], "cpu")
    assert row["after"][0] == pytest.approx(row["before"][0], abs=1.0)
