"""Labels between two teachers: where, by how much, and whose word counts where they differ."""

import torch

from mlff_core.distill.second_teacher import MAX_ENERGY, MAX_FORCE, TwoTeachers
from mlff_core.testing import SpringTeacher

NUMBERS = torch.tensor([[8, 1, 1], [8, 1, 1], [8, 1, 0], [8, 1, 1], [8, 1, 1]])
CHARGE = torch.tensor([0, 0, -1, 0, 0])


def labels(more: torch.Tensor, push: torch.Tensor):
    """Of five molecules: an energy and a force of the second are so far from the first's."""
    torch.manual_seed(1)
    x = torch.randn(5, 3, 3)
    first = SpringTeacher()
    alone = first(NUMBERS, x, CHARGE)

    def second(numbers: torch.Tensor, positions: torch.Tensor, charge: torch.Tensor):
        forces = alone.forces.clone()
        forces[:, 0, 2] += push
        return alone.energy + more, forces

    return alone, TwoTeachers(first, second, 0.25)(NUMBERS, x, CHARGE)


def test_labels_lie_between_where_both_agree_and_are_the_teachers_elsewhere():
    more = torch.tensor([0.04, -0.04, 0.04, 2 * MAX_ENERGY, 0.04], dtype=torch.float64)
    push = torch.tensor([0.1, 0.1, 0.1, 0.1, 2 * MAX_FORCE])
    alone, mixed = labels(more, push)
    share = torch.tensor([0.25, 0.25, 0.0, 0.0, 0.0])
    torch.testing.assert_close(mixed.energy - alone.energy, share.double() * more)
    torch.testing.assert_close((mixed.forces - alone.forces)[:, 0, 2], share * push)
    assert torch.equal(mixed.forces[:, 1:], alone.forces[:, 1:])
    assert torch.equal(mixed.force_spread, alone.force_spread)


def test_a_second_teacher_that_says_nonsense_is_not_heard():
    nothing = torch.full((5,), torch.nan)
    alone, mixed = labels(nothing.double(), torch.zeros(5))
    assert torch.equal(mixed.energy, alone.energy)
    assert torch.equal(mixed.forces, alone.forces)
    alone, mixed = labels(torch.zeros(5, dtype=torch.float64), nothing)
    assert torch.equal(mixed.forces, alone.forces)
