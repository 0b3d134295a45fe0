"""Water around conformers: numbers, order, and what happens where there is none."""

import sys

import numpy as np
import pytest
from ase.build import molecule as named_molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.properties.water import require_tblite, solvate, solvation_kcal_mol

#: Measured free energies of hydration, kcal/mol: FreeSolv 0.52 (Mobley and Guthrie 2014); the
#: method is off by about 1.5 kcal/mol of neutral molecules.
MEASURED = {"CH3CH2OH": -5.00, "C6H6": -0.90, "CH3CONH2": -9.71, "C2H6": 1.83}


def embedded(smiles: str, n: int = 1) -> tuple[np.ndarray, list[np.ndarray], int]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=1)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, [c.GetPositions() for c in mol.GetConformers()], Chem.GetFormalCharge(mol)


@pytest.mark.parametrize(("name", "measured"), MEASURED.items())
def test_free_energies_of_hydration_are_near_those_measured(name, measured):
    atoms = named_molecule(name)
    found = solvation_kcal_mol(atoms.numbers, atoms.positions, 0)
    assert found == pytest.approx(measured, abs=2.0)


def test_an_ion_has_its_charge_and_does_not_care_where_it_is():
    numbers, [positions], charge = embedded("CC(=O)[O-]")
    turned = positions @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 7
    one, other = (solvation_kcal_mol(numbers, x, charge) for x in (positions, turned))
    assert one == pytest.approx(-72, abs=10)  # about -77, Kelly, Cramer and Truhlar 2006
    assert other == pytest.approx(one, abs=1e-3)


def test_water_gains_more_from_charges_apart_than_from_charges_together():
    numbers, geometries, _ = embedded("[NH3+]CCCCCC(=O)[O-]", 10)
    heavy = np.flatnonzero(numbers > 1)
    apart = [np.linalg.norm(x[heavy[0]] - x[heavy[-1]]) for x in geometries]
    gains = [solvation_kcal_mol(numbers, x, 0) for x in geometries]
    assert np.ptp(apart) > 1
    assert np.corrcoef(apart, gains)[0, 1] < -0.5
    assert np.ptp(gains) > 3


def test_what_takes_too_long_or_is_no_molecule_has_its_reason_and_stops_no_other():
    numbers, [positions], charge = embedded("CCO")
    large, [far], _ = embedded("CCCCCCCCCCCCCCCCCCCCCCCCCCCCCC")
    settings = ChemistrySettings(hard_timeout_s=0.5)
    on_top = np.zeros_like(positions)
    tasks = [
        (k, None, "", *task)
        for k, task in enumerate(
            [(np.tile(large, 4), np.concatenate([far + 40 * k for k in range(4)]), 0),
             (numbers, on_top, charge)]
        )
    ]  # fmt: skip
    with EmbeddingPool(settings, 1) as pool:
        late, impossible = pool.map(tasks, solvate)
    assert "not done after 0.5 s" in late.message
    assert isinstance(impossible, str)
    settings = ChemistrySettings(hard_timeout_s=100)
    with EmbeddingPool(settings, 1) as pool:
        [fine] = pool.map([(0, None, "", numbers, positions, charge)], solvate)
    assert fine == pytest.approx(solvation_kcal_mol(numbers, positions, charge), abs=1e-6)


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(ValueError, match=r'pip install "mlff-screen\[solvent\]"'):
        require_tblite()
