"""Stereo of the input: kept, or said to be lost, and never lost without a word."""

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged
from mlff_core.status import Flag

ATROPISOMERS = (
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.7|",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.6|",
)


def prepared(smiles: str, **settings: object) -> PreparedMolecule:
    molecule = prepare(0, None, smiles, ChemistrySettings(**settings))  # type: ignore[arg-type]
    assert molecule.status == "ok"
    return molecule


def from_table(molecule: PreparedMolecule, conformer: int = 0) -> Chem.Mol:
    """The molecule as a reader of the tables makes it, from mapped_smiles and positions.

    Its stereo is perceived anew, from the coordinates alone.
    """
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    mapped = Chem.MolFromSmiles(molecule.mapped_smiles, parameters)
    place = {atom.GetAtomMapNum() - 1: atom.GetIdx() for atom in mapped.GetAtoms()}
    mol = Chem.RenumberAtoms(mapped, [place[k] for k in range(mapped.GetNumAtoms())])
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == molecule.numbers.tolist()
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in mol.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE:
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    positions = Chem.Conformer(mol.GetNumAtoms())
    positions.SetPositions(molecule.positions[conformer].astype(np.float64))
    mol.AddConformer(positions)
    Chem.AssignStereochemistryFrom3D(mol)
    return Chem.RemoveHs(mol)


@pytest.mark.parametrize(
    "smiles",
    [
        "CC1(C)C2CCC1(C)C(=O)C2",
        "CC=N",
        "C[C@H](N)C(=O)N[C@@H](CO)C(=O)O",
        "C/C=C/C(F)Cl",
        "C[S@](=O)CC(F)Cl",
        "[Na+].[O-]C(=O)/C=C\\C(O)F",
        "C1C2CC3CC1CC(N)(C2)C3",
        "[2H]C(F)Cl",
    ],
)
def test_the_way_back_from_the_tables_leads_to_the_same_molecule(smiles):
    molecule = prepared(smiles)
    assert Chem.MolToSmiles(from_table(molecule)) == molecule.smiles
    assert molecule.mapped_smiles.count(":") == molecule.n_atoms


@pytest.mark.parametrize(
    "smiles",
    [
        "C[P@](CC)c1ccc(C(F)Cl)cc1",
        "C[P@@](CC)c1ccc(C(F)Cl)cc1",
        "C[As@](CC)c1ccc(C(F)Cl)cc1",
        "C[N@]1C[C@@H]1C(F)Cl",
        "C[N@@]1C[C@@H]1C(F)Cl",
        "CC[S@](=O)CC(F)Cl",
        "F/C=C/C(F)Cl",
        "F/C=C\\C(F)Cl",
    ],
)
def test_given_stereo_stays_when_other_stereo_is_chosen(smiles):
    molecule = prepared(smiles, n_conformers=3)
    without = Chem.MolFromSmiles(molecule.smiles)
    free = next(a for a in without.GetAtoms() if a.GetSymbol() == "C" and
                {n.GetSymbol() for n in a.GetNeighbors()} >= {"F", "Cl"})  # fmt: skip
    free.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    Chem.AssignStereochemistry(without, cleanIt=True, force=True)
    assert Chem.MolToSmiles(without) == Chem.CanonSmiles(smiles)
    assert molecule.message == "chose one isomer: 1 stereocentre had no stereo"
    assert molecule.inchikey == Chem.MolToInchiKey(Chem.MolFromSmiles(molecule.smiles))
    topology = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    assert [rearranged(x, *topology) for x in molecule.positions] == [None] * len(
        molecule.positions
    )
    mirrored = molecule.positions[0] * np.float32([-1, 1, 1])
    if "@" in molecule.smiles:
        assert "inverted" in rearranged(mirrored, *topology)


def test_undefined_phosphorus_is_chosen_and_told():
    molecule = prepared("CP(CC)c1ccccc1")
    assert molecule.smiles in {"CC[P@](C)c1ccccc1", "CC[P@@](C)c1ccccc1"}
    assert molecule.message == "chose one isomer: 1 stereocentre had no stereo"
    a, b, c, d = molecule.positions[0][molecule.chirality[0]]
    assert np.linalg.det([a - d, b - d, c - d]) > 0


def test_atropisomers_are_kept_apart_in_the_row_and_in_space():
    molecules = [prepared(smiles, n_conformers=4) for smiles in ATROPISOMERS]
    assert molecules[0].smiles != molecules[1].smiles
    assert [m.flags for m in molecules] == [[], []]
    for molecule in molecules:
        assert Chem.MolFromSmiles(molecule.smiles).GetNumAtoms() == molecule.n_heavy_atoms
        for conformer in range(len(molecule.positions)):
            # RDKit reads the axis back from the coordinates.
            mol = from_table(molecule, conformer)
            fields = Chem.CXSmilesFields.CX_BOND_ATROPISOMER
            found = Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), fields)
            assert Chem.MolFromSmiles(found).GetNumAtoms() == molecule.n_heavy_atoms
            topology = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
            x = molecule.positions[conformer]
            assert rearranged(x, *topology) is None
            assert "axis" in rearranged(x * np.float32([1, 1, -1]), *topology)
    # The tags say how the neighbours of lowest number turn; the two are mirror images in that.
    signs = [np.linalg.det(m.positions[0][[1, 7, 8]] - m.positions[0][9]) for m in molecules]
    assert signs[0] * signs[1] < 0


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("C1CCCC/C=C/1", "the double bond C6=C7, trans in a ring of 7: cis instead"),
        ("[H]/C1=C(/[H])CCCCC1", "trans in a ring of 7"),
        ("C1CCC/C=C/1", "trans in a ring of 6"),
        ("F/C=C1/CC[C@@H](C)CC1", "C2=C3, relative to others of its ring"),
        ("C/C=C=C=C/C", "cis or trans of C2 to C5"),
        ("C[N@](CC)CO", "the centre N2, a nitrogen that inverts"),
        ("Cc1ccccc1-c1ccccc1Cl |wU:7.7|", "the wedged bond at C8"),
        ("Cc1ccc2c(c1)C[N@]1C[N@@]2Cc2cc(C)ccc21", "a nitrogen at a bridgehead"),
        ("C[C@H](O)F |&1|", "the CXSMILES block, which cannot be read"),
    ],
)
def test_stereo_that_cannot_be_kept_is_flagged_and_told(smiles, said):
    molecule = prepared(smiles)
    assert molecule.flags == [Flag.STEREO_NOT_KEPT]
    assert molecule.message.startswith("stereo of the input not kept: ")
    assert said in molecule.message


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](C)CO",  # two equal neighbours
        "F/C=C1/CCCCC1",
        "C1CCCC/C=C\\1",  # cis in a ring, as it is anyway
        "C/C=C/C=CC",
        "C[C@H]1CCC(O)CC1",  # relative to nothing
        "CC(Cl)=[C@]=C(C)C",
        "O=C1/C=C\\C(=O)N1",
        "C1CCC/C=C/CC1",
        "C[C@H]1C[N@]1C",
        "[Na+].[O-]C(=O)[C@H](F)Cl",
        "C[C@H](O)[C@@H](C)N |a:1,3|",
        "CC(O)Cl |(0,0,;1,0,;1,1,;2,0,),wU:1.0|",  # a centre that is drawn and not written
        "CC(C)Cl |(0,0,;1,0,;1,1,;2,0,),wU:1.0|",
    ],
)
def test_marks_that_mean_nothing_and_stereo_that_is_kept_are_not_flagged(smiles):
    assert prepared(smiles).flags == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[H]/N=C(/C)C", "CC(C)=N"),  # a mark that says nothing
        ("[H]/N=[S@](/C)(=O)CC", "N=[S@](C)(=O)CC"),
        ("OC(F)C(Cl)CC=CC", "C(F)(O)C(Cl)CC=CC"),
        ("C1=CC=CN1C(F)Cl", "c1ccn(C(Cl)F)c1"),
        (
            "C[C@H](F)c1cccc(Cl)c1-c1c(C)cccc1Br |wU:9.9|",
            "Cc1cccc(Br)c1-c1c(Cl)cccc1[C@H](C)F |wD:8.15|",
        ),
        # An axis with two equal neighbours at one end has no hand.
        ("Cc1cccc(C)c1-c1c(C)cccc1Br |wU:7.7|", "Cc1cccc(C)c1-c1c(C)cccc1Br"),
        ("F/C(Cl)=C/C(Br)O", "C(=C(\\Cl)/F)\\C(O)Br"),
    ],
)
def test_what_is_chosen_does_not_depend_on_how_the_molecule_is_written(one, other):
    first, second = prepared(one), prepared(other)
    assert first.smiles == second.smiles
    assert first.mapped_smiles == second.mapped_smiles
    assert np.array_equal(first.positions, second.positions)


def test_stereo_lost_in_a_fragment_that_is_left_out_is_none():
    assert prepared("CC(=O)OCc1ccccc1CCC.C(Cl)=[C@]=CF").flags == []


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("C[C@H](O)[C@@H](C)N |&1:1,3|", "a mixture of enantiomers: one of them, as drawn"),
        ("C[C@H](O)[C@@H](C)N |&1:1|", "a mixture of stereoisomers"),
        ("C[C@H](O)[C@@H](C)N |&1:1,&2:3|", "a mixture of stereoisomers"),
        ("C[C@H](O)c1ccccc1 |o1:1|", "one of two enantiomers, not known which"),
        ("C[C@H](O)c1ccccc1.Cl |&1:1|", "a mixture of enantiomers"),
        ("C[C@H](O)[C@@H](C)N |r|", "one of two enantiomers, not known which"),
    ],
)
def test_enhanced_stereo_groups_are_computed_as_drawn_and_told(smiles, said):
    molecule = prepared(smiles)
    assert Chem.CanonSmiles(smiles.split()[0].removesuffix(".Cl")) == molecule.smiles
    assert molecule.flags == [Flag.MIXTURE_OF_ISOMERS]
    assert said in molecule.message
