"""Thermochemistry: against ideal-gas formulas, tabulated entropies, and ASE's harmonic gas."""

import numpy as np
import pytest
from ase.build import molecule
from ase.thermochemistry import IdealGasThermo
from ase.units import invcm

from mlff_core.properties.thermo import ThermoSettings, thermochemistry
from mlff_core.properties.vibrations import n_imaginary
from mlff_core.units import BOLTZMANN_EV_K, EV_KCAL_MOL

#: Measured fundamentals in cm⁻¹ (NIST, Shimanouchi), symmetry number, S° in J/mol/K (CODATA, NIST).
GASES = {
    "H2O": ([1595, 3657, 3756], 2, 188.8),
    "CH4": ([1306] * 3 + [1534] * 2 + [2917] + [3019] * 3, 12, 186.3),
    "CO2": ([667, 667, 1333, 2349], 2, 213.8),
    "C6H6": (
        [398] * 2 + [606] * 2 + [673, 703] + [849] * 2 + [975] * 2 + [990, 992, 1010]
        + [1038] * 2 + [1146] + [1178] * 2 + [1310, 1326] + [1486] * 2 + [1596] * 2
        + [3047] * 2 + [3062] + [3063] * 2 + [3068],
        12,
        269.2,
    ),
}  # fmt: skip
BAR = ThermoSettings(pressure_pa=1e5)


@pytest.mark.parametrize("name", GASES)
def test_entropies_are_the_tabulated_ones(name: str) -> None:
    modes, symmetry, measured = GASES[name]
    atoms = molecule(name)
    assert len(modes) == 3 * len(atoms) - (5 if name == "CO2" else 6)
    found = thermochemistry(
        atoms.numbers, atoms.positions, 0.0, np.array(modes, float), BAR, symmetry
    )
    assert found.entropy_ev_k * EV_KCAL_MOL * 4184 == pytest.approx(measured, abs=1.0)
    zero_point = sum(modes) / 2 * invcm
    assert found.zero_point_energy_ev == pytest.approx(zero_point, rel=1e-9)
    assert found.gibbs_energy_ev == pytest.approx(
        found.enthalpy_ev - 298.15 * found.entropy_ev_k, abs=1e-12
    )


def test_without_low_modes_it_is_the_harmonic_gas() -> None:
    atoms, modes = molecule("CH4"), np.array(GASES["CH4"][0], float)
    settings = ThermoSettings(450.0, 2e5)
    theirs = IdealGasThermo(
        list(modes * invcm), "nonlinear", potentialenergy=-7.0, atoms=atoms, symmetrynumber=12,
        spin=0,
    )  # fmt: skip
    found = thermochemistry(atoms.numbers, atoms.positions, -7.0, modes, settings, 12)
    assert found.enthalpy_ev == pytest.approx(theirs.get_enthalpy(450.0, verbose=False), abs=1e-9)
    gibbs = theirs.get_gibbs_energy(450.0, 2e5, verbose=False)
    assert found.gibbs_energy_ev == pytest.approx(gibbs, abs=1e-4)


def test_a_low_mode_counts_as_a_rotor() -> None:
    # Grimme's formula, written out: of 20 cm⁻¹ hardly anything of the oscillator is left.
    atoms = molecule("C2H6")
    stiff = np.full(17, 1500.0)

    def entropy(mode: float) -> float:
        modes = np.append(stiff, mode)
        return thermochemistry(atoms.numbers, atoms.positions, 0.0, modes).entropy_ev_k

    def damped(mode: float) -> float:
        x = mode * invcm / (BOLTZMANN_EV_K * 298.15)
        oscillator = x / np.expm1(x) - np.log(-np.expm1(-x))
        h, c, k = 6.62607015e-34, 2.99792458e10, 1.380649e-23
        mu = h / (8 * np.pi**2 * c * mode)
        average = atoms.get_moments_of_inertia().mean() * 1.66053906892e-47
        mu = mu * average / (mu + average)
        rotor = 0.5 + 0.5 * np.log(8 * np.pi**3 * mu * k * 298.15 / h**2)
        weight = 1 / (1 + (100.0 / mode) ** 4)
        return BOLTZMANN_EV_K * (weight * oscillator + (1 - weight) * rotor)

    for low, high in ((20.0, 1500.0), (100.0, 1500.0)):
        assert entropy(low) - entropy(high) == pytest.approx(damped(low) - damped(high), rel=1e-5)
    assert entropy(-15.0) == entropy(15.0)
    assert np.isfinite(entropy(0.0))


def test_an_atom_has_no_vibrations_and_no_rotations() -> None:
    found = thermochemistry(np.array([18]), np.zeros((1, 3)), -1.0, np.zeros(0), BAR)
    assert found.entropy_ev_k * EV_KCAL_MOL * 4184 == pytest.approx(154.8, abs=0.2)  # argon
    assert found.enthalpy_ev == pytest.approx(-1.0 + 2.5 * BOLTZMANN_EV_K * 298.15, abs=1e-6)
    assert found.zero_point_energy_ev == 0.0


def test_a_saddle_point_has_no_thermochemistry() -> None:
    atoms = molecule("H2O")
    modes = np.array([-300.0, 1600.0, 3700.0])
    assert n_imaginary(modes) == 1
    assert n_imaginary(np.array([-19.0, 20.0])) == 0
    with pytest.raises(ValueError, match="1 imaginary"):
        thermochemistry(atoms.numbers, atoms.positions, 0.0, modes)
