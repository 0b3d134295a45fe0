"""What presets cost and how good they are: the numbers of the table, from runs that are known."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from flows.call import PRESETS, ScreenCall

ROOT = Path(__file__).parents[2]


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("presets", ROOT / "benchmarks/presets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_energies_are_above_the_lowest_that_any_found_of_what_all_have(presets):
    found = presets.compare(
        {
            "quick": {"a": 1.0, "b": 5.0, "c": 2.0, "alone": -9.0},
            "thorough": {"a": 0.0, "b": 5.5, "c": 0.5},
        }
    )
    assert found["quick"] == {
        "compared": 3, "median_kcal_mol": 1.0, "mean_kcal_mol": pytest.approx(2.5 / 3),
        "within_1": pytest.approx(1 / 3),
    }  # fmt: skip
    assert found["thorough"]["mean_kcal_mol"] == pytest.approx(0.5 / 3)
    assert found["thorough"]["within_1"] == 1.0


def test_what_another_machine_measured_joins_what_is_there(presets):
    report = {"cpu": {"quick": {"molecules_per_s": 5.0}}, "cuda": {"quick": {"x": 1}}}
    other = {"cuda": {"quick": {"x": 2}, "reference": {}}, "energies_kcal_mol": {"cuda": {"q": {}}}}
    presets.take(report, other)
    assert report == {
        "cpu": {"quick": {"molecules_per_s": 5.0}},
        "cuda": {"quick": {"x": 2}, "reference": {}},
        "energies_kcal_mol": {"cuda": {"q": {}}},
    }


def test_the_readme_says_what_presets_ask_for_and_what_was_measured(presets):
    measured, text = json.loads(presets.RESULTS.read_text()), presets.README.read_text()
    assert presets.into_readme(text, measured) == text
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    shown = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    assert list(shown) == list(PRESETS)
    for name, cells in shown.items():
        call = ScreenCall(preset=name)
        assert cells[:3] == [str(call.conformers), call.model, f"{call.fmax:g}"]
        for cell, device in zip(cells[3:5], ("cpu", "cuda"), strict=True):
            rate = measured[device][name]["molecules_per_s"]
            assert float(cell.replace(",", "")) == pytest.approx(rate, rel=0.05)
