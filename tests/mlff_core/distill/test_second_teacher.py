"""Labels between two teachers: where, by how much, and whose word counts where they differ."""

import torch

from mlff_core.distill.labelling import label_geometries
from mlff_core.distill.second_teacher import MAX_ENERGY, MAX_FORCE, SecondTeacher
from mlff_core.testing import SpringTeacher

NUMBERS = torch.tensor([[8, 1, 1], [8, 1, 1], [8, 1, 0], [8, 1, 1], [8, 1, 1], [8, 1, 1]])
CHARGE = torch.tensor([0, 0, -1, 0, 0, 0])
IONIC = torch.tensor([False, False, True, False, False, True])


def labels(more: torch.Tensor, push: torch.Tensor):
    """Of six molecules: an energy and a force of the second are so far from the first's."""
    torch.manual_seed(1)
    x = torch.randn(6, 2, 3, 3)
    alone = label_geometries(SpringTeacher(), NUMBERS, x, CHARGE)

    def second(numbers: torch.Tensor, positions: torch.Tensor, charge: torch.Tensor):
        k = next(k for k in range(2) if torch.equal(positions, x[:, k]))
        forces = alone.forces[:, k].clone()
        forces[:, 0, 2] += push
        return alone.energy[:, k] + more, forces

    mixed = SecondTeacher(second, 0.25).mixed_into(alone, NUMBERS, x, CHARGE, IONIC)
    return alone, mixed


def test_labels_lie_between_where_both_agree_and_are_the_teachers_elsewhere():
    more = torch.tensor([0.04, -0.04, 0.04, 2 * MAX_ENERGY, 0.04, 0.04], dtype=torch.float64)
    push = torch.tensor([0.1, 0.1, 0.1, 0.1, 2 * MAX_FORCE, 0.1])
    alone, mixed = labels(more, push)
    share = torch.tensor([0.25, 0.25, 0.0, 0.0, 0.0, 0.0])
    for k in range(2):
        torch.testing.assert_close((mixed.energy - alone.energy)[:, k], share.double() * more)
        torch.testing.assert_close((mixed.forces - alone.forces)[:, k, 0, 2], share * push)
    assert torch.equal(mixed.forces[:, :, 1:], alone.forces[:, :, 1:])
    assert torch.equal(mixed.force_spread, alone.force_spread)


def test_a_second_teacher_that_says_nonsense_is_not_heard():
    nothing = torch.full((6,), torch.nan)
    alone, mixed = labels(nothing.double(), torch.zeros(6))
    assert torch.equal(mixed.energy, alone.energy)
    assert torch.equal(mixed.forces, alone.forces)
    alone, mixed = labels(torch.zeros(6, dtype=torch.float64), nothing)
    assert torch.equal(mixed.forces, alone.forces)
