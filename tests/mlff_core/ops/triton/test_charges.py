"""The engine of kernels gives the charges that plain PyTorch gives, and what they do."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mlff_core.ops.program import AnalyticEngine
from mlff_core.testing import random_model

SCRIPT = Path(__file__).with_name("run_charges_interpreted.py")


def load_script():
    """The script as a module: its batches, without its kernels running."""
    spec = importlib.util.spec_from_file_location("run_charges_interpreted", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = load_script()


@pytest.fixture(scope="module")
def results(tmp_path_factory, interpret):
    out = tmp_path_factory.mktemp("charges") / "results.pt"
    interpret(SCRIPT, out)
    return torch.load(out)


@pytest.fixture(scope="module")
def truth():
    batch = CASES.batch_of_three().to(dtype=torch.float64)
    return AnalyticEngine(random_model(1, CASES.CONFIG).double()).evaluate(*CASES.arguments(batch))


@pytest.mark.parametrize("name", ["padded", "pieces"])
def test_kernels_find_the_charges_that_plain_pytorch_finds(name, results, truth):
    energy, forces, charges = (
        found[: len(expected)].double()
        for found, expected in zip(results[name], truth, strict=True)
    )
    torch.testing.assert_close(energy, truth[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(forces, truth[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(charges, truth[2], rtol=0, atol=2e-6)
    batch = CASES.batch_of_three()
    total = torch.zeros(3, dtype=torch.float64).index_add(0, batch.mol_idx, charges)
    torch.testing.assert_close(total, batch.charge.double(), rtol=0, atol=1e-6)
    # Padding has neither charges nor forces.
    assert (results[name][2][batch.n_atoms :] == 0).all()
    assert (results[name][1][batch.n_atoms :] == 0).all()
    assert truth[2].std() > 0.05


def test_a_coordinate_that_is_no_number_takes_the_charges_of_its_molecule_alone(results, truth):
    charges, inside = results["poisoned"][2], CASES.batch_of_three().mol_idx == 1
    assert charges[inside].isnan().all()
    torch.testing.assert_close(charges[~inside].double(), truth[2][~inside], rtol=0, atol=2e-6)
