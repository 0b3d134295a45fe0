"""Errors of charges and dipoles are those that were put in."""

import numpy as np
import pytest
import torch

from benchmarks.accuracy.charges import (
    charge_errors,
    disagreement,
    students_charges,
    summary,
)
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
    found = charge_errors([block], students_charges([block], student), [theirs])
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


def test_members_are_compared_with_the_others_and_the_error_of_their_mean_is_stated(block):
    # Four members: two say a tenth of a charge more on one atom than on another, two as much less.
    theirs = torch.zeros(4, 2, 2, 5)
    theirs[:2, ..., 0], theirs[:2, ..., 1] = 0.1, -0.1
    theirs[2:] = -theirs[:2]
    of_members = [
        charge_errors([block], [theirs[k]], [(theirs.sum(0) - theirs[k]) / 3]) for k in range(4)
    ]
    water = of_members[0]["charge"] == 0
    found = disagreement(of_members, water)
    # A member is 0.1 from the mean, which is nothing, and 4/3 of that from the mean of the others.
    assert found["charge_mae_e"] == pytest.approx(4 / 3 * 0.2 / 3, rel=1e-3)
    x = block.positions[0]
    dipole = 0.1 * 4.80320 * (x[:, 0] - x[:, 1]).norm(dim=1).numpy()
    assert found["dipole_mae_debye"] == pytest.approx(4 / 3 * dipole.mean(), rel=1e-3)
    deviation = dipole * np.sqrt(4 / 3)  # of four, of which each is as far from the mean
    expected = (deviation / np.sqrt(4)).mean()
    assert found["dipole_standard_error_debye"] == pytest.approx(expected, rel=1e-3)
    # Of no geometries there is nothing to say, rather than no error.
    assert set(disagreement(of_members, water & False).values()) == {None}
