"""The engine of kernels gives the charges that plain PyTorch gives, and what they do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.ops.program import AnalyticEngine
from mlff_core.testing import random_model, random_molecule, script_at

SCRIPT = Path(__file__).with_name("run_charges_interpreted.py")


CASES = script_at(SCRIPT)


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


@pytest.mark.parametrize("name", CASES.LESS)
def test_charges_that_do_less_are_as_plain_pytorch_has_them(name, results):
    batch = CASES.batch_of_three().to(dtype=torch.float64)
    model = random_model(1, CASES.LESS[name]).double()
    expected = AnalyticEngine(model).evaluate(*CASES.arguments(batch))
    for found, value, atol in zip(results[name], expected, (2e-5, 1e-4, 2e-6), strict=True):
        torch.testing.assert_close(found[: len(value)].double(), value, rtol=0, atol=atol)
    assert expected[2].std() > 0.05


def test_a_coordinate_that_is_no_number_takes_the_charges_of_its_molecule_alone(results, truth):
    charges, inside = results["poisoned"][2], CASES.batch_of_three().mol_idx == 1
    assert charges[inside].isnan().all()
    torch.testing.assert_close(charges[~inside].double(), truth[2][~inside], rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n_features", [128, 256])
@pytest.mark.parametrize(("precision", "times"), [("float32", 2.0), ("fast", 400.0)])
def test_a_step_recorded_on_a_card_gives_energies_forces_and_charges(n_features, precision, times):
    from mlff_core.ops.triton.engine import TritonEngine

    config = replace(
        CASES.CONFIG, n_features=n_features, n_interactions=3, n_rbf=20, charges_after=2
    )
    clouds = [random_molecule(n, n, charge=n % 3 - 1) for n in (1, 2, 7, 31, 64, 90, 130)]
    batch = MolBatch.from_arrays(clouds, device="cuda")
    exact = AnalyticEngine(random_model(1, config).cuda().double()).evaluate(
        *CASES.arguments(batch.to(dtype=torch.float64))
    )
    model = random_model(1, config).cuda().requires_grad_(False)
    rounded = AnalyticEngine(model).evaluate(*CASES.arguments(batch))
    engine = TritonEngine(model, precision)
    for _ in range(3):  # compiled, then recorded, then replayed
        found = engine.evaluate(*CASES.arguments(batch))
    for value, by_torch, expected in zip(found, rounded, exact, strict=True):
        floor = 1e-6 * float(expected.abs().max())
        bound = times * (float((by_torch.double() - expected).abs().max()) + floor)
        assert float((value.double() - expected).abs().max()) <= bound
    total = torch.zeros(len(clouds), dtype=torch.float64, device="cuda").index_add(
        0, batch.mol_idx, found[2].double()
    )
    torch.testing.assert_close(total, batch.charge.double(), rtol=0, atol=1e-5)
    assert exact[2].std() > 0.05
