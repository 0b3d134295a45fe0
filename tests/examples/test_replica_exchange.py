import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlff_core.units import BOLTZMANN_EV_K

SCRIPT = Path(__file__).parents[2] / "examples" / "replica_exchange.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(SCRIPT))


def test_a_colder_replica_of_higher_energy_always_swaps(example):
    temperature = np.array([400.0, 300.0, 600.0, 500.0])
    energy = np.array([0.0, 0.5, -0.2, 0.4])  # on the ladder: 0.5, 0.0 | 0.4, -0.2
    new, n_swaps = example["exchange"](energy, temperature, 0, np.random.default_rng(0))
    assert n_swaps == 2
    assert new.tolist() == [300.0, 400.0, 500.0, 600.0]
    new, n_swaps = example["exchange"](energy, temperature, 1, np.random.default_rng(0))
    assert set(new) == set(temperature)


def test_exchange_keeps_the_boltzmann_distribution_of_two_levels(example):
    # Two states at 0 and 0.05 eV; replicas jump freely at their own temperature, then exchange.
    rng, temperature = np.random.default_rng(1), np.array([300.0, 900.0])
    upper = {300.0: 0, 900.0: 0}
    n = 20000
    for _ in range(n):
        p = 1 / (1 + np.exp(0.05 / (BOLTZMANN_EV_K * temperature)))
        energy = 0.05 * (rng.random(2) < p)
        temperature, _ = example["exchange"](energy, temperature, 0, rng)
        for T, e in zip(temperature, energy, strict=True):
            upper[T] += e > 0
    for T, count in upper.items():
        exact = 1 / (1 + np.exp(0.05 / (BOLTZMANN_EV_K * T)))
        assert count / n == pytest.approx(exact, abs=0.015)


def test_the_example_runs_and_writes_its_trajectory(tmp_path):
    out = tmp_path / "replicas.parquet"
    command = [sys.executable, SCRIPT, "CCO", "--replicas", "3", "--every", "20", "--out", out]
    environment = os.environ | {"CI": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=240
    )
    assert "exchanges accepted" in result.stdout
    assert "kcal/mol above the lowest: [0." in result.stdout
    assert pq.read_table(out).num_rows == 3 * 5
