"""Elements: one table each, with the values of an independent one."""

import ase.data
import pytest
from rdkit import Chem

from mlff_core.elements import COVALENT_RADII, KNOWN_ELEMENTS, MASSES, SYMBOLS, symbols


def test_symbols_are_those_of_the_periodic_table():
    table = Chem.GetPeriodicTable()
    assert len(SYMBOLS) == 119
    assert list(SYMBOLS[1:]) == [table.GetElementSymbol(number) for number in range(1, 119)]
    assert symbols([6, 17, 0]) == "C Cl *"


def test_radii_and_masses_of_every_known_element_are_those_of_ase():
    assert set(KNOWN_ELEMENTS) == set(COVALENT_RADII) == set(MASSES)
    assert symbols(KNOWN_ELEMENTS) == "H B C N O F Si P S Cl As Se Br I"
    for number in KNOWN_ELEMENTS:
        assert COVALENT_RADII[number] == pytest.approx(ase.data.covalent_radii[number])
        assert MASSES[number] == pytest.approx(ase.data.atomic_masses[number], abs=2e-3)
