"""Units and physical constants. Inside: Å, eV, eV/Å, amu; everything else is converted at the door.

Values are CODATA 2018; those of `ase.units` (CODATA 2014) agree to 1e-7 relative.
"""

import math
from typing import Final

HARTREE_EV: Final = 27.211386245988
BOHR_ANGSTROM: Final = 0.529177210903
#: 1 eV a particle in kcal/mol (thermochemical calorie).
EV_KCAL_MOL: Final = 23.060547830619026
#: Boltzmann's constant in eV/K.
BOLTZMANN_EV_K: Final = 8.617333262e-5
#: Coulomb's constant e²/(4πε₀) in eV·Å.
COULOMB_EV_ANGSTROM: Final = 14.399645478425668
#: A dipole moment of 1 e·Å in debye.
E_ANGSTROM_DEBYE: Final = 4.803204712570263
#: The time unit of Å, eV and amu, in femtoseconds: sqrt(amu·Å²/eV).
TIME_FS: Final = 10.180505710774743
#: Wavenumber in cm⁻¹ of a vibration whose force constant over mass is 1 eV/Å²/amu:
#: 1 / (2π c · time unit), with c in cm/fs.
WAVENUMBER_PER_CM: Final = 1.0 / (2.0 * math.pi * 2.99792458e-5 * TIME_FS)
#: Temperature at which Boltzmann weights are given, in K.
ROOM_TEMPERATURE_K: Final = 298.15
