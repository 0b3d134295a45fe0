"""Labels between two teachers: where, by how much, and whose word counts where they differ."""

from collections import Counter

import torch

from mlff_core.distill.embedding import Embedded, embed
from mlff_core.distill.labelling import LabelConfig, fill, label_geometries, pad
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.sampling import KINDS, SamplingConfig
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


def test_a_pool_has_mixed_labels_of_molecules_without_charged_groups_alone():
    """Glycine as it is, and as its zwitterion, whose charge is none either."""
    teacher = SpringTeacher()
    molecules = [embed(text, k, 2, 1, 5) for k, text in enumerate(("NCC(=O)O", "[NH3+]CC(=O)[O-]"))]
    assert all(isinstance(molecule, Embedded) for molecule in molecules)

    def a_bit_more(numbers: torch.Tensor, positions: torch.Tensor, charge: torch.Tensor):
        label = teacher(numbers, positions, charge)
        return label.energy + 0.04, label.forces

    def labelled(second: SecondTeacher | None) -> torch.Tensor:
        torch.manual_seed(1)
        pool = LabelPool(2, 2 * len(KINDS), 24, "cpu")
        drive = lambda z, x, q: teacher(z, x, q).forces  # noqa: E731
        padded, sampling = pad(molecules, 24, "cpu"), SamplingConfig(relax_steps=2, hot_steps=2)
        limits = LabelConfig(max_force=1e9, min_contact=0.0)
        fill(pool, teacher, drive, padded, sampling, limits, Counter(), second)
        assert int(pool.n_filled) == 2
        return pool.energy

    more = labelled(SecondTeacher(a_bit_more, 0.5)) - labelled(None)
    torch.testing.assert_close(more[0], torch.full_like(more[0], 0.02))
    assert torch.equal(more[1], torch.zeros_like(more[1]))
