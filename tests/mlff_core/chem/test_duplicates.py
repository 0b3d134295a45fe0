"""Which conformers are the same, before a relaxation and after it."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign, rdMolTransforms

from mlff_core.chem.duplicates import distinct, duplicates_of, sites, tolerances


def embedded(smiles: str, n_conformers: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n_conformers, randomSeed=7)
    return mol


def arrays(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers, bonds and positions [n_conformers, n_atoms, 3]."""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol)))
    return numbers, bonds, np.array([c.GetPositions() for c in mol.GetConformers()])


def rotated(x: np.ndarray, seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return x @ (q * np.sign(np.linalg.det(q))) + [3.0, -1.0, 2.0]


def turned(mol: Chem.Mol, torsion: tuple[int, int, int, int], degrees: float) -> np.ndarray:
    other = Chem.Mol(mol)
    rdMolTransforms.SetDihedralDeg(other.GetConformer(), *torsion, degrees)
    return other.GetConformer().GetPositions()


@pytest.mark.parametrize(
    ("smiles", "n_sites", "n_symmetries"),
    [
        ("CCO", 4, 1),
        ("c1ccccc1", 6, 12),
        ("CC(C)(C)C", 5, 24),
        ("CC(=O)[O-]", 4, 2),
        ("CC(=O)O", 5, 1),
        ("NC(N)=[NH2+]", 10, 48),
        ("C=CC", 3, 1),
        ("F[P-](F)(F)(F)(F)F", 7, 720),
        ("[H][H]", 2, 2),
        ("C", 1, 1),
        ("CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1", 18, None),
    ],
)
def test_sites_are_heavy_atoms_and_polar_hydrogens_with_their_symmetries(
    smiles, n_sites, n_symmetries
):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    found = sites(numbers, np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))))
    assert len(found.atoms) == n_sites
    if n_symmetries is None:  # 1296: bounded
        assert len(found.symmetries) <= 1001
    else:
        assert len(found.symmetries) == n_symmetries
    identity = np.arange(n_sites)
    assert (found.symmetries == identity).all(1).any()


def test_heavy_atoms_are_compared_as_rdkit_does():
    mol = embedded("CCCCCC", 12)
    numbers, bonds, x = arrays(mol)
    bare = Chem.RemoveHs(mol)
    threshold = 0.4
    kept = []
    for k in range(len(x)):
        near = [rdMolAlign.GetBestRMS(Chem.Mol(bare), bare, k, other) < threshold for other in kept]
        if not any(near):
            kept.append(k)
    assert 1 < len(kept) < len(x)
    assert distinct(x, sites(numbers, bonds), threshold) == kept


def test_a_rotamer_of_a_hydroxyl_group_is_another_conformer_however_large_the_molecule():
    mol = embedded("Oc1ccccc1CCCCCCCCCCCCCCCCCCCCCCCCCCCCCC")
    numbers, bonds, _ = arrays(mol)
    hydrogen = next(n.GetIdx() for n in mol.GetAtomWithIdx(0).GetNeighbors() if n.GetIdx() != 1)
    torsion = (2, 1, 0, hydrogen)
    both = np.stack([turned(mol, torsion, 0.0), turned(mol, torsion, 180.0)])
    # Of 38 sites one has moved by 1.6 Å: as an RMSD that is 0.27 Å.
    assert distinct(both, sites(numbers, bonds), 0.3) == [0, 1]
    assert distinct(both[[0, 0]], sites(numbers, bonds), 0.3) == [0]


def test_exchanged_equal_atoms_and_another_orientation_are_no_difference():
    mol = embedded("NC(=O)c1ccc(O)cc1")
    numbers, bonds, x = arrays(mol)
    these = sites(numbers, bonds)
    exchanged = these.symmetries[-1]
    other = x[0].copy()
    other[these.atoms] = x[0][these.atoms[exchanged]]
    for k, geometry in enumerate((rotated(x[0], 1), rotated(other, 2))):
        assert distinct(np.stack([x[0], geometry]), these, 0.05) == [0], k


def test_mirror_images_are_different():
    mol = embedded("CCCC", 1)
    numbers, bonds, _ = arrays(mol)
    torsion = (0, 1, 2, 3)
    gauche = turned(mol, torsion, 60.0)
    mirror = gauche * [1, 1, -1]
    assert distinct(np.stack([gauche, mirror]), sites(numbers, bonds), 0.1) == [0, 1]


def test_geometries_that_are_no_numbers_are_like_nothing():
    mol = embedded("CCO")
    numbers, bonds, x = arrays(mol)
    three = np.stack([x[0], np.full_like(x[0], np.nan), x[0]])
    assert distinct(three, sites(numbers, bonds), 0.3) == [0, 1]


def test_after_a_relaxation_the_lowest_of_the_same_is_the_new_one():
    mol = embedded("OCCO", 1)
    numbers, bonds, _ = arrays(mol)
    anti, gauche = (turned(mol, (0, 1, 2, 3), a) for a in (180.0, 60.0))
    rng = np.random.default_rng(5)
    near = rotated(anti + rng.normal(scale=0.02, size=anti.shape), 8)
    x = np.stack([gauche, near, anti, rotated(gauche, 9), near])
    energies = [3.0, 0.02, 0.0, 3.05, 7.0]
    these = sites(numbers, bonds)
    # The last one is like the third but 7 kcal/mol above: no duplicate, something else is wrong.
    assert duplicates_of(x, energies, these, fmax=0.05) == [None, 2, None, 0, None]


def test_tolerances_follow_the_forces_that_are_left():
    assert tolerances(0.05) == pytest.approx((0.25, 1.0))
    assert tolerances(0.01) == pytest.approx((0.125, 0.1))
    assert tolerances(0.5) == pytest.approx((0.25, 1.0))
    assert tolerances(0.0) == tolerances(1e-4) == pytest.approx((0.125, 0.1))
    rmsd, energy = tolerances(0.02)
    assert 0.125 < rmsd < 0.25
    assert 0.1 < energy < 1.0
