"""Constraints of distance geometry, against RDKit's arrays and against RDKit's conformers."""

import pickle
from dataclasses import fields

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem import constraints as module
from mlff_core.chem.constraints import (
    ContradictingBoundsError,
    EmbeddingConstraints,
    distance_bounds,
    embedding_constraints,
)
from mlff_core.chem.graph import Graph
from mlff_core.chem.torsions import etkdg_parameters

STEREO = [
    "C[C@H](F)Cl",
    "C[C@@H](F)Cl",
    "C[S@](=O)CC",
    "N[C@@H](C)C(=O)N[C@@H](CO)C(=O)O",
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "F/C=C/F",
    "C/C(Cl)=C(/C)[C@H](O)F",
    "CC(=O)Nc1ccc(C#N)cc1",
    "C1CN2CCC1CC2",
    "O=C1CCCCCCCCCCO1",
    "CS(=O)(=O)NC1CCC1",
    "O=C=C=O",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.7|",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.6|",
]


def hydrogenated(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def volumes(x: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    a, b, c, d = np.moveaxis(x[atoms], 1, 0)
    return np.einsum("ni,ni->n", a - d, np.cross(b - d, c - d))


def units(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Unit vectors from the first atom of each row to the others."""
    vectors = x[rows[:, 1:]] - x[rows[:, :1]]
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("smiles", STEREO)
def test_bounds_are_those_of_rdkit(smiles):
    mol = hydrogenated(smiles)
    expected = rdDistGeom.GetMoleculeBoundsMatrix(mol, etkdg_parameters())
    assert np.array_equal(distance_bounds(Graph(mol)), expected.astype(np.float32))
    assert np.all(np.triu(expected, 1) >= np.tril(expected, -1).T)


@pytest.mark.parametrize("smiles", STEREO)
def test_conformers_of_rdkit_satisfy_all_constraints(smiles):
    mol = hydrogenated(smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=11)) == 3
    given = embedding_constraints(mol)
    for conformer in mol.GetConformers():
        x = conformer.GetPositions()
        satisfied(given, x)
        # The mirror image has every centre wrong.
        if len(given.chiral):
            low, high = given.chiral_volumes.T
            mirrored = volumes(x * [1, 1, -1], given.chiral[:, 1:])
            assert not np.any((mirrored > low) & (mirrored < high))


def satisfied(given: EmbeddingConstraints, x: np.ndarray) -> None:
    distances = np.linalg.norm(x[:, None] - x, axis=-1)
    upper = np.triu(given.bounds, 1)
    lower = np.tril(given.bounds, -1).T
    above = np.triu(np.ones_like(upper), 1) > 0
    assert np.all(distances[above] < upper[above] * 1.2 + 0.1)
    assert np.all(distances[above] > lower[above] * 0.8 - 0.1)
    low, high = given.chiral_volumes.T
    found = volumes(x, given.chiral[:, 1:])
    assert np.all((found > np.where(low > 0, 0.8, 1.2) * low) & (found < high + 0.2 * abs(high)))
    assert np.all((found > 0) == (low > 0))
    for trio in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):
        a, b, c = np.moveaxis(units(x, given.tetrahedral)[:, trio], 1, 0)
        assert np.all(abs(np.einsum("ni,ni->n", a, np.cross(b, c))) > given.tetrahedral_volumes)
    a, b, c = np.moveaxis(units(x, given.planar), 1, 0)
    assert np.all(abs(np.einsum("ni,ni->n", a, np.cross(b, c))) < 0.3)
    cosines = [
        np.einsum("nki,nki->n", *np.split(units(x, rows[:, [1, 0, 2]]), 2, axis=1))
        for rows in (given.linear, given.bent)
    ]
    assert np.all(cosines[0] < -0.97)
    assert np.all(cosines[1] > -0.97)
    i, j, k, last, side = given.double_bonds.T
    ends = np.cross(x[i] - x[j], x[k] - x[j]), np.cross(x[last] - x[k], x[k] - x[j])
    assert np.all(np.einsum("ni,ni->n", *ends) * side > 0)


def test_the_kinds_of_constraints_are_there():
    given = embedding_constraints(hydrogenated("C#CC=C=C[C@H](F)/C=C/C(=O)NC1CC1"))
    assert len(given.linear) == 3  # two of the alkyne, one of the allene
    assert len(given.chiral) == len(given.double_bonds) == 1
    assert given.planar_stiff.sum() == 1  # the amide's carbon
    assert len(given.planar) == 6  # two of each double bond, the amide's C and N
    assert given.rings.tolist()[0].count(-1) == 5
    assert len(given.bonds) == given.n_atoms  # one ring


def test_angles_are_all_pairs_of_bonds_that_share_an_atom():
    mol = hydrogenated("CC(C)(C)C#N")
    given = embedding_constraints(mol)
    expected = sum(a.GetDegree() * (a.GetDegree() - 1) // 2 for a in mol.GetAtoms())
    assert len({(min(a, c), b, max(a, c)) for a, b, c in given.angles.tolist()}) == expected


def test_a_cage_atom_is_checked_for_being_tetrahedral_only_where_it_can_be():
    given = embedding_constraints(hydrogenated("C12C3C4C1C5C2C3C45"))  # cubane: rings of four
    assert len(given.tetrahedral) == 8
    assert np.all(given.tetrahedral_volumes == np.float32(0.125))
    assert not len(embedding_constraints(hydrogenated("C1CC1C1CC1")).tetrahedral)


@pytest.mark.parametrize(("smiles", "n_atoms"), [("[Cl-]", 1), ("[H][H]", 2), ("Cl", 2)])
def test_one_and_two_atoms_have_their_bounds(smiles, n_atoms):
    given = embedding_constraints(hydrogenated(smiles))
    assert given.bounds.shape == (n_atoms, n_atoms)
    assert len(given.bonds) == n_atoms - 1
    assert not len(given.torsions)


def test_a_molecule_of_250_atoms_has_constraints():
    given = embedding_constraints(hydrogenated("C" * 82 + "CO"))
    assert given.n_atoms == 251 + 1
    assert len(given.torsions) == 81
    assert np.all(np.isfinite(given.bounds))


@pytest.mark.parametrize(("smiles", "n_found"), [("", 0), ("CC.O", 2)])
def test_what_is_not_one_fragment_is_refused(smiles, n_found):
    with pytest.raises(ValueError, match=f"expected one fragment, found {n_found}"):
        embedding_constraints(hydrogenated(smiles))


def test_bounds_that_contradict_each_other_are_refused(monkeypatch):
    asked = []

    def contradicting(mol, parameters, **how):
        asked.append(how)
        return np.array([[0.0, 1.0], [2.0, 0.0]])

    monkeypatch.setattr(module.rdDistGeom, "GetMoleculeBoundsMatrix", contradicting)
    with pytest.raises(ContradictingBoundsError, match="contradict"):
        distance_bounds(Graph(hydrogenated("[H][H]")))
    assert [how["scaleVDW"] for how in asked] == [False, True]


def test_bounds_that_are_not_numbers_are_refused(monkeypatch):
    nothing = np.full((2, 2), np.nan)
    monkeypatch.setattr(module.rdDistGeom, "GetMoleculeBoundsMatrix", lambda *_, **__: nothing)
    with pytest.raises(ContradictingBoundsError):
        distance_bounds(Graph(hydrogenated("[H][H]")))


@pytest.mark.parametrize("smiles", ["[H][H]", "C[C@H](F)/C=C/C(=O)NC1CC1", "C1CN2CCC1CC2"])
def test_constraints_come_through_a_pickle_unchanged(smiles):
    given = embedding_constraints(hydrogenated(smiles))
    found = pickle.loads(pickle.dumps(given))
    assert found.widest_ring == given.widest_ring
    for field in fields(EmbeddingConstraints):
        a, b = getattr(given, field.name), getattr(found, field.name)
        if field.name in ("widest_ring", "smoothed"):
            continue
        assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
        assert np.array_equal(a, b), field.name
        assert b.flags.aligned
