"""How many threads a force call takes on a CPU, and how they wait."""

import os
import subprocess
import sys

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.potential import Potential
from mlff_core.testing import NAMED_MOLECULES, random_model


class CountsThreads:
    """An engine that notes with how many threads it was called."""

    def __init__(self):
        self.seen = []

    def evaluate(self, numbers, positions, mol_idx, ptr, charge):
        self.seen.append(torch.get_num_threads())
        return torch.zeros(len(charge), dtype=torch.float64), torch.zeros_like(positions)


def test_few_atoms_take_one_thread_and_the_caller_keeps_its_own():
    potential = Potential(random_model(0, n_features=8))
    potential.engine = CountsThreads()
    water = MolBatch.from_arrays([NAMED_MOLECULES["water"]])
    many = MolBatch.from_arrays([NAMED_MOLECULES["water"]] * 20)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for batch in (water, many):
            potential(batch)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert potential.engine.seen == [1, 2]


@pytest.mark.parametrize(("asked", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_something_else_is_asked_for(asked, found):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if asked is not None:
        environment["OMP_WAIT_POLICY"] = asked
    said = subprocess.run(
        [sys.executable, "-c", "import mlff_core, os; print(os.environ['OMP_WAIT_POLICY'])"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == found
