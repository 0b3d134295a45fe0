"""The embedder's kernel against its plain meaning, in Triton's interpreter on the CPU."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mlff_core.embedding.minimise_triton import minimise
from mlff_core.embedding.plain import minimise as plainly

SCRIPT = Path(__file__).with_name("run_interpreted.py")
_SPEC = importlib.util.spec_from_file_location("run_embedder_interpreted", SCRIPT)
CASE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(CASE)


@pytest.fixture(scope="module")
def results(tmp_path_factory, interpret):
    out = tmp_path_factory.mktemp("embedder") / "results.pt"
    interpret(SCRIPT, out)
    return torch.load(out)


def test_the_kernel_is_as_near_to_float64_as_plain_float32(results):
    x, *rest = CASE.case()
    truth = plainly(x.double(), *rest)
    allowed = 2 * (plainly(x, *rest) - truth).abs().max() + 1e-6
    assert (results["together"] - truth).abs().max() <= allowed
    assert (truth - x).abs().amax((1, 2)).min() > 0.1  # every molecule has moved


def test_a_conformer_does_not_depend_on_those_beside_it(results):
    assert torch.equal(results["alone"][0], results["together"][3])


def test_other_types_and_shapes_are_refused_by_name():
    x, *rest = CASE.case()
    with pytest.raises(ValueError, match="float64"):
        minimise(x.double(), *rest)
    with pytest.raises(ValueError, match=r"\[n, 4, 16\]"):
        minimise(x[:, :3], *rest)
