"""Hydrogen-bonded rotamers are among the conformers."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.hydrogen_bonds import HydrogenBonds
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged
from mlff_core.models.potential import load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.units import EV_KCAL_MOL

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

#: Lowest energy in eV of 150 starts with the small model, half of them plain distance geometry, all
#: with each OH turned to a random angle (`benchmarks/embedding/hydrogen_bonds.py`).
LOWEST = {
    "O=C(O)c1ccccc1C(=O)O": -16594.0930,
    "O=C(O)/C=C\\C(=O)O": -12409.8607,
    "O=C(O)CC(=O)O": -11372.9208,
    "O=C(O)c1cccnc1C(=O)O": -17030.8918,
    "O=C(O)c1ccccn1": -11895.9868,
    "NC(=O)c1ccccc1C(=O)O": -16053.1931,
    "CC(=O)c1ccccc1O": -12529.4144,
    "Nc1ccccc1C(=O)O": -12966.9097,
    "Oc1ccccc1O": -10420.8891,
    "COc1ccccc1C(=O)O": -14577.5474,
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


def test_twenty_conformers_relax_to_the_lowest_minimum_of_many_more_starts():
    molecules = [prepare(0, None, s, ChemistrySettings(n_conformers=20)) for s in LOWEST]
    starts = [(molecule.numbers, x, 0) for molecule in molecules for x in molecule.conformers()]
    ended = iter(
        relax_conformers(
            starts, load_potential("small", device="cpu"), RelaxSettings(max_steps=400)
        )
    )
    for molecule, (smiles, energy) in zip(molecules, LOWEST.items(), strict=True):
        own = [next(ended) for _ in molecule.conformers()]
        bonds = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
        kept = [one.energy for one in own if rearranged(one.positions, *bonds) is None]
        above = (min(kept) - energy) * EV_KCAL_MOL
        phthalic = smiles == "O=C(O)c1ccccc1C(=O)O"  # 0.47 above; all others 0.05 at most
        assert -3.0 < above < (0.5 if phthalic else 0.3), smiles


def test_closing_a_hydrogen_bond_turns_bonds_and_changes_nothing_else():
    mol = Chem.AddHs(Chem.MolFromSmiles("OC(=O)c1ccccc1C(=O)O"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=3)
    x = mol.GetConformer().GetPositions()
    bonds = HydrogenBonds(mol)
    pair = next(
        p for p in bonds.pairs() if mol.GetAtomWithIdx(p.acceptor).GetDegree() == 1
        and Chem.GetDistanceMatrix(mol)[p.hydrogen, p.acceptor] == 6
    )  # fmt: skip
    closed = bonds.closed(x, pair)
    assert np.linalg.norm(x[pair.hydrogen] - x[pair.acceptor]) > 3.0
    assert np.linalg.norm(closed[pair.hydrogen] - closed[pair.acceptor]) < 2.4
    near = Chem.GetDistanceMatrix(mol) < 3  # bonds and angles
    before, after = (np.linalg.norm(y[:, None] - y, axis=2) for y in (x, closed))
    assert np.abs(after - before)[near].max() < 1e-9


def test_hydrogen_bonds_come_one_by_one_and_around_from_any_of_them():
    bonds = HydrogenBonds(Chem.AddHs(Chem.MolFromSmiles("OCC(O)CN")))
    first = next(bonds.pairs())
    every = [*bonds.pairs()]
    assert every[0] is first
    assert len(every) > 3
    assert [*bonds.pairs(2)] == [*every[2:], *every[:2]]
    assert [*HydrogenBonds(Chem.AddHs(Chem.MolFromSmiles("CC"))).pairs(1)] == []
