"""Each check finds what it is for, in RDKit's own geometries spoiled by hand."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.constraints import embedding_constraints
from mlff_core.embedding.checks import Cause, causes
from mlff_core.embedding.packing import pack
from tests.mlff_core.embedding.molecules import molecule

GOOD = [
    "C[C@H](N)F", "C/C=C\\F", "c1ccccc1C(=O)NC", "CC#N", "O=S(=O)(C)F", "C1CC2CCC1C2",
    "C12C3C4C1C5C2C3C45", "C[N+](C)(C)C", "OP(=O)(O)OC", "C1CN2CCC1CC2",
]  # fmt: skip


def geometry(smiles):
    mol = molecule(smiles)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=5) == 0
    return mol, mol.GetConformer().GetPositions()


def judge(mol, positions):
    packed = pack([embedding_constraints(mol)], "cpu")
    x = torch.zeros(1, 3, packed.size)
    x[0, :, : len(positions)] = torch.tensor(positions.T, dtype=torch.float32)
    return Cause(int(causes(x, packed, torch.zeros(1, dtype=torch.int64))[0]))


@pytest.mark.parametrize("smiles", GOOD)
def test_geometries_of_rdkit_pass(smiles):
    assert judge(*geometry(smiles)) is Cause.NONE


def test_a_mirror_image_has_the_wrong_chirality():
    mol, x = geometry("C[C@H](N)F")
    assert judge(mol, x * [1, 1, -1]) is Cause.CHIRALITY


def test_the_other_isomer_has_a_double_bond_on_the_wrong_side():
    mol, _ = geometry("C/C=C\\F")
    other, x = geometry("C/C=C/F")
    assert judge(mol, x) is Cause.DOUBLE_BOND
    assert judge(other, x) is Cause.NONE


def test_coordinates_that_are_not_numbers_are_found():
    mol, x = geometry("CC#N")
    x[3, 1] = np.nan
    assert judge(mol, x) is Cause.NOT_FINITE


def test_a_stretched_bond_and_a_collapsed_chain_are_out_of_bounds():
    mol, x = geometry("CCCCCC")
    stretched = x.copy()
    stretched[6] += 0.4 * (stretched[6] - stretched[0])
    assert judge(mol, stretched) is Cause.NEAR_DISTANCES
    _, other = geometry("CCCCCC")
    far = {k: v for k, v in enumerate(other)}
    far[19] = far[6] + [0.0, 0.0, 0.3]
    moved = np.array([far[k] for k in range(len(other))])
    assert judge(mol, moved) in (Cause.NEAR_DISTANCES, Cause.FAR_DISTANCES)


def test_a_bent_flat_group_is_found():
    mol, x = geometry("O=C(C)C")
    packed = embedding_constraints(mol)
    assert len(packed.planar) == 1
    centre, *around = packed.planar[0].tolist()
    normal = np.cross(x[around[1]] - x[around[0]], x[around[2]] - x[around[0]])
    x[centre] += 0.5 * normal / np.linalg.norm(normal)
    assert judge(mol, x) in (Cause.PLANARITY, Cause.NEAR_DISTANCES)


def test_a_bond_through_a_ring_is_found():
    ring, hexane = Chem.MolFromSmiles("c1ccccc1"), Chem.MolFromSmiles("CC")
    mol = Chem.CombineMols(ring, hexane)
    angle = np.arange(6) * np.pi / 3
    flat = np.stack([1.4 * np.cos(angle), 1.4 * np.sin(angle), 0 * angle], 1)
    for height, cause in ((0.0, Cause.THROUGH_RING), (3.0, Cause.NONE)):
        x = np.concatenate([flat, [[0.1, 0.2, height - 0.7], [0.0, 0.1, height + 0.7]]])
        assert through_ring(mol, x) is cause


def through_ring(mol, positions):
    """The verdict without any bounds: there are none for molecules that do not hang together."""
    from dataclasses import replace

    Chem.SanitizeMol(mol)
    constraints = embedding_constraints(molecule("CC"))  # eight atoms
    free = np.triu(np.full((8, 8), 20.0, np.float32), 1)
    none = {
        name: getattr(constraints, name)[:0]
        for name in ("angles", "linear", "bent", "planar", "planar_stiff", "tetrahedral",
                     "tetrahedral_volumes", "torsions", "torsion_heights", "torsion_signs")
    }  # fmt: skip
    pairs = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()]
    constraints = replace(
        constraints,
        bounds=free,
        bonds=np.array(pairs, np.int16),
        rings=np.array([[0, 1, 2, 3, 4, 5, -1, -1]], np.int16),
        **none,
    )
    packed = pack([constraints], "cpu")
    x = torch.zeros(1, 3, packed.size)
    x[0, :, :8] = torch.tensor(positions.T, dtype=torch.float32)
    return Cause(int(causes(x, packed, torch.zeros(1, dtype=torch.int64))[0]))
