"""A model with partial charges obeys the physics that every model obeys, and its charges too."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.distill.growth import grown
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.potential import Potential, load_potential
from mlff_core.models.reference import find_model
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import AnalyticEngine, energy_forces_and_charges
from mlff_core.testing import (
    NAMED_MOLECULES,
    AutogradEngine,
    random_model,
    random_molecule,
    random_rotation,
    without_charges,
)

#: What charges may do, alone and together, after the first block and after the last.
WAYS = [
    replace(PaiNNConfig(n_features=32), charges_after=k, charge_feedback=feedback, coulomb=coulomb)
    for k, feedback, coulomb in [(2, False, False), (2, True, False), (3, False, True),
                                 (1, True, True), (2, True, True)]
]  # fmt: skip
EVERY_WAY = pytest.mark.parametrize(
    "config",
    WAYS,
    ids=lambda c: f"after {c.charges_after}, feedback {c.charge_feedback}, Coulomb {c.coulomb}",
)
ALL = WAYS[-1]
MOLECULES = [*NAMED_MOLECULES.values(), random_molecule(30, 2, charge=2), random_molecule(14, 1)]


def potential_of(config: PaiNNConfig, precision: str = "float64") -> Potential:
    return Potential(random_model(3, config), backend="plain", precision=precision)


def batch_of(molecules, dtype: torch.dtype = torch.float64) -> MolBatch:
    return MolBatch.from_arrays(molecules, dtype=dtype)


def arguments(batch: MolBatch):
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


@EVERY_WAY
def test_one_pass_gives_what_autograd_gives(config):
    model = random_model(3, config).double().requires_grad_(False)
    batch = batch_of(MOLECULES)
    energy, forces, _ = AnalyticEngine(model).evaluate(*arguments(batch))
    expected_energy, expected_forces = AutogradEngine(model).evaluate(*arguments(batch))
    torch.testing.assert_close(energy, expected_energy, rtol=1e-15, atol=1e-11)
    largest = float(expected_forces.abs().max())
    torch.testing.assert_close(forces, expected_forces, rtol=0, atol=1e-10 + 1e-12 * largest)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_charges_add_up_to_the_total_charge(precision):
    batch = batch_of(MOLECULES)
    charges = potential_of(ALL, precision)(batch).charges
    total = torch.zeros(batch.n_mols, dtype=torch.float64)
    total.index_add_(0, batch.mol_idx, charges.double())
    torch.testing.assert_close(total, batch.charge.double(), rtol=0, atol=1e-6)
    assert charges.std() > 0.05


@EVERY_WAY
def test_charges_and_energies_do_not_depend_on_place_or_order(config):
    potential = potential_of(config)
    expected = potential(batch_of(MOLECULES))
    rotation, rng = random_rotation(1).numpy(), np.random.default_rng(1)
    orders = [rng.permutation(len(z)) for z, _, _ in MOLECULES]
    moved = [
        (np.array(z)[order], (np.array(x, float) @ rotation.T + [3.0, -7.0, 1.0])[order], q)
        for (z, x, q), order in zip(MOLECULES, orders, strict=True)
    ]
    batch = batch_of(moved)
    found = potential(batch)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    back = torch.cat([a + torch.from_numpy(np.argsort(order)) for a, order in
                      zip(batch.ptr[:-1], orders, strict=True)])  # fmt: skip
    torch.testing.assert_close(found.charges[back], expected.charges, rtol=0, atol=1e-9)
    turned = expected.forces @ torch.from_numpy(rotation.T)
    torch.testing.assert_close(found.forces[back], turned, rtol=0, atol=1e-8)


@EVERY_WAY
def test_forces_are_the_slope_of_the_energy(config):
    potential = potential_of(config)
    batch = batch_of(MOLECULES[2:])
    forces, step = potential(batch).forces, 1e-4
    for atom, axis in [(1, 2), (4, 0), (9, 1), (20, 2)]:
        e = []
        for k in (1, -1, 2, -2):
            x = batch.positions.clone()
            x[atom, axis] += k * step
            e.append(float(potential(batch.with_positions(x)).energy.sum()))
        slope = (8 * (e[0] - e[1]) - (e[2] - e[3])) / (12 * step)
        assert abs(forces[atom, axis] + slope) <= 1e-6 * max(1.0, float(forces.abs().max()))


def test_charges_of_atoms_that_no_message_reaches_still_add_up_and_feel_each_other():
    """Two fluorides 7.5 Å apart: only the equilibration and the Coulomb energy join them."""
    potential = potential_of(ALL)
    out = potential(batch_of([NAMED_MOLECULES["two fluorides beyond the cutoff"]]))
    torch.testing.assert_close(
        out.charges, torch.full((2,), -1.0, dtype=torch.float64), rtol=0, atol=1e-12
    )
    strength = float(potential.model.partial_charges.strength)
    # Coulomb's law: like charges of one, 7.5 Å apart.
    expected = strength * 14.399645478425668 / 7.5**2
    torch.testing.assert_close(
        out.forces[:, 2], torch.tensor([-expected, expected], dtype=torch.float64)
    )


def test_energy_forces_and_charges_are_smooth_through_the_cutoff():
    potential = potential_of(ALL)
    numbers = [6, 8, 1, 7]
    x = np.array([[0.0, 0, 0], [1.3, 0, 0], [-0.7, 0.8, 0], [0.0, 0.0, 0.0]])

    def at(d: float):
        # The nitrogen is at a distance from the carbon, and farther from the others.
        moved = x.copy()
        moved[3] = [0.0, -d, 0.0]
        return potential(batch_of([(numbers, moved, 0)]))

    inside, outside = at(5.0 - 1e-7), at(5.0 + 1e-7)
    assert abs(float(inside.energy - outside.energy)) < 1e-6
    assert (inside.charges - outside.charges).abs().max() < 1e-6
    assert (inside.forces - outside.forces).abs().max() < 1e-5
    assert (at(4.0).charges - outside.charges).abs().max() > 1e-3


def test_a_molecule_does_not_hear_of_the_others_in_its_batch():
    potential = potential_of(ALL, "float32")
    together = potential(batch_of(MOLECULES))
    alone = [potential(batch_of([m])) for m in MOLECULES]
    for name in ("energy", "forces", "charges"):
        joined = torch.cat([getattr(out, name) for out in alone])
        torch.testing.assert_close(getattr(together, name), joined, rtol=1e-6, atol=2e-5)


def test_compiled_operators_compute_what_plain_ones_do():
    model, batch = random_model(3, ALL), batch_of(MOLECULES, torch.float32)
    found, expected = (Potential(model, backend=backend)(batch) for backend in ("numba", "plain"))
    torch.testing.assert_close(found.charges, expected.charges, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=5e-5)
    largest = float(expected.forces.abs().max())
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=2e-5 * largest)


def test_a_coordinate_that_is_no_number_poisons_its_molecule_alone():
    potential = potential_of(ALL)
    batch = batch_of(MOLECULES)
    good = potential(batch)
    x = batch.positions.clone()
    x[batch.ptr[4] + 1, 1] = torch.nan
    bad = potential(batch.with_positions(x))
    inside = batch.mol_idx == 4
    assert bad.charges[inside].isnan().all()
    assert bad.forces[inside].isnan().all()
    torch.testing.assert_close(bad.charges[~inside], good.charges[~inside], rtol=0, atol=1e-12)
    torch.testing.assert_close(bad.forces[~inside], good.forces[~inside], rtol=0, atol=1e-11)
    assert bad.energy.isnan().nonzero().flatten().tolist() == [4]


def test_weight_gradients_of_a_loss_are_those_of_double_backward():
    config = replace(ALL, n_features=8)
    model = random_model(5, config).double()
    numbers, positions, mol_idx, ptr, charge = arguments(batch_of(MOLECULES[2:5]))
    i, j = neighbor_pairs(positions, ptr, config.cutoff)
    weights = list(model.parameters())
    x = positions.clone().requires_grad_(True)
    energy = model(numbers, x, mol_idx, charge, i, j)
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)

    def loss(energy, forces):
        return 0.01 * energy.sum() + forces.square().sum()

    expected = torch.autograd.grad(loss(energy, -gradient), weights)
    found = energy_forces_and_charges(model, numbers, positions, mol_idx, charge, i, j)
    for a, b in zip(
        torch.autograd.grad(loss(*found[:2]), weights, retain_graph=True), expected, strict=True
    ):
        scale = b.abs().max().clamp(min=1.0)
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-10)
    # A loss on the charges alone teaches what comes before them.
    reached = torch.autograd.grad(found.charges.square().sum(), weights, allow_unused=True)
    named = dict(zip((name for name, _ in model.named_parameters()), reached, strict=True))
    assert named["partial_charges.network.2.weight"].abs().max() > 0
    assert named["message.0.filter.weight"].abs().max() > 0
    assert named["readout.0.weight"] is None


def test_a_model_that_gets_charges_computes_bit_by_bit_what_it_did(tmp_path):
    network = without_charges(read_checkpoint(find_model("default"))[0])
    file = tmp_path / "before.safetensors"
    save_checkpoint(network, file, {})
    # As cards were before there were charges.
    card = json.loads(file.with_suffix(".json").read_text())
    for name in ("charges_after", "charge_feedback", "coulomb"):
        del card["config"][name]
    file.with_suffix(".json").write_text(json.dumps(card))
    config = replace(network.config, charges_after=2, charge_feedback=True, coulomb=True)
    with_charges = Potential(grown(network, config), backend="plain")
    without = load_potential(file, device="cpu", backend="plain", precision="float32")
    batch = batch_of([m for m in MOLECULES if m[2] <= 1], torch.float32)
    found, expected = with_charges(batch), without(batch)
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)
    assert expected.charges is None
    assert found.charges.isfinite().all()


def test_a_model_with_charges_comes_back_from_its_file(tmp_path):
    model = random_model(3, ALL)
    save_checkpoint(model, tmp_path / "charged.safetensors", {})
    loaded = load_potential(tmp_path / "charged.safetensors", device="cpu", backend="plain")
    assert loaded.config.charges_after == 2
    batch = batch_of(MOLECULES, torch.float32)
    expected = Potential(model, backend="plain")(batch)
    assert torch.equal(loaded(batch).charges, expected.charges)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charges_after": 4}, "charges_after: expected 0 to 3, found 4"),
        ({"charges_after": -1}, "charges_after: expected 0 to 3, found -1"),
        ({"charge_feedback": True}, "expected charges_after of at least 1"),
        ({"coulomb": True}, "expected charges_after of at least 1"),
    ],
)
def test_charges_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PaiNN(PaiNNConfig(**change))


def test_pairs_of_charges_are_all_pairs_of_a_molecule():
    """Beyond the reach of all messages, each pair's energy is Coulomb's law."""
    model = random_model(3, replace(ALL, charge_feedback=False)).double()
    x = np.array([[0.0, 0, 0], [40.0, 0, 0], [0, 40.0, 0]])
    out = Potential(model, backend="plain", precision="float64")(batch_of([([9, 9, 17], x, -3)]))
    strength, c = float(model.partial_charges.strength), out.charges.numpy()
    silent = random_model(3, replace(ALL, charge_feedback=False)).double()
    silent.partial_charges.strength.data.zero_()
    rest = Potential(silent, backend="plain", precision="float64")(batch_of([([9, 9, 17], x, -3)]))
    expected = sum(
        strength * 14.399645478425668 * c[a] * c[b] / np.linalg.norm(x[a] - x[b])
        for a, b in itertools.combinations(range(3), 2)
    )
    assert float(out.energy - rest.energy) == pytest.approx(expected, rel=1e-9)
