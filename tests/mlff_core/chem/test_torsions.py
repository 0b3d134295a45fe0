"""Torsion terms, against RDKit's own search and against rings that are known to be flat."""

import csv
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.graph import Graph
from mlff_core.chem.smarts import without_recursion
from mlff_core.chem.torsions import etkdg_parameters, torsion_terms

DRUGLIKE = Path(__file__).parents[3] / "datasets" / "druglike" / "druglike.csv"
# Small rings, bridges, cages, macrocycles, charges, rare elements, hardly any atoms.
ODD = [
    "C1CC1C(=O)N",
    "O=C1CCCCCCCCCCO1",
    "C[C@@H]1NC(=O)[C@H](C)NC(=O)CNC(=O)[C@H](Cc2ccccc2)NC1=O",
    "C1CC2CCC1C2",
    "C1C2CC3CC1CC(C2)C3",
    "C12C3C4C1C5C2C3C45",
    "C1CN2CCC1CC2",
    "O=C1CCC=CCCCCCCCO1",
    "C1CCC2(CC1)OCCO2",
    "FC(F)(F)S(=O)(=O)N1CCSCC1",
    "CCOP(=O)(OCC)OCC",
    "CSSC",
    "NC(=[NH2+])NCCC[C@H]([NH3+])C(=O)[O-]",
    "C#CC#CC=C=CC",
    "B(O)(O)c1ccccc1",
    "C[Si](C)(C)C#N",
    "CCCCCCCCCCCCCCCC(=O)OCC(O)CO",
    "C1=CC=CC=CC=C1",
    "O=C1C=CC(=O)c2ccccc21",
    "C1C=CC2C1C1C=CC2C1",
    "[2H]C([2H])([2H])Oc1ccccc1",
    "[H][H]",
    "C",
]


def graph_of(smiles: str) -> Graph:
    return Graph(Chem.AddHs(Chem.MolFromSmiles(smiles)))


def assert_like_rdkit(smiles: str) -> int:
    graph = graph_of(smiles)
    expected = [
        (tuple(term["atomIndices"]), tuple(term["V"]), tuple(term["signs"]))
        for term in rdDistGeom.GetExperimentalTorsions(graph.mol, etkdg_parameters())
    ]
    assert torsion_terms(graph)[: len(expected)] == expected
    return len(expected)


@pytest.mark.parametrize("smiles", ODD)
def test_preferences_of_odd_molecules_are_those_that_rdkit_finds(smiles):
    assert_like_rdkit(smiles)


def test_preferences_of_drugs_are_those_that_rdkit_finds():
    with DRUGLIKE.open() as lines:
        smiles = [row["smiles"] for row in csv.DictReader(lines)][:60]
    assert sum(map(assert_like_rdkit, smiles)) > 5 * len(smiles)


def test_a_macrocycle_has_preferences_of_its_own():
    ring, chain = (graph_of(smiles) for smiles in ("O=C1CCCCCCCCCCO1", "CCCCC(=O)OCCC"))
    ester = ring.mol.GetSubstructMatch(Chem.MolFromSmarts("[#6]C(=O)O[#6]"))
    middle = {ester[1], ester[3]}
    assert any(set(term.atoms[1:3]) == middle for term in torsion_terms(ring))
    assert len(torsion_terms(ring)) > len(torsion_terms(chain))


@pytest.mark.parametrize(
    ("smiles", "n_flat"),
    [
        pytest.param("c1ccccc1", 6, id="benzene"),
        pytest.param("c1ccoc1", 5, id="furan"),
        pytest.param("c1ccc2ccccc2c1", 11, id="naphthalene: the shared bond once"),
        pytest.param("C1CCCCC1", 0, id="cyclohexane"),
        pytest.param("O=C1C=CC(=O)C=C1", 2, id="quinone: its single bonds have a preference"),
    ],
)
def test_rings_of_sp2_atoms_are_held_flat_around_each_bond(smiles, n_flat):
    graph = graph_of(smiles)
    flat = [term for term in torsion_terms(graph) if term.heights == (0, 100, 0, 0, 0, 0)]
    rings = [set(ring) for ring in graph.rings]
    flat = [term for term in flat if any(ring.issuperset(term.atoms) for ring in rings)]
    assert len([term for term in flat if term.signs == (1, -1, 1, 1, 1, 1)]) == n_flat


@pytest.mark.parametrize(
    ("smarts", "weaker"),
    [
        ("[$(C=O):1]", "[C]"),
        ("[N&X3:2]", "[N&X3]"),
        ("[$([N&H1]),$([N&H2])]", "[N&H1,N&H2]"),
        ("[!$([N&H1])]", "[*]"),
        ("[C&!$(C=O)]", "[C]"),
    ],
)
def test_an_atom_without_its_recursion_matches_no_less(smarts, weaker):
    assert without_recursion(smarts) == weaker
