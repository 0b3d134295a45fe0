"""Geometries for the teacher: what moves, how far, and what stays."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

from mlff_core.distill.sampling import (
    KINDS,
    SamplingConfig,
    fire_state,
    fire_step,
    holding,
    parted,
    relax_path,
    sample,
    trajectory,
    turn_bond,
)
from mlff_core.testing import SpringTeacher
from mlff_core.units import BOLTZMANN_EV_K

STEP = torch.tensor([0])


def ethane() -> tuple[torch.Tensor, torch.Tensor]:
    atoms = molecule("C2H6")
    return torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions).float()[None]


def test_every_kind_of_geometry_is_made_and_padding_stays_empty():
    numbers, x = ethane()
    numbers = torch.cat([numbers, torch.zeros(1, 2, dtype=torch.int64)], 1)
    x = torch.cat([x, torch.zeros(1, 2, 3)], 1)
    teacher = SpringTeacher()
    torch.manual_seed(0)
    out = sample(
        lambda z, y, q: teacher(z, y, q).forces,
        numbers, x, torch.zeros(1), torch.tensor([[0, 1]]), torch.zeros(1, 10, dtype=torch.bool),
        SamplingConfig(relax_steps=5, hot_steps=4),
    )  # fmt: skip
    assert out.shape == (1, len(KINDS), 10, 3)
    assert (out[:, :, 8:] == 0).all()
    assert out.isfinite().all()
    for a in range(len(KINDS)):
        for b in range(a):
            assert (out[0, a] - out[0, b]).abs().max() > 1e-4


def test_a_turned_bond_keeps_every_length_on_its_side():
    numbers, x = ethane()
    side = torch.zeros(1, 8, dtype=torch.bool)
    side[0, [1, 5, 6, 7]] = True
    turned = turn_bond(x, torch.tensor([[0, 1]]), side, torch.tensor([torch.pi / 3]))
    assert torch.equal(turned[0, [0, 2, 3, 4]], x[0, [0, 2, 3, 4]])
    torch.testing.assert_close(turned[0, 1], x[0, 1])
    before, after = torch.cdist(x, x)[0], torch.cdist(turned, turned)[0]
    for group in ([0, 1, 2, 3, 4], [0, 1, 5, 6, 7]):
        torch.testing.assert_close(after[group][:, group], before[group][:, group])
    # Ethane is staggered: a sixth of a turn makes it eclipsed, its hydrogens closer.
    assert after[2:5, 5:].min() < before[2:5, 5:].min() - 0.1
    assert (numbers[0, [0, 1]] == 6).all()


def test_no_bond_to_turn_means_no_move():
    _, x = ethane()
    side = torch.ones(1, 8, dtype=torch.bool)
    assert torch.equal(turn_bond(x, torch.tensor([[0, 0]]), side, torch.tensor([1.0])), x)


def test_fire_finds_the_minimum_of_a_valley():
    target = torch.tensor([[[0.3, -0.2, 0.9], [1.0, 2.0, 3.0]]])
    stiffness = torch.tensor([1.0, 30.0, 8.0])
    x = torch.zeros(1, 2, 3)
    state = fire_state(x)
    for _ in range(250):
        x = fire_step(x, stiffness * (target - x), state)
    torch.testing.assert_close(x, target, rtol=0, atol=5e-3)


def test_a_relaxation_keeps_the_point_that_was_asked_for():
    numbers, x = ethane()
    teacher = SpringTeacher()

    def driver(z, y, q):
        return teacher(z, y, q).forces

    kept, end = relax_path(driver, numbers, x, torch.zeros(1), 40, STEP)
    assert torch.equal(kept, x)
    kept, _ = relax_path(driver, numbers, x, torch.zeros(1), 40, STEP + 20)
    energies = [float(teacher(numbers, y, torch.zeros(1)).energy) for y in (x, kept, end)]
    assert energies[0] > energies[1] > energies[2]


def test_relaxations_are_as_long_as_drawn_and_equally_often_of_each_order_of_magnitude():
    rng = random.Random(0)
    config = SamplingConfig(relax_steps=10, max_relax_steps=1000)
    lengths = np.array([config.drawn(rng).relax_steps for _ in range(2000)])
    assert lengths.min() >= 10
    assert lengths.max() <= 1000
    np.testing.assert_allclose((lengths < 100).mean(), 0.5, atol=0.04)
    assert replace(config.drawn(rng), relax_steps=10) == config  # nothing else changes
    for fixed in (0, 10):
        assert SamplingConfig(relax_steps=10, max_relax_steps=fixed).drawn(rng).relax_steps == 10
    with pytest.raises(ValueError, match="relax_steps: expected at least 1, found 0"):
        SamplingConfig(relax_steps=0)


def test_a_hot_trajectory_has_the_kinetic_energy_that_was_drawn():
    n = 400
    numbers = torch.full((n, 5), 6)
    x = torch.zeros(n, 5, 3)
    temperature = torch.full((n,), 600.0)
    torch.manual_seed(0)
    step_fs = 0.5
    # Without forces every atom flies straight, so one step tells its velocity.
    moved = trajectory(
        lambda z, y, q: torch.zeros_like(y), numbers, x, torch.zeros(n), temperature,
        1, step_fs, torch.ones(n, dtype=torch.int64),
    )  # fmt: skip
    from mlff_core.units import TIME_FS

    velocity = moved / (step_fs / TIME_FS)
    kinetic = 0.5 * 12.011 * velocity.square().mean()
    expected = 0.5 * BOLTZMANN_EV_K * 2 * 600.0  # twice: half of it becomes potential energy
    np.testing.assert_allclose(float(kinetic), expected, rtol=0.05)


def test_a_parted_hydrogen_is_farther_along_its_bond_or_on_its_way_to_an_acceptor():
    torch.manual_seed(4)
    many = 400
    # A hydrogen bond of 1.7 Å, a C-H bond without anybody near, and a molecule without hydrogen.
    numbers = torch.tensor([[8, 1, 8], [6, 1, 0], [53, 53, 0]]).repeat_interleave(many, 0)
    x = torch.tensor([
        [[0.0, 0, 0], [1, 0, 0], [2.7, 0, 0]], [[0.0, 0, 0], [1.1, 0, 0], [0, 0, 0]],
        [[0.0, 0, 0], [2.7, 0, 0], [0, 0, 0]],
    ]).repeat_interleave(many, 0)  # fmt: skip
    out = parted(numbers, x, lambda low, high: low + (high - low) * torch.rand(len(x)))
    assert torch.equal(out[:, [0, 2]], x[:, [0, 2]])
    assert (out[:, 1, 1:] == 0).all()
    bridged, alone, iodine = out[:, 1, 0].split(many)
    assert torch.equal(iodine, x[2 * many :, 1, 0])
    assert 1.1 <= alone.min() < 1.2
    assert 2.1 < alone.max() <= 2.2
    # To 1 Å from the acceptor in half of them, to 2 Å from its own atom in the others.
    assert 1.0 <= bridged.min() < 1.05
    assert 1.95 < bridged.max() <= 2.0
    assert 0.75 < float((bridged <= 1.7).float().mean()) < 0.95


def test_hydrogens_part_only_where_a_recipe_says_so():
    numbers, x = ethane()
    still = lambda z, y, q: torch.zeros_like(y)  # noqa: E731
    axis, side = torch.tensor([[0, 0]]), torch.zeros(1, 8, dtype=torch.bool)
    longest = {}
    for share in (0.0, 1.0):
        found = []
        for seed in range(20):
            torch.manual_seed(seed)
            config = SamplingConfig(
                relax_steps=1, hot_steps=1, parted=share, max_displacement=0.021, max_strain=0.0
            )
            out = sample(still, numbers, x, torch.zeros(1), axis, side, config)[0, 3]
            found.append(float(torch.cdist(out, out)[:2, 2:].amin(0).max()))
        longest[share] = max(found)
    assert longest[0.0] < 1.3
    assert longest[1.0] > 1.7


def test_a_held_torsion_relaxes_all_else_and_a_free_one_turns_back():
    """Springs between all atoms pull an ethane that is turned and swollen back to staggered."""
    numbers, x = ethane()
    side = torch.zeros(1, 8, dtype=torch.bool)
    side[0, [1, 5, 6, 7]] = True
    axis = torch.tensor([[0, 1]])
    rest = torch.cdist(x, x)
    start = turn_bond(x, axis, side, torch.tensor([0.7])) * 1.05

    def springs(z: torch.Tensor, y: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        y = y.detach().requires_grad_()
        energy = (torch.cdist(y, y) - rest).square().sum()
        return -torch.autograd.grad(energy, y)[0]

    def torsion(y: torch.Tensor) -> float:
        """Of the two hydrogens that the bond of the fixture has next to it."""
        i, j, k, last = y[0, [2, 0, 1, 5]].double()
        a, b = torch.linalg.cross(j - i, k - j), torch.linalg.cross(k - j, last - k)
        sine = (torch.linalg.norm(k - j) * (j - i)) @ b
        return float(torch.atan2(sine, a @ b))

    ends = []
    for holds in (True, False):
        driver = holding(springs, numbers, start, axis, side, torch.tensor([holds]))
        _, end = relax_path(driver, numbers, start, torch.zeros(1), 200, STEP)
        ends.append(end)
    at_first = torsion(start)
    assert abs(torsion(ends[0]) - at_first) < 0.03
    assert abs(torsion(ends[1]) - torsion(x)) < 0.01
    assert abs(torsion(ends[1]) - at_first) > 0.5
    # All else went back to what it was, the five per cent too much among it.
    assert (torch.cdist(start, start) - rest)[0, 0, 1] > 0.07
    assert abs((torch.cdist(ends[0], ends[0]) - rest)[0, 0, 1]) < 0.02
