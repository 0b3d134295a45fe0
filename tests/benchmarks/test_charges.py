"""Errors of charges and dipoles are those that were put in."""

import numpy as np
import pytest
import torch

from benchmarks.accuracy.charges import charge_errors, summary
from mlff_core.batch import MolBatch
from mlff_core.distill.evaluation import TestBlock
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.testing import NAMED_MOLECULES, random_model

NAMES = ("water", "ammonium")


@pytest.fixture(scope="module")
def student() -> Potential:
    config = PaiNNConfig(n_features=16, charges_after=1, charge_feedback=True)
    return Potential(random_model(3, config), backend="plain")


@pytest.fixture(scope="module")
def block() -> TestBlock:
    """Two geometries of two molecules, the second of which counts only once."""
    batch = MolBatch.from_arrays([NAMED_MOLECULES[name] for name in NAMES])
    pad = torch.nn.utils.rnn.pad_sequence
    numbers = pad(batch.split(batch.numbers), batch_first=True)
    x = pad(batch.split(batch.positions), batch_first=True)
    nothing = torch.zeros(2, 2)
    return TestBlock(
        torch.tensor([7, 9]), numbers, batch.charge, torch.stack([x, 1.1 * x], 1), nothing.double(),
        torch.zeros(2, 2, 5, 3), nothing, torch.tensor([[True, True], [True, False]]),
    )  # fmt: skip


def test_errors_are_those_of_what_a_teacher_says_else(student, block):
    theirs = torch.zeros(2, 2, 5)
    for kind, x in enumerate(block.positions.unbind(1)):
        for k, name in enumerate(NAMES):
            n = len(NAMED_MOLECULES[name][0])
            alone = MolBatch.from_arrays([(block.numbers[k, :n].numpy(), x[k, :n].numpy(), k)])
            theirs[k, kind, :n] = student(alone).charges
    # A tenth of a charge from one atom to another.
    theirs[..., 0] -= 0.1
    theirs[..., 1] += 0.1
    found = charge_errors([block], [theirs], student)
    assert found["molecule"].tolist() == [7, 9, 7]
    assert found["charge"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(found["charge_error"], 0.2, atol=1e-5)
    bond = [float((x[0] - x[1]).norm()) for x in (block.positions[0, 0], block.positions[1, 0])]
    expected = 0.1 * 4.80320 * np.array([bond[0], bond[1], 1.1 * bond[0]])
    np.testing.assert_allclose(found["dipole_error"], expected, rtol=1e-3)
    neutral = summary(found, found["charge"] == 0)
    assert neutral["n_geometries"] == 2
    assert neutral["charge_mae_e"] == pytest.approx(0.2 / 3, rel=1e-3)
    assert neutral["dipole_mae_debye"] == pytest.approx(expected[[0, 2]].mean(), rel=1e-3)
