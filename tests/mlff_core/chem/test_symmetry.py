"""Symmetry numbers are those of the point groups."""

import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from mlff_core.chem.symmetry import symmetry_number
from mlff_core.elements import COVALENT_RADII

POINT_GROUPS = {
    "H2O": 2, "NH3": 3, "CH4": 12, "C2H6": 6, "C2H4": 4, "C6H6": 12, "CO2": 2, "C2H2": 2, "HCN": 1,
    "C3H4_D2d": 4, "isobutane": 3, "trans-butane": 2, "CH3CH2OH": 1, "H2": 2, "CH3Cl": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", POINT_GROUPS)
def test_small_molecules(name: str) -> None:
    atoms = molecule(name)
    radii = np.array([COVALENT_RADII[z] for z in atoms.numbers])
    near = atoms.get_all_distances() < 1.2 * (radii[:, None] + radii)
    bonds = np.argwhere(np.triu(near, 1))
    turned = atoms.copy()
    turned.rotate(33, (1, 2, 3))
    noise = np.random.default_rng(0).normal(scale=0.01, size=(len(atoms), 3))
    found = symmetry_number(atoms.numbers, turned.positions + noise, bonds)
    assert found == POINT_GROUPS[name]


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C1CCCCC1", 6),  # chair, D3d
        ("CC(C)(C)C", 12),  # Td
        ("c1ccc2ccccc2c1", 4),
        ("CC(=O)Nc1ccc(O)cc1", 1),
        ("C[C@H](O)C(=O)O", 1),
    ],
)
def test_conformers(smiles: str, expected: int) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=2)
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol)))
    assert symmetry_number(numbers, mol.GetConformer().GetPositions(), bonds) == expected


def test_one_atom_has_one() -> None:
    assert symmetry_number(np.array([10]), np.zeros((1, 3)), np.zeros((0, 2), int)) == 1
