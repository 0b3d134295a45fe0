"""The table of relaxations by precision and fmax."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rates(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location(
        "relaxation_rates", BENCHMARKS / "relaxation_rates.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_left_is_measured_from_the_bottom_below(rates, monkeypatch):
    monkeypatch.setattr(rates, "BOTTOM", 0.3)
    potential = rates.load_potential("small", device="cpu")
    below = rates.Below(potential, 1)
    left = below.left(potential, rates.RelaxSettings(fmax=1.0))
    assert left["left_median"] > 0.1
    assert left["left_median"] == left["left_mean"] == left["left_90"]
    assert 0.0 <= left["same_bottom"] <= 1.0


def test_rows_of_one_precision_and_fmax_are_one_line_of_the_table(rates):
    timed = {
        "conformers_per_s": 1234.5, "us_per_atom_step": 0.5, "steps_median": 38.0, "steps_90": 80.0,
        "converged": 1.0, "busy": 0.9, "changed": 0.0123,
    }  # fmt: skip
    left = {"left_median": 0.7, "left_mean": 0.8, "left_90": 1.9, "same_bottom": 0.96}
    rows = [
        {"model": "default", "row": "auto", "first": 0.02, "fmax": 0.05, **timed},
        {"model": "default", "row": "auto", "first": None, "fmax": 0.05, **timed},
        {"model": "default", "row": "float32, 0.001 Å off", "same_bottom": 0.97},
        {"model": "default", "row": "auto", "first": 0.02, "fmax": 0.05, **left},
    ]
    about = {"environment": {"device": "d"}, "models": ["default"], "conformers": 8, "rows": rows}
    lines = rates.markdown(about).splitlines()
    assert (
        "| auto | 0.02 | 0.05 | 1234 | 0.500 | 38, 80 | 100.0% | 1.23% | 90% | 0.700 | 0.800 | "
        "1.900 | 96.0% |" in lines
    )
    assert "| auto |  | 0.05 | 1234 | 0.500 | 38, 80 | 100.0% | 1.23% | 90% |  |  |  |  |" in lines
    assert any("0.001 Å off" in line and line.endswith("97.0% |") for line in lines)


def test_bonds_are_those_of_the_start_and_a_broken_one_is_a_change(rates):
    settings = rates.RelaxSettings(fmax=0.5, max_steps=40)
    run = rates.Run(rates.load_potential("small", device="cpu"), settings, None)
    conformers = rates.load_conformers(2, seed=1)
    [first, _] = run.topologies(conformers)
    # A drug has a ring or two, so a few bonds more than a tree.
    assert 0 <= len(first.bonds) - (len(first.numbers) - 1) <= 6
    run(conformers)
    assert run.changed == 0.0
    run.ends[1].positions[0] += 50.0
    assert run.changed == 0.5
