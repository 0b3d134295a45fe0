"""The physics that any weights must obey: random ones, and every shipped checkpoint."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs
from mlff_core.models.painn import (
    PaiNN,
    PaiNNConfig,
    cosine_cutoff,
    radial_basis,
    zbl_repulsion,
)
from mlff_core.models.potential import Potential, load_potential
from mlff_core.ops.plain import SEEN_ALIKE, SEEN_TRULY, seen_distance
from mlff_core.testing import (
    NAMED_MOLECULES,
    drug_like,
    random_model,
    random_molecule,
    random_rotation,
)
from mlff_core.units import COULOMB_EV_ANGSTROM

SHIPPED = sorted(Path(str(resources.files("mlff_core") / "weights")).glob("*.safetensors"))
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def potential_of(weights: str, precision: str) -> Potential:
    if weights == "random":
        return Potential(random_model(3, n_features=64), precision=precision)
    return load_potential(weights, device="cpu", backend="auto", precision=precision)


def all_weights(test):
    names = ["random", *(str(path) for path in SHIPPED)]
    return pytest.mark.parametrize("weights", names, ids=lambda name: Path(name).stem)(test)


def both_precisions(test):
    return pytest.mark.parametrize("precision", ["float32", "float64"])(test)


def molecules(precision: str = "float64") -> list[tuple[np.ndarray, np.ndarray, int]]:
    named = [(np.array(z), np.array(x, dtype=float), q) for z, x, q in NAMED_MOLECULES.values()]
    if precision == "float64":
        return [*named, random_molecule(14, 1), random_molecule(30, 2, charge=2)]
    # No molecule is a cloud of atoms: trained weights may give it forces of thousands of eV/Å, with
    # which the rounding of its coordinates alone is more than the tolerance.
    rng = np.random.default_rng(4)
    return [*named, *((z, x + 0.1 * rng.normal(size=x.shape), q) for z, x, q in drug_like()[:4])]


def evaluated(potential: Potential, moved: list[tuple[np.ndarray, np.ndarray, int]]) -> Outputs:
    return potential(MolBatch.from_arrays(moved, dtype=torch.float64))


def energies(potential: Potential, moved: list[tuple[np.ndarray, np.ndarray, int]]) -> Tensor:
    return evaluated(potential, moved).energy


def same_energy(found: Outputs, expected: Outputs, precision: str) -> None:
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=TOLERANCE[precision])


def same_forces(found: Outputs, expected: Tensor, precision: str) -> None:
    largest = max(1.0, float(expected.abs().max()))
    tolerance = 10 * TOLERANCE[precision] * largest
    torch.testing.assert_close(found.forces.double(), expected, rtol=0, atol=tolerance)


@all_weights
@both_precisions
def test_energy_does_not_depend_on_how_the_molecule_is_turned(weights, precision):
    potential = potential_of(weights, precision)
    expected = evaluated(potential, molecules(precision))
    for seed in range(3):
        rotation = random_rotation(seed).numpy()
        turned = evaluated(potential, [(z, x @ rotation.T, q) for z, x, q in molecules(precision)])
        same_energy(turned, expected, precision)
        same_forces(turned, expected.forces.double() @ torch.from_numpy(rotation.T), precision)


@all_weights
@both_precisions
def test_a_mirror_image_has_the_same_energy_and_mirrored_forces(weights, precision):
    potential = potential_of(weights, precision)
    mirror = np.array([1.0, 1.0, -1.0])
    expected = evaluated(potential, molecules(precision))
    mirrored = evaluated(potential, [(z, x * mirror, q) for z, x, q in molecules(precision)])
    same_energy(mirrored, expected, precision)
    same_forces(mirrored, expected.forces.double() * torch.from_numpy(mirror), precision)


@all_weights
@both_precisions
def test_energy_does_not_depend_on_where_the_molecule_is(weights, precision):
    potential = potential_of(weights, precision)
    expected = evaluated(potential, molecules(precision))
    shift = np.array([3.0, -8.0, 5.0])
    moved = evaluated(potential, [(z, x + shift, q) for z, x, q in molecules(precision)])
    same_energy(moved, expected, precision)
    same_forces(moved, expected.forces.double(), precision)


@all_weights
@both_precisions
def test_the_order_of_the_atoms_does_not_matter(weights, precision):
    potential = potential_of(weights, precision)
    rng = np.random.default_rng(5)
    orders = [rng.permutation(len(z)) for z, _, _ in molecules(precision)]
    mixed = [(z[o], x[o], q) for (z, x, q), o in zip(molecules(precision), orders, strict=True)]
    expected, shuffled = evaluated(potential, molecules(precision)), evaluated(potential, mixed)
    same_energy(shuffled, expected, precision)
    starts = np.cumsum([0, *(len(o) for o in orders)])
    place = np.concatenate([start + o for start, o in zip(starts, orders, strict=False)])
    same_forces(shuffled, expected.forces.double()[place], precision)


@all_weights
def test_energy_does_not_depend_on_the_batch(weights):
    potential = potential_of(weights, "float64")
    together = evaluated(potential, molecules())
    alone = [evaluated(potential, [molecule]) for molecule in molecules()]
    expected = Outputs(
        torch.cat([out.energy for out in alone]), torch.cat([out.forces for out in alone])
    )
    same_energy(together, expected, "float64")
    same_forces(together, expected.forces, "float64")


@all_weights
def test_energy_and_forces_are_continuous_through_the_cutoff(weights):
    potential = potential_of(weights, "float64")
    config = potential.config
    pairs = [(a, b) for a in config.elements for b in config.elements if a <= b]

    def at(distance: float) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, pulls along the pairs, and these beyond what Coulomb's law says of charges."""
        x = [[0.0, 0.0, 0.0], [0.0, 0.0, distance]]
        batch = MolBatch.from_arrays(
            [(pair, x, sum(pair) % 2) for pair in pairs], dtype=torch.float64
        )
        out = potential(batch)
        pull = out.forces.view(-1, 2, 3)[:, 1, 2]
        law = torch.zeros_like(pull)
        if config.coulomb:
            strength = float(potential.model.partial_charges.strength)
            product = out.charges.view(-1, 2).prod(1).double()
            law = strength * COULOMB_EV_ANGSTROM * product / distance**2
        return out.energy, pull, (pull - law).abs().amax()

    (before, pull, _), (after, further, beyond) = (at(config.cutoff + d) for d in (-1e-5, 1e-5))
    # What the energy rises by beyond what the forces say is a jump.
    assert (after - before + 1e-5 * (pull + further)).abs().max() <= 1e-6
    # What the network says goes to zero with the distance to the cutoff, and is nothing beyond it.
    near, nearer = at(config.cutoff - 1e-2)[2], at(config.cutoff - 1e-4)[2]
    assert nearer <= max(2e-2 * float(near), 1e-9)
    assert beyond <= (1e-6 if config.coulomb else 0.0)


@all_weights
def test_an_atom_that_leaves_a_molecule_takes_no_step_in_energy_with_it(weights):
    potential = potential_of(weights, "float64")
    numbers, positions, charge = random_molecule(12, 9)
    numbers = np.append(numbers, 1)
    radius = np.linalg.norm(positions - positions[0], axis=1)
    far = positions[radius.argmax()]
    away = (far - positions[0]) / radius.max()

    # Every neighbour's sphere is crossed somewhere on this way; what the energy rises by beyond
    # what the forces say is a jump.
    distances, h = np.linspace(0.9, 5.1, 60), 1e-6
    pairs = np.stack([distances - h, distances + h], 1).ravel()
    way = [(numbers, np.vstack([positions, far + away * d]), charge) for d in pairs]
    found = evaluated(potential, way)
    rises = found.energy.view(-1, 2).diff(dim=1)[:, 0]
    pulls = found.forces.view(len(way), -1, 3)[:, -1] @ torch.from_numpy(away)
    jumps = rises + 2 * h * pulls.view(-1, 2).mean(1)
    assert jumps.abs().max() <= 1e-7


@all_weights
def test_forces_are_the_slope_of_the_energy(weights):
    potential = potential_of(weights, "float64")
    batch = MolBatch.from_arrays(molecules(), dtype=torch.float64)
    found = potential(batch).forces
    rng = np.random.default_rng(0)
    coordinates = [(int(a), int(rng.integers(3))) for a in rng.choice(batch.n_atoms, 10, False)]
    for atom, axis in coordinates:
        own = batch.select([int(batch.mol_idx[atom])])
        at = atom - int(batch.ptr[batch.mol_idx[atom]])
        z, x, q = own.numbers.numpy(), own.positions.numpy(), int(own.charge)
        moved = []
        for h in (1e-4, -1e-4, 2e-4, -2e-4):
            y = x.copy()
            y[at, axis] += h
            moved.append((z, y, q))
        e = energies(potential, moved)
        # Of fourth order in the step.
        expected = -(8 * (e[0] - e[1]) - (e[2] - e[3])) / 12e-4
        tolerance = 1e-5 * max(1.0, float(found.abs().max()))
        assert abs(found[atom, axis] - expected) <= tolerance


@all_weights
def test_forces_add_up_to_nothing(weights):
    potential = potential_of(weights, "float64")
    batch = MolBatch.from_arrays(molecules(), dtype=torch.float64)
    total = torch.zeros(batch.n_mols, 3, dtype=torch.float64)
    total.index_add_(0, batch.mol_idx, potential(batch).forces)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-8)


@all_weights
def test_charge_is_an_input(weights):
    potential = potential_of(weights, "float64")
    z, x, _ = molecules()[-2]
    neutral, cation = energies(potential, [(z, x, 0), (z, x, 2)])
    assert abs(neutral - cation) > 1e-3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_bond_pushes_back_when_it_is_compressed(path):
    potential = potential_of(str(path), "float64")
    h = 1.09 / 3**0.5
    methane = np.array([[0, 0, 0], [h, h, h], [-h, -h, h], [-h, h, -h], [h, -h, -h]])
    squeezed = []
    for factor in (1.0, 0.9, 0.8, 0.7, 0.6):
        x = methane.copy()
        x[1] *= factor
        squeezed.append((np.array([6, 1, 1, 1, 1]), x, 0))
    energy = energies(potential, squeezed)
    assert (energy.diff() > 0).all()
    assert energy[-1] - energy[0] > 5.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_atoms_pressed_together_lift_the_energy(path):
    """By noise that leaves two atoms nearer than half a bond in some of the molecules."""
    rng = np.random.default_rng(5)
    still = drug_like()
    shaken = [(z, x + 0.15 * rng.normal(size=x.shape), q) for z, x, q in still]
    potential = potential_of(str(path), "float32")
    rise = (energies(potential, shaken) - energies(potential, still)).numpy()
    an_atom = rise / [len(z) for z, _, _ in still]
    assert an_atom.min() > 0.2
    assert an_atom.max() < 5.0


def test_the_network_sees_what_is_there_and_nothing_nearer_than_its_data():
    there = torch.linspace(SEEN_TRULY, 5.0, 500, dtype=torch.float64)
    seen, slope = seen_distance(there)
    assert torch.equal(seen, there)
    assert (slope == 1).all()
    nearer = torch.linspace(0.0, SEEN_ALIKE, 9, dtype=torch.float64)
    seen, slope = seen_distance(nearer)
    torch.testing.assert_close(seen, torch.full_like(nearer, (SEEN_ALIKE + SEEN_TRULY) / 2))
    assert (slope == 0).all()
    between = torch.linspace(0.2, 1.0, 400, dtype=torch.float64, requires_grad=True)
    seen, slope = seen_distance(between)
    assert (seen.diff() >= 0).all()
    (expected,) = torch.autograd.grad(seen.sum(), between, create_graph=True)
    torch.testing.assert_close(slope, expected)
    # No edge at either end: the third derivative of what is seen takes no jump.
    (second,) = torch.autograd.grad(slope.sum(), between, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), between)
    assert third.diff().abs().max() < 0.1 * third.abs().max()


def test_radial_basis_is_that_of_the_paper():
    distance = torch.tensor([0.7, 2.5, 4.999], dtype=torch.float64)
    found = radial_basis(distance, 3, 5.0)
    expected = torch.stack([torch.sin(n * torch.pi * distance / 5.0) / distance for n in (1, 2, 3)])
    torch.testing.assert_close(found, expected.T)


def test_the_cutoff_function_ends_at_zero_with_zero_slope():
    distance = torch.tensor([0.0, 2.5, 5.0], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(distance, 5.0)
    torch.testing.assert_close(value, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), distance)
    assert slope[2].abs() < 1e-12


def test_the_repulsion_is_coulombic_at_contact_and_nothing_beyond_the_covalent_radii():
    d = torch.tensor([1e-4, 1.5, 1.8, 2.25], dtype=torch.float64)
    six, contact = torch.full_like(d, 6.0), torch.full_like(d, 1.5)
    energy = zbl_repulsion(d, six, six, contact)
    assert abs(energy[0] * d[0] / (14.3996 * 36) - 1) < 2e-3
    assert 0.0 < energy[1] < 0.03
    assert 0.0 < energy[2] < 1e-6
    assert 0.0 < energy[3] < 1e-14


def test_the_repulsion_ends_without_an_edge():
    # An edge would be a jump of the third derivative at the sum of the radii.
    contact, step = torch.tensor(1.5, dtype=torch.float64), 0.01
    d = (contact + step * torch.arange(-12, 13)).requires_grad_(True)
    six = torch.full_like(d, 6.0)
    (derivative,) = torch.autograd.grad(
        zbl_repulsion(d, six, six, contact).sum(), d, create_graph=True
    )
    for _ in range(2):
        (derivative,) = torch.autograd.grad(derivative.sum(), d, create_graph=True)
    jumps = derivative.diff().abs()
    assert jumps.max() < 0.2 * derivative.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_features": 0}, "n_features: expected at least 1, found 0"),
        ({"cutoff": 0.0}, "cutoff: expected more than 0"),
        ({"elements": (1, 92)}, "92"),
        ({"min_charge": 2, "max_charge": 1}, "charge range is empty"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PaiNNConfig(**change)


def test_the_default_has_the_size_that_the_design_asks_for():
    n_weights = sum(p.numel() for p in PaiNN(PaiNNConfig()).parameters())
    assert 400_000 <= n_weights <= 600_000
