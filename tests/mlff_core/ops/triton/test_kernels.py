"""The Triton kernels against their plain meaning, in Triton's interpreter on the CPU."""

from pathlib import Path

import pytest
import torch

from mlff_core.ops import plain
from mlff_core.ops.program import AnalyticEngine, mlp_weights
from mlff_core.ops.triton.operand import LOW_SCALE, RANGE
from mlff_core.testing import random_model, script_at

SCRIPT = Path(__file__).with_name("run_interpreted.py")


CASES = script_at(SCRIPT)
coarse_engine = script_at(SCRIPT.with_name("coarse_engine.py")).coarse_engine


@pytest.fixture(scope="module")
def results(tmp_path_factory, interpret):
    out = tmp_path_factory.mktemp("kernels") / "results.pt"
    interpret(SCRIPT, out)
    return torch.load(out)


@pytest.fixture(scope="module")
def batch():
    return CASES.mixed_batch()


@pytest.fixture(scope="module")
def truth(batch):
    model = random_model(1, CASES.CONFIG).double()
    return AnalyticEngine(model).evaluate(*CASES.arguments(batch.to(dtype=torch.float64)))


def test_kernels_are_as_near_to_float64_as_plain_float32(results, truth, batch):
    plain = AnalyticEngine(random_model(1, CASES.CONFIG)).evaluate(*CASES.arguments(batch))
    for found, by_torch, expected, floor in zip(
        results["mixed"], plain, truth, (1e-6, 1e-6), strict=True
    ):
        bound = 2 * (by_torch - expected).abs().max() + floor
        assert (found - expected).abs().max() <= bound
    assert (results["mixed"][1] - truth[1]).abs().max() < 1e-4


def test_a_first_block_by_products_is_as_near_to_float64_and_leaves_padding_alone(
    results, truth, batch
):
    energy, forces = results["by elements"]
    expected = truth[0][3:5], torch.cat(batch.split(truth[1])[3:5])
    torch.testing.assert_close(energy[:2], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(forces[:8].double(), expected[1], rtol=0, atol=2e-5)
    assert (energy[2:] == 0).all()
    assert (forces[8:] == 0).all()
    # As near as the walk's, but another number in the last places.
    assert not torch.equal(forces[:8], results["padded"][1][:8])


def test_the_smallest_molecules_are_right_one_by_one(results, truth, batch):
    # A maximum over the batch could hide an atom that a kernel skipped.
    energy, forces = results["mixed"]
    torch.testing.assert_close(energy, truth[0], rtol=0, atol=2e-5)
    for found, expected in zip(batch.split(forces.double()), batch.split(truth[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_features_that_float16_cannot_hold_are_read_out_as_well(results):
    model = random_model(1, CASES.CONFIG).double()
    weights = mlp_weights(model.readout)
    exact, hidden = plain.readout_fwd(results["far"].double(), *weights, model.energy_scale)
    slope = plain.readout_bwd(hidden, weights[0], weights[2], model.energy_scale)
    energy, found = results["read"]
    assert ((energy - exact).abs() <= 1e-5 * exact.abs() + 1e-5).all()
    torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-6)


def test_padding_changes_no_bit_and_feels_no_force(results):
    energy, forces = results["padded"]
    expected_energy, expected_forces = results["few"]
    assert torch.equal(energy[:2], expected_energy)
    assert torch.equal(forces[:8], expected_forces)
    assert (energy[2:] == 0).all()
    assert (forces[8:] == 0).all()


def test_a_molecule_does_not_feel_its_neighbours_in_the_batch(results, batch):
    # Not bit for bit: the interpreter's matrix products sum a row in an order that depends on
    # where in a tile it lies.
    energy, forces = results["few"]
    torch.testing.assert_close(energy, results["mixed"][0][3:5], rtol=0, atol=1e-5)
    expected = torch.cat(batch.split(results["mixed"][1])[3:5])
    torch.testing.assert_close(forces, expected, rtol=0, atol=1e-5)


def test_pieces_of_a_batch_give_what_the_whole_gives(results, batch):
    energy, forces = results["pieces"]
    torch.testing.assert_close(energy[:-2], results["mixed"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(forces[: batch.n_atoms], results["mixed"][1], rtol=0, atol=1e-5)
    assert (energy[-2:] == 0).all()
    assert (forces[batch.n_atoms :] == 0).all()


@pytest.mark.parametrize("case", ["fast", "large"])
def test_fast_stays_near_float64_on_small_tiles_and_on_large_ones(results, truth, case):
    energy, forces = results[case]
    assert (energy - truth[0]).abs().max() < 2e-4
    assert (forces - truth[1]).abs().max() < 1e-4


def test_the_walk_back_leaves_the_gradient_in_a_mu_as_an_operand(results):
    found = results["a_mu"]
    assert torch.equal(found["left"], found["apart"])
    high, low = found["left"].double().unbind(1)
    g_mu = found["g_mu"].double()
    u = found["uv"].double().view(len(g_mu), 3, -1)[:, :, : CASES.CONFIG.n_features]
    expected = (u * g_mu).sum(1)
    torch.testing.assert_close((high + low / LOW_SCALE) * RANGE, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["one_back", "one_back by elements"])
def test_one_product_back_costs_what_it_costs_plain_pytorch(results, truth, batch, case):
    few = batch.select([3, 4])
    model, by_elements = random_model(1, CASES.CONFIG), case != "one_back"
    coarse = coarse_engine(model, "fast", CASES.ONE_BACK, first_by_elements=by_elements)
    by_torch = coarse.evaluate(*CASES.arguments(few))
    expected = truth[0][3:5], torch.cat(batch.split(truth[1])[3:5])
    for found, coarsely, exact in zip(results[case], by_torch, expected, strict=True):
        error, plain_error = (x.double() - exact for x in (found, coarsely))
        assert error.norm() <= 2 * plain_error.norm() + 1e-6
    # Forces are ten times as far off as those of three products, so that something was rounded.
    three = torch.cat(batch.split(results["fast"][1])[3:5])
    assert (results[case][1] - expected[1]).norm() > 5 * (three - expected[1]).norm()


def test_bad_molecules_get_nan_and_leave_the_others_alone(results):
    energy, forces = results["poisoned"]
    assert energy[1:].isnan().all()
    assert forces[3:].isnan().all()
    torch.testing.assert_close(energy[0], results["few"][0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(forces[:3], results["few"][1][:3], rtol=0, atol=1e-5)


def test_an_atom_with_too_many_neighbours_poisons_its_molecule_alone(results):
    energy, forces = results["overflow"]
    torch.testing.assert_close(energy[0], results["mixed"][0][3], rtol=0, atol=1e-5)
    assert energy[1].isnan()
    assert forces[3:].isnan().all()


def test_results_carry_no_history_that_a_second_derivative_could_follow(results):
    assert results["history"] == [False, False]


def test_an_empty_batch_gives_empty_results(results):
    energy, forces = results["empty"]
    assert energy.shape == (0,)
    assert forces.shape == (0, 3)


def test_one_launch_fills_the_buffers_of_a_step_as_copies_one_by_one_do(results, batch):
    by_kernel, by_copies = results["filled"]
    for found, expected in zip(by_kernel, by_copies, strict=True):
        assert torch.equal(found, expected)
    numbers, positions, _, ptr, _ = by_kernel
    assert torch.equal(numbers[: batch.n_atoms], batch.numbers)
    assert torch.equal(positions[: batch.n_atoms], batch.positions)
    assert (ptr[batch.n_mols :] == batch.n_atoms).all()
    assert (numbers[batch.n_atoms :] == 77).all()
