"""What is compiled between two force calls against its plain meaning."""

import pytest
import torch

from mlff_core.models.potential import Potential
from mlff_core.moves.relax import (
    CONVERGED,
    EXPLODED,
    MAX_STEPS,
    NON_FINITE,
    RUNNING,
    RelaxSettings,
    compiled_step,
    enter,
    step,
)
from mlff_core.testing import awkward_rows, random_model

N_STEPS = 20


def close(found, expected, slots, **tolerance):
    torch.testing.assert_close(found[slots], expected[slots], equal_nan=True, **tolerance)


@pytest.mark.parametrize("model_hessian", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_compiled_step_is_a_step_of_the_plain_operators(model_hessian, precision):
    potential = Potential(random_model(3, n_features=16), precision=precision)
    rows = awkward_rows(potential.dtype)
    settings = RelaxSettings("lbfgs", 0.1, N_STEPS - 2, model_hessian)
    state = enter(rows, settings)
    seen, refused, pairs = set(), 0, 0
    for k in range(N_STEPS):
        # Every step from the same state, so that differences do not add up along a path.
        before, found = ({n: v.clone() for n, v in state.items()} for _ in range(2))
        state = step(rows, state, potential, settings)
        assert compiled_step(rows, found, potential, settings)(found) == {}
        assert torch.equal(found["code"], state["code"])
        assert torch.equal(found["n_steps"], state["n_steps"])
        running, on = before["code"] == RUNNING, state["code"] == RUNNING
        refused += int((on & (state["positions"] == before["positions"]).all(-1).all(-1)).sum())
        pairs = max(pairs, int((state["rho"] != 0).sum(1).max()))
        seen |= set(state["code"].tolist())
        for name, expected in state.items():
            # What a molecule that has ended leaves behind is read by nobody.
            left = ("positions", "forces", "energy", "max_force")
            close(found[name], expected, running if name in left else on, rtol=2e-4, atol=2e-5)
            close(found[name], before[name], ~running, rtol=0, atol=0)
        if k == 3:
            # Too far down a hill that is not there: the next point is refused.
            state = {name: value.clone() for name, value in state.items()}
            state["energy"][0] -= 1.0
    # The cases that it must know did come up.
    assert refused > 0
    assert pairs == 10
    assert {-1, CONVERGED, NON_FINITE} <= seen
    assert seen & {MAX_STEPS, EXPLODED}
