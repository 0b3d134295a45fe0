"""What is compiled between two force calls against its plain meaning."""

import pytest
import torch

from mlff_core.models.potential import Potential
from mlff_core.moves.minimise_numba import compiled_step
from mlff_core.moves.rules import Rules, SlotStatus
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.state import each
from mlff_core.moves.step import enter, renew, step
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
    rules = Rules.of(settings, potential.dtype, potential.cutoff)
    state = enter(rows, settings)
    seen, refused, pairs = set(), 0, 0
    for k in range(N_STEPS):
        # Every step from the same state, so that differences do not add up along a path.
        before, found = each(torch.clone, state), each(torch.clone, state)
        state = step(rows, state, potential, settings, rules)
        assert compiled_step(rows, found, potential, rules)(found) is found
        assert torch.equal(found.status, state.status)
        assert torch.equal(found.n_steps, state.n_steps)
        running, on = before.status == SlotStatus.RUNNING, state.status == SlotStatus.RUNNING
        refused += int((on & (state.positions == before.positions).all(-1).all(-1)).sum())
        pairs = max(pairs, int((state.memory.rho != 0).sum(1).max()))
        seen |= set(state.status.tolist())
        for name in ("positions", "forces", "energy", "max_force"):
            close(getattr(found, name), getattr(state, name), running, rtol=2e-4, atol=2e-5)
        # What a molecule that has ended leaves behind is read by nobody.
        each(lambda a, b, on=on: close(a, b, on, rtol=2e-4, atol=2e-5), found, state)
        each(lambda a, b, ended=~running: close(a, b, ended, rtol=0, atol=0), found, before)
        if k == 3:
            # Too far down a hill that is not there: the next point is refused.
            state = each(torch.clone, state)
            state.energy[0] -= 1.0
        waiting = (state.status == SlotStatus.RENEWING).nonzero()[:, 0]
        if len(waiting):
            state = each(torch.clone, state)
            renew(rows, state, waiting, settings)
    # The cases that it must know did come up.
    assert refused > 0
    assert pairs == 10
    assert {SlotStatus.VACANT, SlotStatus.CONVERGED, SlotStatus.NON_FINITE} <= seen
    assert (SlotStatus.RENEWING in seen) == model_hessian
    assert seen & {SlotStatus.MAX_STEPS, SlotStatus.EXPLODED}
