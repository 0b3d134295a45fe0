import numpy as np
import pytest
import torch

from mlff_core.elements import COVALENT_RADII
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL, inverse_model_hessian
from mlff_core.moves.lbfgs import (
    CURVATURE,
    HISTORY,
    LONGEST_STEP,
    RENEW_AGAIN_BELOW,
    RENEW_BELOW,
    lbfgs_enter,
    lbfgs_renew,
    lbfgs_renews,
    lbfgs_step,
)
from mlff_core.moves.slots import Molecule, Rows
from mlff_core.moves.state import Point
from mlff_core.testing import random_molecule


def rows_of(*molecules, width=None, free=None):
    packed = [Molecule(k, z, np.asarray(x), q, free) for k, (z, x, q) in enumerate(molecules)]
    width = width or max(molecule.size for molecule in packed)
    return Rows.pack(packed, width, torch.device("cpu"), torch.float64)


def quadratic(n_atoms, seed):
    """A bowl: Hessian with curvatures from 1 to 50 eV/Å², and forces around its minimum."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3 * n_atoms, 3 * n_atoms)))
    return q @ np.diag(rng.uniform(1, 50, 3 * n_atoms)) @ q.T


def test_the_two_loops_equal_the_dense_formula_of_bfgs():
    n_atoms, n_points = 4, HISTORY + 4  # more pairs than are kept
    hessian = quadratic(n_atoms, 0)
    rng = np.random.default_rng(1)
    rows = rows_of(random_molecule(n_atoms))
    state = lbfgs_enter(rows, model_hessian=False)
    x = rng.normal(size=3 * n_atoms) * 1e-3
    steps, changes, step = [], [], np.zeros_like(x)
    for k in range(n_points):
        accepted, x = x, x + step
        point = Point(
            free=rows.free,
            step=torch.tensor(step).view(1, n_atoms, 3),
            forces=torch.tensor(-hessian @ x).view(1, n_atoms, 3),
            accepted_forces=torch.tensor(-hessian @ accepted).view(1, n_atoms, 3),
            first=torch.tensor([k == 0]),
            finite=torch.tensor([True]),
            not_above=torch.tensor([True]),
        )
        _, displacement, state = lbfgs_step(state, point)
        if k:
            steps.append(step)
            changes.append(hessian @ step)
        step = rng.normal(size=3 * n_atoms) * 1e-3
    # N&W eq. 7.19, with the initial matrix of eq. 7.20 and all pairs that are kept.
    s, y = steps[-1], changes[-1]
    inverse = np.eye(3 * n_atoms) * np.clip(CURVATURE * (s @ y) / (y @ y), 0.1, 10) / CURVATURE
    for s, y in list(zip(steps, changes, strict=True))[-HISTORY:]:
        v = np.eye(3 * n_atoms) - np.outer(y, s) / (s @ y)
        inverse = v.T @ inverse @ v + np.outer(s, s) / (s @ y)
    expected = (inverse @ (-hessian @ x)).reshape(n_atoms, 3)
    assert np.linalg.norm(expected, axis=1).max() < LONGEST_STEP  # not cut
    np.testing.assert_allclose(displacement[0].numpy(), expected, rtol=1e-8)


def test_a_refused_step_is_followed_by_a_shorter_one_from_the_same_point():
    rows = rows_of(random_molecule(3), random_molecule(3))
    state = lbfgs_enter(rows, model_hessian=False)
    forces = torch.full((2, 3, 3), 100.0, dtype=torch.float64)
    common = {"free": rows.free, "finite": torch.tensor([True, True])}
    first = Point(
        **common,
        step=torch.zeros_like(forces),
        forces=forces,
        accepted_forces=torch.zeros_like(forces),
        first=torch.tensor([True, True]),
        not_above=torch.tensor([False, False]),
    )
    accept, step, changed = lbfgs_step(state, first)
    assert accept.all()
    torch.testing.assert_close(step.norm(dim=-1).amax(-1), torch.full((2,), LONGEST_STEP).double())
    second = Point(
        **common,
        step=step,
        forces=0.9 * forces,
        accepted_forces=forces,
        first=torch.tensor([False, False]),
        not_above=torch.tensor([True, False]),
    )
    accept, step, _ = lbfgs_step(changed, second)
    assert accept.tolist() == [True, False]
    longest = step.norm(dim=-1).amax(-1)
    torch.testing.assert_close(longest, torch.tensor([LONGEST_STEP, LONGEST_STEP / 2]).double())


def test_a_pair_of_negative_curvature_is_not_kept():
    rows = rows_of(random_molecule(3))
    state = lbfgs_enter(rows, model_hessian=False)
    forces = torch.ones(1, 3, 3, dtype=torch.float64)
    point = Point(
        free=rows.free,
        step=0.1 * forces,
        forces=2.0 * forces,  # the force grows along the step
        accepted_forces=forces,
        first=torch.tensor([False]),
        finite=torch.tensor([True]),
        not_above=torch.tensor([True]),
    )
    _, displacement, changed = lbfgs_step(state, point)
    assert not changed.rho.any()
    assert (displacement * forces).sum() > 0


@pytest.mark.parametrize("model", [MODEL, RENEWED_MODEL])
def test_the_model_hessian_of_a_diatomic_is_its_closed_formula(model):
    d = 1.6
    z, x = [6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, d]]
    contact = COVALENT_RADII[6] + COVALENT_RADII[8]
    q = d / contact
    fall = model.spring_decay * (q - 1) + model.spring_curve * (q - 1) ** 2
    along = model.spring * np.exp(-fall)
    across = model.sideways * np.exp(-model.sideways_decay * (q - 1))
    block = np.diag([across, across, along])
    hessian = np.kron([[1, -1], [-1, 1]], block) + model.ground * np.eye(6)
    inverse = inverse_model_hessian(rows_of((z, x, 0), width=3), model)[0].numpy()
    np.testing.assert_allclose(inverse[:6, :6], np.linalg.inv(hessian), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(inverse[6:], np.eye(9)[6:], atol=1e-12)  # padding


def test_the_bends_of_the_model_hessian_are_changes_of_the_angles():
    """Against an energy of angles alone, differentiated twice by PyTorch at its minimum."""
    model = MODEL._replace(spring=0.0, sideways=0.0)
    x = torch.tensor([[0.9, 0.1, 0.0], [0, 0, 0], [-0.3, 1.3, 0.2], [0.1, -0.5, 1.2]]).double()
    z = torch.tensor([1, 6, 6, 7])
    rows = rows_of((z.tolist(), x.tolist(), 0))
    radius = torch.tensor([COVALENT_RADII[int(n)] for n in z]).double()

    def angle(positions, i, k):
        a, b = positions[i] - positions[1], positions[k] - positions[1]
        return torch.acos((a * b).sum() / (a.norm() * b.norm()))

    def energy(flat):
        positions, total = flat.view(-1, 3), 0.0
        for i, k in ((0, 2), (0, 3), (2, 3)):
            q = [((x[j] - x[1]).norm() / (radius[j] + radius[1])) for j in (i, k)]
            stiff = model.bend * torch.exp(-model.bend_decay * (q[0] + q[1] - 2.0))
            total = total + 0.5 * stiff * (angle(positions, i, k) - angle(x, i, k)) ** 2
        return total

    expected = torch.autograd.functional.hessian(energy, x.flatten()) + model.ground * torch.eye(12)
    found = torch.linalg.inv(inverse_model_hessian(rows, model)[0])
    assert (expected - model.ground * torch.eye(12)).abs().max() > 1.0
    # Angles are softened by as much as keeps those in line finite.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_the_model_hessian_is_finite_in_line_and_where_atoms_nearly_meet():
    in_line = rows_of(([6, 6, 1, 1], [[0, 0, 0], [1.2, 0, 0], [2.3, 0, 0], [-1.1, 0, 0]], 0))
    meeting = rows_of(([6, 1, 1], [[0.0, 0, 0], [1e-4, 0, 0], [0, 1.0, 0]], 0))
    for rows in (in_line, meeting):
        inverse = inverse_model_hessian(rows)[0]
        assert torch.linalg.eigvalsh(inverse).min() > 0
        assert inverse.diagonal().max() <= 1.001 / MODEL.ground


def test_the_inverse_model_hessian_is_positive_for_any_molecule_and_knows_what_is_frozen():
    free = np.arange(12) % 3 > 0
    inverse = inverse_model_hessian(rows_of(random_molecule(12), free=free))[0]
    overlapping = inverse_model_hessian(rows_of(([6, 6], [[0.0, 0, 0], [0, 0, 0]], 0)))[0]
    for matrix in (inverse, overlapping):
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-9)
        assert torch.linalg.eigvalsh(matrix).min() > 0
    held = np.repeat(~free, 3)
    np.testing.assert_allclose(inverse[held], np.eye(36)[held], atol=1e-12)


def test_a_renewed_model_is_that_of_the_point_come_to_and_keeps_the_pairs():
    free = np.arange(9) != 4
    rows = rows_of(random_molecule(9), free=free)
    memory = lbfgs_enter(rows, model_hessian=True)
    rng = torch.Generator().manual_seed(3)
    memory.y.copy_(torch.randn(memory.y.shape, generator=rng, dtype=torch.float64))
    memory.s.copy_(torch.randn(memory.s.shape, generator=rng, dtype=torch.float64))
    moved = rows._replace(positions=rows.positions + 0.2 * torch.sin(rows.positions * 3))
    forces = torch.cos(moved.positions) * rows.free[..., None]
    found = lbfgs_renew(moved, memory, forces)
    expected = inverse_model_hessian(moved, RENEWED_MODEL)[0]
    assert (found.inverse[0] - memory.inverse[0]).abs().max() > 1e-3
    torch.testing.assert_close(found.inverse[0], expected)
    torch.testing.assert_close(found.inverse_forces[0], expected @ forces.flatten())
    torch.testing.assert_close(found.inverse_y[0], memory.y[0] @ expected)
    assert found.s is memory.s
    assert found.y is memory.y
    assert found.renewed.tolist() == [1]
    nearer = lbfgs_renew(moved, memory, forces * RENEW_AGAIN_BELOW / 2)
    assert nearer.renewed.tolist() == [2]


def test_a_model_is_renewed_twice_and_only_near_the_minimum():
    memory = lbfgs_enter(rows_of(*[random_molecule(3)] * 6), model_hessian=True)
    memory.renewed[:] = torch.tensor([0, 0, 1, 1, 2, 2])
    forces = torch.tensor([RENEW_BELOW, RENEW_AGAIN_BELOW])
    forces = torch.cat([forces * 1.01, forces * 0.99, forces * 0.0])[[0, 2, 2, 3, 3, 4]]
    expected = [False, True, False, True, False, False]
    assert lbfgs_renews(memory, forces).tolist() == expected
    near = lbfgs_enter(rows_of(random_molecule(3)), model_hessian=True, near=True)
    assert lbfgs_renews(near, forces[5:]).tolist() == [False]
    constant = lbfgs_enter(rows_of(random_molecule(3)), model_hessian=False)
    assert lbfgs_renews(constant, forces[1:2]).tolist() == [False]
