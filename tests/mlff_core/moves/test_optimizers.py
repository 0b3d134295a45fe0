import numpy as np
import torch

from mlff_core.elements import COVALENT_RADII
from mlff_core.moves.hessian import (
    SPRING,
    SPRING_DECAY,
    SPRING_GROUND,
    SPRING_SIDEWAYS,
    inverse_model_hessian,
)
from mlff_core.moves.lbfgs import CURVATURE, HISTORY, LONGEST_STEP, lbfgs_enter, lbfgs_step
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


def test_the_model_hessian_of_a_diatomic_is_its_closed_formula():
    d = 1.6
    z, x = [6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, d]]
    contact = COVALENT_RADII[6] + COVALENT_RADII[8]
    k = SPRING * np.exp(-SPRING_DECAY * (d / contact - 1))
    across, along = np.diag([1.0, 1.0, 0.0]), np.diag([0.0, 0.0, 1.0])
    block = k * (along + SPRING_SIDEWAYS * across)
    hessian = np.kron([[1, -1], [-1, 1]], block) + SPRING_GROUND * np.eye(6)
    inverse = inverse_model_hessian(rows_of((z, x, 0), width=3))[0].numpy()
    np.testing.assert_allclose(inverse[:6, :6], np.linalg.inv(hessian), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(inverse[6:], np.eye(9)[6:], atol=1e-12)  # padding


def test_the_inverse_model_hessian_is_positive_for_any_molecule_and_knows_what_is_frozen():
    free = np.arange(12) % 3 > 0
    inverse = inverse_model_hessian(rows_of(random_molecule(12), free=free))[0]
    overlapping = inverse_model_hessian(rows_of(([6, 6], [[0.0, 0, 0], [0, 0, 0]], 0)))[0]
    for matrix in (inverse, overlapping):
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-9)
        assert torch.linalg.eigvalsh(matrix).min() > 0
    held = np.repeat(~free, 3)
    np.testing.assert_allclose(inverse[held], np.eye(36)[held], atol=1e-12)
