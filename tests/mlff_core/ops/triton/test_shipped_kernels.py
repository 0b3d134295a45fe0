"""The Triton kernels with the default model's weights, as wide as they are, in the interpreter."""

from pathlib import Path

import torch

from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.ops.program import AnalyticEngine
from mlff_core.testing import script_at
from mlff_core.units import EV_KCAL_MOL

SCRIPT = Path(__file__).with_name("run_shipped_interpreted.py")


def test_the_default_model_keeps_what_each_precision_promises(tmp_path, interpret):
    interpret(SCRIPT, tmp_path / "results.pt")
    results = torch.load(tmp_path / "results.pt")
    script = script_at(SCRIPT)
    network = read_checkpoint(find_model("default"))[0]
    plain = AnalyticEngine(network).evaluate(*script.arguments())
    truth = AnalyticEngine(network.double()).evaluate(*script.arguments(torch.float64))
    for found, by_torch, expected in zip(results["float32"], plain, truth, strict=True):
        assert (found - expected).abs().max() <= 2 * (by_torch - expected).abs().max() + 1e-5
    energy, forces, *_ = results["fast"]
    assert (energy - truth[0]).abs().max() < 0.02 / EV_KCAL_MOL
    assert (forces - truth[1]).abs().max() < 2e-3
