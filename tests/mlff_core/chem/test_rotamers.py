"""Hydrogen-bonded rotamers are among the conformers."""

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged

#: Hydrogen bonds, as hydrogen and acceptor of a SMARTS.
INTRAMOLECULAR = {
    "O=C(O)c1ccccc1O": "[H]Oc1ccccc1C(~O)~O",
    "NC(=O)c1ccccc1O": "[H]Oc1ccccc1C=O",
    "O=[N+]([O-])c1ccccc1O": "[H]Oc1ccccc1N~O",
    "O=C/C=C\\O": "[H]OC=CC=O",
    "CC(=O)/C=C(/C)O": "[H]OC(C)=CC=O",
    "OCC(=O)O": "[H]OCC=O",
    "OCCO": "[H]OCCO",
    "NCCO": "[H]OCCN",
    "OC(=O)/C=C\\C(=O)O": "[H]OC(=O)C=CC=O",
    "OC(=O)C(=O)O": "[H]OC(=O)C=O",
    "SCCO": "[H]OCCS",
    "O/N=C/c1ccccc1O": "[H]Oc1ccccc1C=N",
    "Oc1ccccc1O": "[H]Oc1ccccc1O",
}


@pytest.mark.parametrize("smiles", INTRAMOLECULAR)
def test_twenty_conformers_hold_one_with_and_one_without_the_hydrogen_bond(smiles):
    molecule = prepare(0, None, smiles, ChemistrySettings(n_conformers=20))
    assert molecule.status == "ok"
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    pattern = Chem.MolFromSmarts(INTRAMOLECULAR[smiles].replace("[H]", "[#1]"))
    pairs = [(match[0], match[-1]) for match in mol.GetSubstructMatches(pattern, uniquify=False)]
    assert pairs
    nearest = [
        min(float(np.linalg.norm(x[h] - x[a])) for h, a in pairs) for x in molecule.positions
    ]
    assert min(nearest) < (2.7 if "S" in smiles else 2.4)
    assert max(nearest) > 2.9
    # A turned hydrogen hits nothing.
    arrays = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    assert [rearranged(x, *arrays) for x in molecule.positions] == [None] * len(nearest)
    assert 2 <= len(nearest) <= 20


def test_one_conformer_is_not_turned():
    one, many = (
        prepare(0, None, "OCC(=O)O", ChemistrySettings(n_conformers=n)).positions for n in (1, 20)
    )
    assert np.array_equal(one[0], many[0])
