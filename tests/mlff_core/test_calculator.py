import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.test import gradient_test
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.errors import OutOfDomainError
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.testing import random_model, random_molecule


@pytest.fixture(scope="module")
def potential():
    return Potential(random_model(3, n_features=16), precision="float64")


@pytest.fixture
def atoms(potential):
    numbers, positions, _ = random_molecule(6, seed=5)
    return Atoms(numbers, positions, calculator=PaiNNCalculator(potential))


def expected(potential, atoms, charge=0):
    batch = MolBatch.from_arrays([(atoms.numbers, atoms.positions, charge)], dtype=torch.float64)
    out = potential(batch)
    return out.energy.item(), out.forces.numpy()


def test_energy_and_forces_are_those_of_the_potential(potential, atoms):
    energy, forces = expected(potential, atoms)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-9)


def test_forces_are_the_slope_of_the_energy_as_ase_measures_it(atoms):
    analytic, numeric = gradient_test(atoms)
    np.testing.assert_allclose(analytic, numeric, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__(np.linspace(0, 0.1, 18).reshape(6, 3)),
        lambda atoms: atoms.positions.__setitem__((3, 1), atoms.positions[3, 1] + 0.1),
        lambda atoms: atoms.numbers.__setitem__(0, 7),
        lambda atoms: atoms.info.__setitem__("charge", 1),
    ],
)
def test_nothing_stale_is_returned_after_a_change_in_place(potential, atoms, change):
    before = atoms.get_potential_energy(), atoms.get_forces()
    atoms.info.setdefault("charge", 0)
    change(atoms)
    energy, forces = expected(potential, atoms, atoms.info["charge"])
    assert energy != pytest.approx(before[0], abs=1e-6)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-9)


def test_changing_what_was_returned_changes_nothing_inside(atoms):
    forces = atoms.get_forces()
    kept = forces.copy()
    forces += 1.0
    np.testing.assert_array_equal(atoms.get_forces(), kept)


def test_an_unchanged_molecule_is_not_computed_again(atoms):
    atoms.get_forces()
    atoms.calc.potential = None
    atoms.get_potential_energy()


def test_a_batch_gives_each_molecule_its_own_results_in_order(potential):
    systems = [Atoms(*random_molecule(n, seed=5)[:2]) for n in (5, 2, 40, 5, 12, 1)]
    systems[1].info["charge"] = -1
    results = PaiNNCalculator(potential).calculate_batch(systems)
    assert len(results) == 6
    for system, result in zip(systems, results, strict=True):
        energy, forces = expected(potential, system, system.info.get("charge", 0))
        assert set(result) == {"energy", "forces"}
        assert result["energy"] == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(result["forces"], forces, atol=1e-8)


def test_a_batch_gives_only_what_is_asked_for(potential):
    calculator = PaiNNCalculator(potential)
    system = Atoms(*random_molecule(3)[:2])
    assert calculator.calculate_batch([]) == []
    assert set(calculator.calculate_batch([system], properties=["energy"])[0]) == {"energy"}
    with pytest.raises(ValueError, match=r"properties: expected some of energy, .*found 'stress'"):
        calculator.calculate_batch([system], properties=["stress"])


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (Atoms("Au", [[0, 0, 0]]), "element 79 is unknown"),
        (Atoms("H", [[0, 0, 0]], info={"charge": 4}), r"total charge \+4 is unknown"),
        (Atoms("H", [[0, 0, 0]], info={"charge": 0.5}), "expected a whole number, found 0.5"),
        (Atoms("H", [[0, 0, 0]], info={"charge": None}), "expected a whole number, found None"),
        (Atoms("H", [[0, 0, 0]], info={"charge": np.nan}), "expected a whole number, found nan"),
        (Atoms("H", [[0, 0, 0]], info={"charge": "+1"}), r"expected a whole number, found '\+1'"),
        (Atoms("H", [[0, 0, 0]], info={"charge": np.zeros(1)}), r"whole number, found array"),
        (Atoms("H", [[0, 0, 0]], info={"charge": [1]}), r"expected a whole number, found \[1\]"),
        (Atoms("H", [[0, 0, 0]], info={"spin": 2}), r"spin multiplicity.*expected 1, .* found 2"),
        (Atoms("H", [[0, 0, 0]], info={"spin": 0}), r"spin multiplicity.*expected 1, .* found 0"),
        (Atoms("H", [[0, 0, 0]], info={"spin": None}), "spin multiplicity.* found None"),
        (Atoms("H", [[0, 0, 0]], info={"multiplicity": 3}), r"spin multiplicity.* found 3"),
        (Atoms("H", [[0, 0, 0]], pbc=[0, 0, 1], cell=[9, 9, 9]), "molecule 0 is periodic"),
    ],
)
def test_what_the_model_does_not_know_is_refused_by_name(potential, system, message):
    system.calc = PaiNNCalculator(potential)
    with pytest.raises(OutOfDomainError, match=message):
        system.get_potential_energy()
    with pytest.raises(OutOfDomainError, match=message):
        PaiNNCalculator(potential).calculate_batch([system])


@pytest.mark.parametrize("info", [{"charge": None}, {"charge": 0.5}, {"spin": 3}, {"charge": 4}])
def test_a_molecule_that_was_refused_does_not_spoil_the_next(potential, atoms, info):
    expected = atoms.get_potential_energy()
    calculator = PaiNNCalculator(potential)
    refused = atoms.copy()
    refused.info.update(info)
    refused.calc = atoms.calc = calculator
    for _ in range(2):
        with pytest.raises(OutOfDomainError):
            refused.get_potential_energy()
    assert atoms.get_potential_energy() == expected


def test_ases_optimisers_and_dynamics_run_on_it(atoms):
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01
    energy = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.2 * units.fs, logfile=None).run(10)
    assert atoms.get_total_energy() == pytest.approx(energy, abs=1e-3)


def test_vibrations_of_a_minimum_are_real_but_for_the_six_free_motions(
    atoms, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=500)
    vibrations = Vibrations(atoms)
    vibrations.run()
    energies = vibrations.get_energies()
    assert np.abs(energies[:6]).max() < 5e-3
    assert np.abs(energies[6:].imag).max() < 5e-3


def test_a_model_is_loaded_by_its_path(tmp_path):
    network = random_model(3, n_features=16)
    save_checkpoint(network, tmp_path / "tiny.safetensors", {})
    water = molecule("H2O")
    water.calc = PaiNNCalculator(str(tmp_path / "tiny.safetensors"), device="cpu")
    energy, _ = expected(Potential(network, precision="float64"), water)
    assert water.get_potential_energy() == pytest.approx(energy, abs=1e-3)


@pytest.fixture(scope="module")
def small():
    return PaiNNCalculator(model="small", device="cpu")


@pytest.mark.parametrize("name", ["CH3", "NO2", "OH"])
def test_radicals_are_refused_in_words(small, name):
    radical = molecule(name)
    radical.set_initial_magnetic_moments(None)
    radical.calc = small
    with pytest.raises(OutOfDomainError, match=r"has \d+ electrons .* closed shells only"):
        radical.get_potential_energy()
    radical.info["charge"] = 1
    assert np.isfinite(radical.get_potential_energy())


def test_a_spin_multiplicity_of_one_is_what_is_computed(potential, atoms):
    energy = atoms.get_potential_energy()
    atoms.info["spin"] = 1
    assert atoms.get_potential_energy() == energy
    atoms.info["spin"] = 3  # set after the results were kept
    with pytest.raises(OutOfDomainError, match="spin multiplicity"):
        atoms.get_potential_energy()


def test_initial_charges_and_moments_that_are_not_read_are_warned_of(potential):
    ammonium = molecule("NH3")
    ammonium.set_initial_charges([1, 0, 0, 0])
    calculator = PaiNNCalculator(potential)
    with pytest.warns(UserWarning, match=r"initial charges of H3N add up to \+1.00 e"):
        calculator.calculate_batch([ammonium])
    oxygen = molecule("O2")
    with pytest.warns(UserWarning, match="initial magnetic moments of O2 are not read"):
        calculator.calculate_batch([oxygen])
    # What agrees, or was said, is no news.
    ammonium.info["charge"] = 0
    charged = molecule("NH3")
    charged.set_initial_charges([0.3, -0.1, -0.1, -0.1])
    calculator.calculate_batch([ammonium, charged])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_atoms_with_the_calculator_can_be_copied_and_pickled(small, copied):
    water = molecule("H2O")
    water.calc = small
    energy = water.get_potential_energy()
    again = copied(water)
    assert again.calc is not small
    assert again.get_potential_energy() == energy
    again.positions[0, 2] += 0.1
    assert again.get_potential_energy() > energy + 0.01
    assert water.get_potential_energy() == energy


@pytest.mark.parametrize("systems", [molecule("H2O"), ["CCO"]])
def test_systems_of_another_kind_are_told_in_words(potential, systems):
    with pytest.raises(TypeError, match=r"expected a list of Atoms|expected Atoms, found str"):
        PaiNNCalculator(potential).calculate_batch(systems)


@pytest.fixture(scope="module")
def charged() -> PaiNNCalculator:
    config = PaiNNConfig(n_features=16, charges_after=2, charge_feedback=True, coulomb=True)
    return PaiNNCalculator(Potential(random_model(3, config)))


def test_a_model_with_charges_gives_them_and_their_dipole(charged):
    water = molecule("H2O")
    water.calc = charged
    charges, dipole = water.get_charges(), water.get_dipole_moment()
    assert charges.sum() == pytest.approx(0.0, abs=1e-6)
    assert np.abs(charges).max() > 0.01
    # Of a neutral molecule the dipole is the same about any point.
    np.testing.assert_allclose(dipole, charges @ (water.positions + 7.0), atol=1e-5)
    assert np.linalg.norm(dipole) > 1e-3
    hydroxide = molecule("OH")
    hydroxide.set_initial_magnetic_moments()
    hydroxide.info["charge"] = -1
    (found,) = charged.calculate_batch([hydroxide], ["charges", "dipole"])
    assert found["charges"].sum() == pytest.approx(-1.0, abs=1e-6)
    arms = hydroxide.positions - hydroxide.get_center_of_mass()
    np.testing.assert_allclose(found["dipole"], found["charges"] @ arms, atol=1e-9)


def test_a_model_without_charges_says_so(potential):
    water = molecule("H2O")
    water.calc = PaiNNCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="has no partial charges"):
        water.get_charges()
    with pytest.raises(PropertyNotImplementedError, match=r"dipole: model .* has no partial"):
        water.get_dipole_moment()
    with pytest.raises(ValueError, match="expected some of energy, free_energy, forces, found"):
        water.calc.calculate_batch([water], ["charges"])
