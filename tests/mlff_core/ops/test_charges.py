"""Charges add up, and what they add to energies and forces is what the formulas say."""

import itertools

import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.ops import charges
from mlff_core.ops.charges import (
    COULOMB_ONSET,
    coulomb,
    damped,
    equilibrate_bwd,
    equilibrate_fwd,
    layout_of,
)
from mlff_core.testing import NAMED_MOLECULES, random_molecule
from mlff_core.units import COULOMB_EV_ANGSTROM

MOLECULES = [*NAMED_MOLECULES.values(), random_molecule(30, 2, charge=2), random_molecule(9, 1)]


def given(dtype: torch.dtype = torch.float64):
    """A batch, its layout, and numbers for each atom."""
    batch = MolBatch.from_arrays(MOLECULES, dtype=dtype)
    torch.manual_seed(0)
    y = torch.randn(batch.n_atoms, 2, dtype=torch.float64).to(dtype)
    return batch, layout_of(batch.mol_idx, batch.n_mols), y


def total(batch: MolBatch, values: torch.Tensor) -> torch.Tensor:
    sums = torch.zeros(batch.n_mols, *values.shape[1:], dtype=torch.float64)
    return sums.index_add(0, batch.mol_idx, values.double())


def test_a_layout_holds_every_atom_once_and_nothing_else():
    batch, layout, _ = given()
    rows = torch.arange(1.0, batch.n_atoms + 1)
    padded = layout.padded(rows)
    assert torch.equal(padded[padded > 0], rows)
    assert torch.equal((padded > 0).sum(1), batch.ptr.diff())
    assert torch.equal(layout.flat(padded), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_charges_add_up_to_the_total(dtype):
    batch, layout, y = given(dtype)
    for shift in (0.0, 5.0, -200.0):  # The last leaves nothing of the weights but their floor.
        c, _ = equilibrate_fwd(y + torch.tensor([0.0, shift], dtype=dtype), batch.charge, layout)
        torch.testing.assert_close(
            total(batch, c), batch.charge.double(), rtol=0, atol=1e-6, check_dtype=False
        )
        assert c.dtype == dtype


def test_what_is_missing_goes_where_the_weight_is():
    batch = MolBatch.from_arrays([([8, 1, 1], np.eye(3), 1)], dtype=torch.float64)
    layout = layout_of(batch.mol_idx, 1)
    y = torch.tensor([[-0.4, 60.0], [0.2, -60.0], [0.2, -60.0]], dtype=torch.float64)
    c, _ = equilibrate_fwd(y, batch.charge, layout)
    # Weights of 60.01 and twice 0.01 for one charge that is missing.
    expected = [-0.4 + 60.01 / 60.03, 0.2 + 0.01 / 60.03, 0.2 + 0.01 / 60.03]
    torch.testing.assert_close(c, torch.tensor(expected, dtype=torch.float64))


def test_the_way_back_is_that_of_automatic_differentiation():
    batch, layout, y = given()
    y.requires_grad_(True)
    c, saved = equilibrate_fwd(y, batch.charge, layout)
    g_c = torch.linspace(-1.0, 2.0, batch.n_atoms, dtype=torch.float64)
    (expected,) = torch.autograd.grad(c, y, g_c, retain_graph=True)
    assert expected.norm() > 1
    torch.testing.assert_close(equilibrate_bwd(g_c, saved, layout), expected)
    # And once more, as training needs it.
    assert torch.autograd.gradgradcheck(
        lambda v: equilibrate_fwd(v, batch.charge, layout)[0], y[:, :], atol=1e-7
    )


def test_the_coulomb_energy_is_the_sum_over_pairs_of_what_the_formula_says():
    batch, layout, y = given()
    strength = torch.tensor([0.7], dtype=torch.float64)
    energy, _, _ = coulomb(y[:, 0], batch.positions, strength, layout)
    expected = np.zeros(batch.n_mols)
    for m, (start, end) in enumerate(itertools.pairwise(batch.ptr.tolist())):
        for a, b in itertools.combinations(range(start, end), 2):
            d = float(np.linalg.norm(batch.positions[a] - batch.positions[b]))
            x2 = (d / COULOMB_ONSET) ** 2
            share = 1.0 if x2 >= 1 else 1.0 - np.exp(1.0 - 1.0 / (1.0 - x2))
            expected[m] += 0.7 * COULOMB_EV_ANGSTROM * float(y[a, 0] * y[b, 0]) * share / d
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(total(batch, energy).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_coulomb_energy_are_those_of_automatic_differentiation():
    batch, layout, y = given()
    strength = torch.tensor([0.7], dtype=torch.float64)
    c = y[:, 0].clone().requires_grad_(True)
    x = batch.positions.clone().requires_grad_(True)
    energy, potential, gradient = coulomb(c, x, strength, layout)
    by_charge, by_position = torch.autograd.grad(energy.sum(), (c, x))
    torch.testing.assert_close(potential, by_charge)
    torch.testing.assert_close(gradient, by_position)
    assert potential.abs().max() > 1


def test_molecules_in_pieces_have_the_same_coulomb_energy(monkeypatch):
    batch, layout, y = given()
    strength = torch.ones(1, dtype=torch.float64)
    whole = coulomb(y[:, 0], batch.positions, strength, layout)
    monkeypatch.setattr(charges, "MAX_PAIRS", 2000)
    for found, expected in zip(
        coulomb(y[:, 0], batch.positions, strength, layout), whole, strict=True
    ):
        assert torch.equal(found, expected)


def test_the_coulomb_energy_has_no_edge_where_it_is_whole():
    d = torch.tensor([COULOMB_ONSET - 1e-9, COULOMB_ONSET + 1e-9, 40.0], dtype=torch.float64)
    value, slope = damped(d)
    torch.testing.assert_close(value, 1 / d)
    torch.testing.assert_close(slope, -1 / d.square())
    # Derivatives up to the third, by automatic differentiation of the slope, take no jump there.
    near = torch.linspace(4.0, 5.0, 400, dtype=torch.float64, requires_grad=True)
    value, slope = damped(near)
    (by_autograd,) = torch.autograd.grad(value.sum(), near, retain_graph=True)
    torch.testing.assert_close(slope, by_autograd)
    (second,) = torch.autograd.grad(slope.sum(), near, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), near)
    assert third.diff().abs().max() < 0.1 * third.abs().max()


def test_charges_near_each_other_have_no_coulomb_energy_to_speak_of():
    value, _ = damped(torch.tensor([0.05, 0.1], dtype=torch.float64))
    # f is x² there, so f / d goes to nothing in proportion to the distance.
    torch.testing.assert_close(
        value, torch.tensor([0.05, 0.1], dtype=torch.float64) / COULOMB_ONSET**2, rtol=1e-3, atol=0
    )
