"""The kernels between two force calls against their plain meaning, in Triton's interpreter."""

from pathlib import Path

import pytest
import torch

from mlff_core.moves.rules import SlotStatus
from mlff_core.testing import Journeys

SCRIPT = Path(__file__).with_name("run_interpreted.py")


def close(name, found, expected, *, rtol, atol):
    torch.testing.assert_close(
        found, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory, interpret):
    out = tmp_path_factory.mktemp("moves") / "results.pt"
    interpret(SCRIPT, out)
    return torch.load(out)


@pytest.mark.parametrize("case", ["lbfgs", "lbfgs, constant", "fire"])
def test_a_step_of_the_kernels_is_a_step_of_the_plain_operators(results, case):
    refused, pairs = 0, 0
    for before, plain, kernels in results[case]:
        assert torch.equal(kernels["status"], plain["status"])
        assert torch.equal(kernels["n_steps"], plain["n_steps"])
        running = before["status"] == SlotStatus.RUNNING
        refused += (running & (plain["positions"] == before["positions"]).all(-1).all(-1)).sum()
        # What a molecule that has ended leaves behind is read by nobody.
        on = plain["status"] == SlotStatus.RUNNING
        for name, expected in plain.items():
            rows = on if name not in ("positions", "forces", "energy", "max_force") else running
            close(name, kernels[name][rows], expected[rows], rtol=2e-4, atol=2e-5)
            close(name, kernels[name][~running], before[name][~running], rtol=0, atol=0)
        if "rho" in plain:
            pairs = max(pairs, int((plain["rho"] != 0).sum(1).max()))
    # The cases that the kernels must know did come up.
    assert refused > 0
    if "lbfgs" in case:
        assert pairs == 10
    renewing = [
        bool((plain["status"] == SlotStatus.RENEWING).any()) for _, plain, _ in results[case]
    ]
    assert any(renewing) == (case == "lbfgs")
    codes = set(results[case][-1][1]["status"].tolist())
    assert {SlotStatus.VACANT, SlotStatus.CONVERGED, SlotStatus.NON_FINITE} <= codes


@pytest.mark.parametrize("model", [0, 1], ids=["where they enter", "renewed"])
def test_the_kernel_inverts_the_model_of_the_hessian(results, model):
    expected, found = results["hessians"][model]
    assert len(found) == 8
    identity = torch.eye(expected.shape[1], dtype=expected.dtype)
    assert ((expected - identity).abs().amax((1, 2)) > 0.1).sum() >= 5
    close("inverse", found.double(), expected, rtol=0, atol=2e-5 * float(expected.max()))


def test_all_ways_to_end_came_up(results):
    codes = {int(c) for case in ("lbfgs", "fire") for c in results[case][-1][1]["status"]}
    assert SlotStatus.MAX_STEPS in codes


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_who_goes_far_together_has_not_exploded(results, optimizer):
    expected = {name: str(status) for name, (_, _, status) in Journeys().chains.items()}
    found = results["arrivals"][optimizer]
    assert {name: left for name, (_, left) in found.items()} == expected
    # Who flies off ends where a step says so, not when all is at rest.
    assert [ended for ended, _ in found.values()] == ["converged"] * 3 + ["exploded"]


@pytest.mark.parametrize("case", ["nve", "langevin"])
def test_a_move_of_the_kernels_is_a_move_of_the_plain_operators(results, case):
    for plain, kernels in results[case]:
        for name, expected in plain.items():
            close(name, kernels[name], expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(kernels["step"], plain["step"])


def test_the_springs_of_held_bonds_are_those_of_the_plain_operators(results):
    (plain, kernel), (_, alone) = results["springs"]
    # The plain operators round differences of coordinates to float32.
    torch.testing.assert_close(kernel["energy"], plain["energy"], rtol=1e-6, atol=0)
    torch.testing.assert_close(kernel["forces"], plain["forces"], rtol=1e-5, atol=1e-5)
    assert plain["energy"][0] > 10.0  # eV above the charge: several bonds are far too long
    assert plain["energy"][1] == 0.0
    assert plain["forces"][:5].abs().max() > 10.0
    assert torch.equal(alone["energy"][0], kernel["energy"][0])
    # In company its forces have the same springs on top of others of the model.
    assert torch.equal(alone["forces"], kernel["forces"][:5])


def test_who_leaves_enters_or_is_renewed_is_as_by_plain_operators(results):
    leave, enter, renew = results["exchanges"]
    for before, plain, kernels in (leave, enter, renew):
        changed = 0
        for name, expected in plain.items():
            if expected is None:
                continue
            exact = name not in ("inverse_forces", "inverse_y")
            tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
            close(name, kernels[name], expected, **tolerance)
            changed += name != "told" and not torch.equal(expected, before[name])
        assert changed > 0
    assert (leave[1]["status"] == SlotStatus.VACANT).sum() >= 4
    # Two have lost an atom on their way; who was not finite counts as that all the same.
    told = leave[1]["told"][:, -5].tolist()
    assert told == [SlotStatus.EXPLODED, SlotStatus.NON_FINITE, *[SlotStatus.CONVERGED] * 2]
    assert (enter[1]["energy"] == torch.inf).sum() == 3
    assert (renew[1]["renewed"] == 1).sum() >= 4
