"""Thermochemistry of a minimum: ideal gas, rigid rotor, vibrations by quasi-RRHO.

Low vibrations are no harmonic ones: their entropy goes over to that of a rotor below `TAU_PER_CM`
(S. Grimme, Chem. Eur. J. 2012, 18, 9955), as `ase.thermochemistry.MSRRHOThermo` has it, whose
methods give the rest as well. Closed shells; the molecule is alone in vacuum.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.thermochemistry import MSRRHOThermo
from numpy.typing import NDArray

from mlff_core.properties.vibrations import LINEAR, n_imaginary

#: Where the entropy of a vibration is half a rotor's, cm⁻¹; Grimme's and GoodVibes' value.
TAU_PER_CM: Final = 100.0
#: A mode without any curvature would have an entropy without bound.
_LOWEST_PER_CM: Final = 1.0


@dataclass(frozen=True)
class ThermoSettings:
    """Under which conditions.

    Attributes:
        temperature_k: K.
        pressure_pa: Pa.
    """

    temperature_k: float = 298.15
    pressure_pa: float = 101_325.0


class Thermochemistry(NamedTuple):
    """What vibrations, rotation and translation add to the energy of a minimum.

    Attributes:
        zero_point_energy_ev: Of the vibrations.
        enthalpy_ev: Energy, zero-point energy, thermal energy and kT.
        entropy_ev_k: eV/K.
        gibbs_energy_ev: Enthalpy - T · entropy.
    """

    zero_point_energy_ev: float
    enthalpy_ev: float
    entropy_ev_k: float
    gibbs_energy_ev: float


def thermochemistry(
    numbers: NDArray[np.integer],
    positions: NDArray[np.floating],
    energy_ev: float,
    wavenumbers: NDArray[np.float64],
    settings: ThermoSettings = ThermoSettings(),
    symmetry_number: int = 1,
) -> Thermochemistry:
    """Enthalpy, entropy and Gibbs energy of a minimum.

    Args:
        numbers: Atomic numbers [n_atoms].
        positions: Å [n_atoms, 3].
        energy_ev: There.
        wavenumbers: Of its vibrations, cm⁻¹, as `vibrations.wavenumbers` gives them.
        settings: Temperature and pressure.
        symmetry_number: Rotations that leave the molecule what it is.

    Raises:
        ValueError: A mode is imaginary beyond rounding: it is no minimum.
    """
    if n_imaginary(wavenumbers):
        raise ValueError(
            f"wavenumbers: expected a minimum, found {n_imaginary(wavenumbers)} imaginary modes"
        )
    atoms = Atoms(np.asarray(numbers, int), np.asarray(positions, float).reshape(-1, 3))
    real = np.maximum(np.abs(wavenumbers), _LOWEST_PER_CM)
    energies = (real * units.invcm).tolist()
    temperature = settings.temperature_k
    # Of one atom there are no modes: their sums are left out, and the others do not need any.
    gas = MSRRHOThermo(energies or [units.invcm], atoms, tau=TAU_PER_CM)
    gas.spin = 0.0
    geometry: Literal["monatomic", "linear", "nonlinear"] = "monatomic"
    if len(atoms) > 1:
        geometry = "nonlinear" if atoms.get_moments_of_inertia().min() > LINEAR else "linear"
    entropy, _ = gas.get_ideal_entropy(
        temperature, translation=True, rotation=True, geometry=geometry, electronic=True,
        pressure=settings.pressure_pa, symmetrynumber=symmetry_number,
    )  # fmt: skip
    enthalpy = (
        energy_ev
        + gas.get_ideal_translational_energy(temperature)
        + gas.get_ideal_rotational_energy(geometry, temperature)
        + units.kB * temperature
    )
    zero_point = 0.0
    if energies:
        entropy += gas.get_entropy(temperature, verbose=False)
        enthalpy += gas.get_internal_energy(temperature, verbose=False)
        zero_point = 0.5 * sum(energies)
    return Thermochemistry(
        zero_point, float(enthalpy), float(entropy), float(enthalpy - temperature * entropy)
    )
