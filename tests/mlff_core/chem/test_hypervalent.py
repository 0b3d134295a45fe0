"""Starts of hypervalent centres have the angles of the textbook."""

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.constraints import distance_bounds
from mlff_core.chem.graph import Graph
from mlff_core.chem.hypervalent import hypervalent_bounds, hypervalent_centres
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare

LINEAR = [180]
T_SHAPED = [90] * 2 + [180]
SEESAW = [90] * 4 + [120, 180]
BIPYRAMID = [90] * 6 + [120] * 3 + [180]
SQUARE = [90] * 4 + [180] * 2
PYRAMID = [90] * 8 + [180] * 2
OCTAHEDRON = [90] * 12 + [180] * 3


def with_hydrogens(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


@pytest.mark.parametrize(
    ("smiles", "angles"),
    [
        ("I[I-]I", LINEAR),
        ("ClI(Cl)c1ccccc1", T_SHAPED),
        ("CC(=O)OI(OC(C)=O)c1ccccc1", T_SHAPED),
        ("O=C1OI(C(F)(F)F)c2ccccc12", T_SHAPED),
        ("FS(F)(F)F", SEESAW),
        ("OI1(=O)OC(=O)c2ccccc12", SEESAW),
        ("FP(F)(F)(F)F", BIPYRAMID),
        ("F[Si-](F)(F)(F)c1ccccc1", BIPYRAMID),
        ("O=S(F)(F)(F)F", BIPYRAMID),
        ("C1COP2(O1)(OCCO2)c1ccccc1", BIPYRAMID),
        ("Cl[I-](Cl)(Cl)Cl", SQUARE),
        ("FI(F)(F)(F)F", PYRAMID),
        ("CC(=O)OI1(OC(C)=O)(OC(C)=O)OC(=O)c2ccccc12", PYRAMID),
        ("FS(F)(F)(F)(F)F", OCTAHEDRON),
        ("F[P-](F)(F)(F)(F)F", OCTAHEDRON),
        ("F[Si-2](F)(F)(F)(F)F", OCTAHEDRON),
        ("FS(F)(F)(F)(F)CCN", OCTAHEDRON),
        ("O=C(Nc1ccc(S(F)(F)(F)(F)F)cc1)C1CC1", OCTAHEDRON),
    ],
)
def test_a_start_has_the_angles_that_neighbours_and_lone_pairs_leave(smiles, angles):
    molecule = prepare(0, None, smiles, ChemistrySettings(n_conformers=2))
    assert molecule.status == "ok"
    mol = with_hydrogens(molecule.smiles)
    [(centre, _)] = hypervalent_centres(mol)
    around = [neighbour.GetIdx() for neighbour in mol.GetAtomWithIdx(centre).GetNeighbors()]
    i, j = np.triu_indices(len(around), 1)
    for x in molecule.positions.astype(np.float64):
        arms = x[around] - x[centre]
        lengths = np.linalg.norm(arms, axis=1)
        cosines = np.einsum("ni,mi->nm", arms, arms)[i, j] / (lengths[i] * lengths[j])
        found = np.sort(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
        # Distance geometry leaves some slack; 60 degrees, as RDKit alone has it, is far outside.
        assert np.abs(found - angles).max() < 45
        assert np.abs(found - angles).mean() < 20
        apart = np.linalg.norm(x[around][i] - x[around][j], axis=1)
        assert apart.min() > 1.6  # RDKit alone: two fluorines 1.0 Å apart


@pytest.mark.parametrize(
    "smiles",
    ["CS(C)(=O)=O", "CI", "[O-][Cl+3]([O-])([O-])[O-]", "c1ccsc1", "CP(C)(C)=C", "OP(O)(O)=O",
     "O=Ic1ccccc1", "c1ccccc1[I+]c1ccccc1", "C[S+](C)C", "[B-](F)(F)(F)F", "C[As](C)C"],
)  # fmt: skip
def test_ordinary_centres_are_left_to_rdkit(smiles):
    mol = with_hydrogens(smiles)
    assert hypervalent_centres(mol) == []
    assert hypervalent_bounds(mol) is None


def test_axial_places_go_to_electronegative_neighbours_and_not_to_one_ring():
    molecule = prepare(0, None, "CC(=O)OI(OC(C)=O)c1ccccc1", ChemistrySettings())
    mol = with_hydrogens(molecule.smiles)
    [(centre, _)] = hypervalent_centres(mol)
    oxygens = [
        n.GetIdx() for n in mol.GetAtomWithIdx(centre).GetNeighbors() if n.GetSymbol() == "O"
    ]
    a, b = molecule.positions[0][oxygens] - molecule.positions[0][centre]
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < -0.7


def test_an_embedder_elsewhere_gets_the_same_bounds():
    mol = with_hydrogens("FS(F)(F)(F)(F)c1ccccc1")
    bounds = distance_bounds(Graph(mol))
    assert np.allclose(bounds, hypervalent_bounds(mol))
    assert np.all(np.triu(bounds, 1) >= np.tril(bounds, -1).T - 1e-6)
    fluorines = [a.GetIdx() for a in mol.GetAtoms() if a.GetSymbol() == "F"]
    longest = max(bounds[i, j] for i in fluorines for j in fluorines if i < j)
    assert longest > 3.0  # opposite ones


def test_no_order_of_neighbours_is_chosen_around_a_seesaw():
    molecule = prepare(0, None, "ClS1(Cl)C2CCC1CC2", ChemistrySettings())
    assert molecule.smiles == "ClS1(Cl)[C@H]2CC[C@@H]1CC2"
