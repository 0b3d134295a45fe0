"""The hand of an allene is kept from the SMILES to the coordinates, and back into the SMILES."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.constrained import prepare_constraints
from mlff_core.chem.constraints import embedding_constraints
from mlff_core.chem.expand import expand
from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged
from mlff_core.chem.variant import Expansion
from mlff_core.embedding import embed_molecules
from mlff_core.embedding.schedule import STAGES, schedule
from mlff_core.status import Flag, MoleculeStatus

#: The same molecule, in each row, written in several ways: the rule of opensmiles.org by hand.
SAME = [
    ["CC=[C@]=CC", "[H]C(C)=[C@@]=CC", "[H]C(C)=[C@@]=C([H])C"],
    ["CC=[C@@]=CC", "C(C)=[C@]=CC", "[C@](=CC)=CC", "CC=[C@AL2]=CC"],
    ["OC(Cl)=[C@]=C(C)F", "FC(C)=[C@]=C(Cl)O", "ClC(O)=[C@@]=C(C)F", "OC(Cl)=[C@@]=C(F)C"],
    ["C1CCCCC=[C@]=CCC1", "C1=[C@@]=CCCCCCCC1"],
    ["C[C@H](O)C=[C@]=CF.[Na+].[Cl-]", "FC=[C@]=C[C@H](C)O"],
]


def prepared(smiles: str, **settings):
    return prepare(0, None, smiles, ChemistrySettings(**settings))


def by_inchi(molecule, k: int = 0) -> str:
    """InChI, which perceives an allene's hand from coordinates by itself."""
    mol = molecule_of(molecule.mapped_smiles, molecule.numbers, {0: molecule.conformers()[k]})
    return Chem.MolBlockToInchi(Chem.MolToMolBlock(mol))


@pytest.mark.parametrize("row", SAME)
def test_one_allene_has_one_smiles_and_one_geometry_however_it_is_written(row):
    molecules = [prepared(smiles) for smiles in row]
    assert len({m.smiles for m in molecules}) == 1
    in_ring = row[0].startswith("C1")  # of which InChI knows no hand
    assert in_ring or len({by_inchi(m) for m in molecules}) == 1
    again = prepared(molecules[0].smiles)
    assert again.smiles == molecules[0].smiles
    assert np.array_equal(again.positions, molecules[0].positions)
    assert all(Flag.STEREO_NOT_KEPT not in m.flags for m in molecules)
    turned = row[0].replace("@@", "@") if "@@" in row[0] else row[0].replace("[C@]", "[C@@]")
    other = prepared(turned)
    assert other.smiles != molecules[0].smiles
    assert in_ring or by_inchi(other) != by_inchi(molecules[0])


def test_the_groups_follow_each_other_counterclockwise_seen_from_the_first():
    molecule = prepared("OC(Cl)=[C@]=C(C)F")
    mol = molecule_of(molecule.mapped_smiles, molecule.numbers, {0: molecule.conformers()[0]})
    x = mol.GetConformer().GetPositions()
    match = mol.GetSubstructMatch(Chem.MolFromSmarts("OC(Cl)=C=C(C)F"))
    o, cl, c, f = (match[k] for k in (0, 2, 5, 6))
    away = x[[cl, c, f]].mean(0) - x[o]  # the direction of the look
    turn = np.cross(x[c] - x[cl], x[f] - x[c])
    assert turn @ away < 0  # counterclockwise: the turn's axis points to who looks


def test_all_conformers_have_the_hand_and_a_mirror_image_is_told():
    molecule = prepared("CCC=[C@]=CC(O)CO", n_conformers=8)
    assert len(molecule.positions) > 4
    arrays = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    assert [rearranged(x, *arrays) for x in molecule.positions] == [None] * len(molecule.positions)
    assert "inverted" in rearranged(molecule.positions[0] * np.float32([1, 1, -1]), *arrays)


def test_the_embedder_of_the_card_holds_the_hand():
    molecule = prepare_constraints(0, None, "CC=[C@]=CF", ChemistrySettings())
    assert molecule.constraints.chiral.shape == (1, 5)
    short = schedule([replace(stage, steps=stage.steps // 6) for stage in STAGES])
    found = embed_molecules([molecule.constraints], 4, [5], steps=short)
    assert not found.cause[0].any()
    arrays = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    assert [rearranged(x, *arrays) for x in found.positions[0]] == [None] * 4
    plain = embedding_constraints(Chem.AddHs(Chem.MolFromSmiles("CC=C=CF")))
    assert len(plain.chiral) == 0


def test_variants_say_that_they_do_not_keep_it():
    settings = ChemistrySettings(expansion=Expansion(stereo="enumerate"))
    variants = expand(0, None, "CC(O)C=[C@]=CF", settings)
    assert len(variants) == 2
    assert all(Flag.STEREO_NOT_KEPT in v.flags and "allene" in v.message for v in variants)


@pytest.mark.parametrize("smiles", ["CC=[C@]=C(C)C", "CC=[C@]=C", "CC(C)=[C@@]=CF"])
def test_a_mark_between_equal_groups_means_nothing(smiles):
    molecule = prepared(smiles)
    assert molecule.status == MoleculeStatus.OK
    assert "@" not in molecule.smiles
    assert len(molecule.chirality) == 0
