"""The benchmark of the embedding finds the crystal's conformer however it lies and is numbered."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks/embedding")
    import recovery

    return recovery


def test_the_ligands_are_chains_and_macrocycles_with_the_stereo_of_their_coordinates(recovery):
    kinds = recovery.crystal_ligands(1000)
    assert {kind: len(own) for kind, own in kinds.items()} == {"ligands": 200, "macrocycles": 30}
    names = [mol.GetProp("_Name") for own in kinds.values() for mol in own]
    assert len(set(names)) == 230
    for mol in kinds["ligands"][:50]:
        # A mirror image of the coordinates is the other hand of each centre.
        mirrored = Chem.Mol(mol)
        mirrored.GetConformer().SetPositions(mol.GetConformer().GetPositions() * [1, 1, -1])
        Chem.AssignStereochemistryFrom3D(mirrored)
        hands = [[atom.GetChiralTag() for atom in own.GetAtoms()] for own in (mol, mirrored)]
        for hand, other in zip(*hands, strict=True):
            assert (hand == other) == (hand == Chem.ChiralType.CHI_UNSPECIFIED)


def test_a_conformer_that_is_turned_and_renumbered_is_the_crystals_own(recovery):
    rng = np.random.default_rng(1)
    for crystal in recovery.crystal_ligands(10)["ligands"]:
        smiles = Chem.MolToSmiles(crystal)
        order = crystal.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
        own = crystal.GetConformer().GetPositions()[list(order)]
        turned = Rotation.random(rng=rng).apply(own) + np.array([5.0, -3.0, 1.0])
        away = turned + rng.normal(0.0, 0.5, turned.shape)
        hydrogens = np.full((3, 3), 99.0)
        same, other = recovery.nearest(
            crystal, smiles, [np.vstack([x, hydrogens]) for x in (turned, away)]
        )
        assert same == pytest.approx(0.0, abs=1e-3)
        assert 0.3 < other < 1.3


def test_the_two_oxygens_of_a_carboxylate_are_the_same(recovery):
    mol = Chem.MolFromSmiles("CCC(=O)[O-]")
    x = np.array([[0, 0, 0.4], [1.5, 0, 0], [2.2, 1.3, 0], [1.6, 2.4, 0.3], [3.4, 1.2, 0]], float)
    crystal = Chem.Mol(mol)
    crystal.AddConformer(Chem.Conformer(5))
    crystal.GetConformer().SetPositions(x)
    (found,) = recovery.nearest(crystal, "CCC(=O)[O-]", [x[[0, 1, 2, 4, 3]]])
    assert found == pytest.approx(0.0, abs=1e-4)
