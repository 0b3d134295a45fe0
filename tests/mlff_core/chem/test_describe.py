"""Columns that depend on the bonds alone, against RDKit's own functions, to the last bit."""

import csv
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen, rdMolDescriptors

from mlff_core.chem.describe import crippen_log_p, describe, n_aromatic_rings
from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.rotatable import n_rotatable_bonds
from mlff_core.chem.smarts import Screen

DRUGLIKE = Path(__file__).parents[3] / "datasets" / "druglike" / "druglike.csv"
# What the short ways could get wrong: hydrogens that are atoms, dative bonds, isotopes, charges,
# rings that QED calls aromatic and are not, alerts.
ODD = [
    "[2H]C([2H])O",
    "[H][H]",
    "[H]O[H]",
    "C",
    "[15NH2]C",
    "C1CC->[B]1",
    "COc1cc(Cl)cc2c1Sc1ccccc1/C2=C/CC[NH+](C)C",
    "C=C1c2ccccc2Nc2ccccc21",
    "C1CCc2ccccc2C1",
    "O=[N+]([O-])c1ccccc1N=NC(=O)O",
    "CC(=O)OOC(=O)CI",
    "FC(F)(F)C(F)(F)F",
    "OP(=O)([O-])OCC[N+](C)(C)C",
    "C1CO1",
    "CSC(=S)SSC",
    "C12C3C4C1C5C2C3C45",
    "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC",
    "O=C1C=CC(=O)C=C1",
]


def druglike() -> list[str]:
    with DRUGLIKE.open() as lines:
        return [row["smiles"] for row in csv.DictReader(lines)][:80]


def test_drug_likeness_is_that_of_rdkit():
    values = set()
    for smiles in [*druglike(), *ODD]:
        molecule = PreparedMolecule(0, None, smiles)
        describe(molecule, Graph(Chem.MolFromSmiles(smiles)))
        mol = Chem.MolFromSmiles(smiles)  # a second one: RDKit keeps some values with a molecule
        assert molecule.clogp == Crippen.MolLogP(mol), smiles
        assert molecule.qed == QED.qed(mol), smiles
        values.add(molecule.qed)
    assert len(values) > 80


# Amides, esters, thioesters, amidinium ions, bulky ends and triple bonds, each with its near miss.
TURNING = [
    "CCC(=O)NCC", "CCC(=O)CCC", "CCC(=S)NCC", "CCC(=O)OCC", "CCC(=O)SCC", "CCC(=O)S", "CCC(N)=NCC",
    "CCC(=[NH2+])NCC", "CCNC(=O)NCC", "CC1NC(=O)CC1C(=O)N1CCCC1", "O=C1NCCCCCCCCC1CC(=O)O",
    "CCC(F)(F)F", "CCC(F)(F)C", "CCC(Cl)(Cl)Cl", "CCC(F)(Cl)Cl", "CCC(Br)(Br)Br", "CCC(C)(C)C",
    "CCC(C)(C)CC", "CC(C)(C)C(C)(C)C", "CC#CCC", "CCC#N", "C=CC=C", "c1ccccc1-c1ccccc1",
    "CCS(=O)(=O)NCC", "CCP(=O)(OCC)OCC", "CC(=O)Oc1ccccc1C(=O)O", "CCOC(=O)C(C)=NOCC",
    "O=C(n1cccc1)c1ccccc1",
    "[H]/N=C(/N)CC", "CC->[B](C)CC", "[2H]C([2H])([2H])CC", "COC(=O)[C@H](N)C",
]  # fmt: skip


def test_rotatable_bonds_are_counted_as_rdkit_counts_them():
    counts = set()
    for smiles in [*TURNING, *ODD, *druglike()]:
        mol = Chem.MolFromSmiles(smiles)
        count = n_rotatable_bonds(Graph(mol))
        assert count == rdMolDescriptors.CalcNumRotatableBonds(mol), smiles
        counts.add(count)
    assert len(counts) > 9


@pytest.mark.parametrize("order", [1, -1])
def test_what_was_met_before_does_not_matter(order):
    expected = {smiles: Crippen.MolLogP(Chem.MolFromSmiles(smiles)) for smiles in ODD}
    for smiles in ODD[::order]:
        assert crippen_log_p(Graph(Chem.MolFromSmiles(smiles))) == expected[smiles]


@pytest.mark.parametrize("smiles", [*ODD, "c1ccc2ccccc2c1", "C1CCCCC1c1ccccc1", "c1cc2ccc1CC2"])
def test_rings_are_counted_as_qed_counts_them(smiles):
    graph = Graph(Chem.MolFromSmiles(smiles))
    left = Chem.DeleteSubstructs(Chem.Mol(graph.mol), QED.AliphaticRings)
    assert n_aromatic_rings(graph) == len(Chem.GetSSSR(left))


def test_no_alert_that_matches_is_left_out_and_most_others_are():
    screen = Screen(QED.StructuralAlerts)
    n_possible = n_matching = 0
    for smiles in [*druglike(), *ODD]:
        mol = Chem.MolFromSmiles(smiles)
        possible = set(screen.possible(Graph(mol)))
        matching = {k for k, p in enumerate(QED.StructuralAlerts) if mol.HasSubstructMatch(p)}
        assert matching <= possible, smiles
        n_possible += len(possible)
        n_matching += len(matching)
    assert n_matching < n_possible < 5 * n_matching


def test_adding_hydrogens_gives_the_graph_that_rdkit_has_then():
    for smiles in [*druglike()[:60], *ODD]:
        mol = Chem.MolFromSmiles(smiles)
        hydrogenated = Chem.AddHs(mol)
        graph, expected = Graph(mol).with_hydrogens(hydrogenated), Graph(hydrogenated)
        assert graph.numbers == expected.numbers
        assert graph.neighbours == expected.neighbours
        assert graph.bond_kinds == expected.bond_kinds
        assert graph.atom_kinds == expected.atom_kinds
        assert dict(zip(graph.pairs, graph.orders, strict=True)) == dict(
            zip(expected.pairs, expected.orders, strict=True)
        )
        for atom, kind in zip(hydrogenated.GetAtoms(), graph.atoms(), strict=True):
            assert kind.aromatic == atom.GetIsAromatic()
            assert kind.n_bonded == kind.degree == atom.GetDegree()
            assert kind.n_hydrogens == atom.GetTotalNumHs(includeNeighbors=True)
            assert kind.n_rings == hydrogenated.GetRingInfo().NumAtomRings(atom.GetIdx())
