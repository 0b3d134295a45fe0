"""The compiled operators mean what the plain ones mean."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.numba import message, pairs
from mlff_core.ops.numba.atoms import ATOM_OPS
from mlff_core.ops.program import AnalyticEngine
from mlff_core.testing import AutogradEngine, named_batch, random_model, random_molecule


def random_inputs(n_features: int, n_rbf: int) -> tuple:
    """Features, gradients and pairs of a batch of molecules of sizes that are no power of two."""
    generator = torch.Generator().manual_seed(n_features)
    batch = MolBatch.from_arrays(
        [random_molecule(n, n) for n in (1, 2, 13, 5)], dtype=torch.float64
    )
    i, j = neighbor_pairs(batch.positions, batch.ptr, 5.0)
    edges = plain.edge_geometry(batch.positions, i, j, n_rbf, 5.0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n = batch.n_atoms
    return (
        random(n, n_features),
        random(n, 3, n_features),
        random(n, 3 * n_features),
        random(n, 3, n_features),
        edges,
        random(3 * n_features, n_rbf + 1),
    )


@pytest.mark.parametrize(("n_features", "n_rbf"), [(128, 20), (5, 3), (17, 7)])
def test_both_operators_give_what_the_plain_ones_give(n_features: int, n_rbf: int) -> None:
    g_dq, g_dmu, phi, mu, edges, filters = random_inputs(n_features, n_rbf)
    ops = message.MessageOps(5.0)
    for found, expected in zip(
        ops.message_fwd(phi, mu, edges, filters)
        + ops.message_bwd(g_dq, g_dmu, phi, mu, edges, filters),
        plain.message_fwd(phi, mu, edges, filters)
        + plain.message_bwd(g_dq, g_dmu, phi, mu, edges, filters),
        strict=True,
    ):
        scale = expected.abs().max()  # the tables are interpolated, the slope the worse of the two
        torch.testing.assert_close(found, expected, rtol=0, atol=float(2e-5 * scale))


@pytest.mark.parametrize(("n_features", "n_rbf"), [(128, 20), (5, 3)])
def test_without_vectors_the_rest_is_what_the_plain_operators_give(
    n_features: int, n_rbf: int
) -> None:
    g_dq, g_dmu, phi, mu, edges, filters = random_inputs(n_features, n_rbf)
    ops, said = message.MessageOps(5.0), 2 * n_features
    _, _, g_distance, g_unit = plain.message_bwd(
        g_dq, g_dmu, phi, torch.zeros_like(mu), edges, filters
    )
    short = phi[:, :said].contiguous(), edges, filters[:said]
    for found, expected in zip(
        ops.scalar_fwd(*short) + ops.scalar_bwd(g_dq, g_dmu, *short),
        (
            *plain.message_fwd(phi, torch.zeros_like(mu), edges, filters),
            g_distance,
            g_unit,
        ),
        strict=True,
    ):
        scale = expected.abs().max()
        torch.testing.assert_close(found, expected, rtol=0, atol=float(2e-5 * scale))


def test_a_finer_table_is_nearer_by_the_order_of_its_polynomials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    g_dq, g_dmu, phi, mu, edges, filters = random_inputs(17, 20)
    errors = []
    for knot_distance in (0.02, 0.005):
        monkeypatch.setattr(message, "KNOT_DISTANCE", knot_distance)
        ops = message.MessageOps(5.0)
        value = ops.message_fwd(phi, mu, edges, filters)[0]
        slope = ops.message_bwd(g_dq, g_dmu, phi, mu, edges, filters)[2]
        errors.append(
            (
                float((value - plain.message_fwd(phi, mu, edges, filters)[0]).norm()),
                float((slope - plain.message_bwd(g_dq, g_dmu, phi, mu, edges, filters)[2]).norm()),
            )
        )
    (value, slope), (finer_value, finer_slope) = errors
    assert 80 < value / finer_value < 800  # fourth order: 256
    assert 20 < slope / finer_slope < 200  # third: 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_and_their_geometry_are_the_plain_ones(dtype: torch.dtype) -> None:
    batch = named_batch(dtype)
    positions = batch.positions.clone()
    positions[batch.ptr[1]] = torch.nan
    positions[batch.ptr[3] + 1] = positions[batch.ptr[3]]  # two atoms in one place
    positions[batch.ptr[2] + 1] = positions[batch.ptr[2]] + 0.2  # below the first knot
    ops = message.MessageOps(5.0)
    found = ops.find_edges(positions, batch.mol_idx, batch.ptr, 7)
    i, j = neighbor_pairs(positions, batch.ptr, 5.0)
    expected = plain.edge_geometry(positions, i, j, 7, 5.0)
    assert torch.equal(found.i, i)
    assert torch.equal(found.j, j)
    torch.testing.assert_close(found.distance, expected.distance)
    torch.testing.assert_close(found.unit, expected.unit, equal_nan=True)
    below = expected.distance < ops.first_knot
    assert below.any()
    torch.testing.assert_close(found.basis[below], expected.basis[below], equal_nan=True)
    torch.testing.assert_close(found.slope[below], expected.slope[below], equal_nan=True)


def test_overlapping_atoms_and_pairs_at_the_cutoff_mean_the_same() -> None:
    distances = [0.02, 0.3, 0.499999, 0.5, 0.500001, 3.0, 4.999, 4.9999999]
    x = torch.zeros(2 * len(distances), 3, dtype=torch.float64)
    x[1::2, 2] = torch.tensor(distances, dtype=torch.float64)
    i, j = torch.arange(len(x)), torch.arange(len(x)).view(-1, 2).flip(1).flatten()
    edges = plain.edge_geometry(x, i, j, 20, 5.0)
    generator = torch.Generator().manual_seed(0)
    phi, mu, g_dq, g_dmu, filters = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((len(x), 24), (len(x), 3, 8), (len(x), 8), (len(x), 3, 8), (24, 21))
    )
    ops = message.MessageOps(5.0)
    for found, expected in zip(
        ops.message_fwd(phi, mu, edges, filters)
        + ops.message_bwd(g_dq, g_dmu, phi, mu, edges, filters),
        plain.message_fwd(phi, mu, edges, filters)
        + plain.message_bwd(g_dq, g_dmu, phi, mu, edges, filters),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_the_repulsion_and_the_gradient_of_positions_are_the_plain_ones() -> None:
    batch = MolBatch.from_arrays(
        [random_molecule(n, n) for n in (1, 2, 13, 40)], dtype=torch.float64
    )
    i, j = neighbor_pairs(batch.positions, batch.ptr, 5.0)
    edges = plain.edge_geometry(batch.positions, i, j, 3, 5.0)
    generator = torch.Generator().manual_seed(0)
    Z = torch.randint(1, 54, (batch.n_atoms,), generator=generator).double()
    # Some touch, for others it is as good as zero.
    radius = 0.3 + torch.rand(batch.n_atoms, generator=generator, dtype=torch.float64)
    energy, slope = message.MessageOps(5.0).repulsion(edges, Z, radius)
    pair, pair_slope = plain.repulsion_fwd_bwd(edges.distance, Z[i], Z[j], radius[i] + radius[j])
    expected = torch.zeros_like(Z).index_add(0, i, 0.5 * pair)
    torch.testing.assert_close(energy, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, 0.5 * pair_slope, rtol=1e-12, atol=1e-12)
    assert (slope == 0).any()
    assert (slope.abs() > 1e-3).any()
    g_distance, g_unit = torch.randn_like(edges.distance), torch.randn_like(edges.unit)
    torch.testing.assert_close(
        pairs.position_gradient(edges, g_distance, g_unit, batch.n_atoms),
        plain.position_gradient(edges, g_distance, g_unit, batch.n_atoms),
    )


def test_energies_and_forces_are_no_farther_from_float64_than_plain_float32() -> None:
    molecules = [random_molecule(n, n) for n in (1, 2, 40, 7, 100, 33)]
    errors = {}
    exact = None
    for name, dtype, engine in (
        ("exact", torch.float64, AutogradEngine),
        ("plain", torch.float32, AutogradEngine),
        (
            "compiled",
            torch.float32,
            lambda model: AnalyticEngine(model, message.MessageOps(5.0).edge_ops, ATOM_OPS),
        ),
    ):
        model = random_model().to(dtype).requires_grad_(False)
        model.reference_energy.zero_()
        batch = MolBatch.from_arrays(molecules, dtype=torch.float32).to(dtype=dtype)
        energy, forces = engine(model).evaluate(
            batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge
        )
        if exact is None:
            exact = energy, forces
        errors[name] = [
            float((found.double() - true).norm())
            for found, true in zip((energy, forces), exact, strict=True)
        ]
    for compiled, uncompiled in zip(errors["compiled"], errors["plain"], strict=True):
        assert compiled <= 2 * uncompiled + 1e-5


def test_results_repeat_bit_by_bit_also_in_threads_at_once() -> None:
    model = random_model().requires_grad_(False)
    batches = [MolBatch.from_arrays([random_molecule(n, n)] * 2) for n in (30, 8)]
    engine = AnalyticEngine(model, message.MessageOps(5.0).edge_ops, ATOM_OPS)

    def evaluate(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.set_num_threads(1)
        batch = batches[k % 2]
        return engine.evaluate(
            batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge
        )

    n_threads = torch.get_num_threads()
    try:
        expected = evaluate(0), evaluate(1)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(evaluate, range(12)))
    finally:
        torch.set_num_threads(n_threads)
    for k, (energy, forces) in enumerate(found):
        assert torch.equal(energy, expected[k % 2][0])
        assert torch.equal(forces, expected[k % 2][1])


def test_numba_leaves_pytorch_its_number_of_threads() -> None:
    code = """
import torch
torch.set_num_threads(1)
from mlff_core.models.potential import Potential
from mlff_core.testing import random_model
Potential(random_model())
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_NUM_THREADS", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_kernel_with_threads_of_its_own_means_what_the_serial_one_means() -> None:
    model = random_model().requires_grad_(False)
    batch = MolBatch.from_arrays([random_molecule(n, n) for n in (30, 8, 17)])
    arguments = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
    engine = AnalyticEngine(model, message.MessageOps(5.0).edge_ops, ATOM_OPS)
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(engine.evaluate(*arguments))
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-5)


def test_a_molecule_that_is_not_finite_spares_the_others() -> None:
    model = random_model().requires_grad_(False)
    batch = named_batch(torch.float32)
    positions = batch.positions.clone()
    positions[batch.ptr[1]] = torch.nan
    positions[batch.ptr[3] + 1] = positions[batch.ptr[3]]  # two atoms in one place
    engine = AnalyticEngine(model, message.MessageOps(5.0).edge_ops, ATOM_OPS)
    energy, forces = engine.evaluate(
        batch.numbers, positions, batch.mol_idx, batch.ptr, batch.charge
    )
    assert energy.isnan().tolist() == [False, True, False, True, False, False]
    bad = energy.isnan()[batch.mol_idx]
    assert forces[bad].isnan().all()
    assert forces[~bad].isfinite().all()
