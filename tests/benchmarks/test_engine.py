"""The harness of the benchmarks, and what the benchmark of the engine makes of its results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mlff_core.ops import OPERATORS

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def load(path: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    return load("_harness.py")


def test_what_is_wrong_or_no_number_is_refused(harness) -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert harness.require_close(exact.float() + 0.25, exact, 0.5, "it") == 0.25
    for wrong in (exact + 0.75, exact + torch.nan):
        with pytest.raises(harness.NotCorrectError, match="it: off by"):
            harness.require_close(wrong, exact, 0.5, "it")


def test_a_step_is_warmed_up_and_every_call_gets_an_input_of_its_own(harness) -> None:
    seen: list[int] = []
    found = harness.timing(seen.append, iter(range(1000)), CPU, rounds=9)
    assert seen == list(range(harness.WARM_UP + 1 + 9))
    assert found["rounds"] == 9
    assert found["us"] > 0
    assert found["spread_us"] >= 0


def test_coordinates_are_new_in_every_call_and_near_the_given_ones(harness) -> None:
    batch = harness.Molecules(CPU).batch(2)
    inputs = harness.fresh(batch)
    first, second = next(inputs), next(inputs)
    assert not torch.equal(first, second)
    assert 0.01 < (first - batch.positions).std() < 0.05


def test_no_row_begins_when_the_time_is_over(harness) -> None:
    assert harness.Clock(1.0).left()
    assert not harness.Clock(0.0).left()


def test_it_starts_outside_an_installed_package_and_says_where_it_ran(tmp_path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    out = tmp_path / "engine.json"
    words = ["--device", "cpu", "--minutes", "0.001", "--models", "small", "--out", str(out)]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "engine"), *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"commit", "device", "torch"} <= set(result["environment"])
    assert result["models"] == {"small": "128 features, 3 blocks"}
    # Nothing was timed, and every row says why; every operator with a version for a CPU has one.
    assert all("no time was left" in row["failed"] for row in result["rows"])
    named = {row["row"].removeprefix("operator: ") for row in result["rows"]}
    # No shipped model has partial charges, and the others here are timed as one.
    elsewhere = {"pairs", "repulsion", "position_gradient"}
    elsewhere |= {"equilibrate_fwd", "coulomb", "equilibrate_bwd"}
    steps = set(OPERATORS) - elsewhere
    assert {name for name in steps if OPERATORS[name].numba} <= named
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "message_bwd" in text
    assert "numba fails" in text


def test_kernels_stand_beside_what_the_device_can_do() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    kernels, report = load("engine/kernels.py"), load("engine/report.py")
    todo = kernels.work(1000, 20_000, 256, 3, 4, (2, 1), False)
    # Vectors are mixed by weights of 512 · 256, three times for two addends.
    assert todo["linear_1x2"][0] == 3 * 3 * 2 * 3000 * 256 * 512
    assert todo["linear_2x1"][0] == todo["linear_1x2"][0] / 3
    row = {"precision": "fast", "n_mols": 16, "us": 100.0, "share": 0.25}
    done = {"flop_per_s": 2e14, "bytes_per_s": 1e12, "unit": "matrix units"}
    rows = [{"row": "kernel: linear_1x2", **row, **done}, {"row": "kernel: others", **row}]
    ceilings = {"bf16_flop_per_s": 8e14, "copy_bytes_per_s": 4e12}
    *_, known, others = report._kernels(rows, ceilings)
    assert known == "| linear_1x2 | 100.0 | 25.0% | 200 | 25% | 1 | 25% |"
    assert others == "| others | 100.0 | 25.0% | | | | |"
