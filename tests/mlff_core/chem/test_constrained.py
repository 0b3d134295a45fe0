"""Molecules prepared for an embedder elsewhere: rows and words are those of RDKit's embedding."""

import csv
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.constrained import (
    ConstrainedMolecule,
    choose_stereo,
    not_embedded,
    prepare_constraints,
    prepare_together,
)
from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import prepare
from mlff_core.chem.stereo import may_lack_stereo
from mlff_core.status import MoleculeStatus, Reason

DRUGLIKE = Path(__file__).parents[3] / "datasets" / "druglike" / "druglike.csv"
SETTINGS = ChemistrySettings()
RECORDS = [
    "C[C@H](F)Cl",
    "CCS(C)=O",
    "CC1CC2CCC1C2",
    "FC=CF",
    "CC(O)C(F)C=CC",
    "CC1(C)C2CCC1(C)C(=O)C2",
    "C[S@](=O)CC",
    "C[N+](C)(C)CC(=O)[O-].Cl",
    "C/C=N\\O",
    "[13CH3]CO",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.7|",
    "C1CC2CCC1CC2",
    "[Cl-]",
    "[Na+]",
    "CC(",
    "",
    "[CH3]",
    "C[Hg]C",
]


def constrained(smiles: str, settings: ChemistrySettings = SETTINGS) -> ConstrainedMolecule:
    return prepare_constraints(7, "id", smiles, settings)


def assert_same_row(found: PreparedMolecule, expected: PreparedMolecule) -> None:
    for field in fields(PreparedMolecule):
        if field.name not in ("positions", "timings_s"):
            a, b = getattr(found, field.name), getattr(expected, field.name)
            same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
            assert same, field.name


@pytest.mark.parametrize("smiles", RECORDS)
def test_a_row_is_the_same_as_with_an_embedding_by_rdkit(smiles):
    expected = prepare(7, "id", smiles, SETTINGS)
    found = constrained(smiles)
    if found.status == MoleculeStatus.OK and found.n_atoms != 1:
        assert found.constraints is not None
        assert len(found.constraints.bounds) == expected.n_atoms
        found = choose_stereo(found, expected.positions[0])
        assert found is not None
    assert_same_row(found, expected)
    assert not found.undefined_stereo or found.status != MoleculeStatus.OK


def test_a_single_atom_has_its_geometry_already():
    found = constrained("[Cl-]")
    assert found.positions.tolist() == [[[0.0, 0.0, 0.0]]]
    assert found.constraints is None


def test_stereo_that_came_out_wrong_is_to_be_embedded_again():
    right = prepare(7, "id", "C[C@H](F)/C=C/Cl", SETTINGS).positions[0]
    found = constrained("C[C@H](F)/C=C/Cl")
    assert choose_stereo(found, right * [1, 1, -1]) is None
    assert choose_stereo(found, np.full_like(right, np.nan)) is None
    other_side = prepare(7, "id", "C[C@H](F)/C=C\\Cl", SETTINGS)
    assert other_side.numbers.tolist() == found.numbers.tolist()
    assert choose_stereo(found, other_side.positions[0]) is None
    assert choose_stereo(found, right) is found


@pytest.mark.parametrize("mirror", [1, -1])
def test_the_first_geometry_decides_stereo_and_the_others_are_held_to_it(mirror):
    settings = ChemistrySettings(n_conformers=5)
    geometry = prepare(7, "id", "CCS(C)=O", SETTINGS).positions[0] * [1, 1, mirror]
    found = constrained("CCS(C)=O", settings)
    assert found.undefined_stereo
    assert found.inchikey is None
    assert not len(found.constraints.chiral)
    chosen = choose_stereo(found, geometry)
    assert chosen.message == "chose one isomer: 1 stereocentre had no stereo"
    assert len(chosen.constraints.chiral) == 1
    a, b, c, d = geometry[chosen.constraints.chiral[0, 1:]]
    low, high = chosen.constraints.chiral_volumes[0]
    assert low < (a - d) @ np.cross(b - d, c - d) < high
    expected = Chem.MolFromSmiles(chosen.smiles)
    assert chosen.inchikey == Chem.MolToInchiKey(expected)
    tags = {"CC[S@](C)=O", "CC[S@@](C)=O"}
    assert chosen.smiles in tags
    other = choose_stereo(constrained("CCS(C)=O"), geometry * [1, 1, -1])
    assert {chosen.smiles, other.smiles} == tags


@pytest.mark.parametrize(
    ("smiles", "words", "n_isomers"),
    [
        pytest.param("CC(F)Cl", "1 stereocentre", 2, id="in a chain"),
        pytest.param("CC(O)C(F)CO", "2 stereocentres", 4, id="two of them"),
        pytest.param("CC1CCC(O)CC1", "2 stereocentres", 2, id="cis and trans across a ring"),
        pytest.param("CC1CC1C", "2 stereocentres", 3, id="a ring of three"),
        pytest.param("C[C@H](F)C(O)Cl", "1 stereocentre", 2, id="beside one that is given"),
    ],
)
def test_centres_that_any_hand_suits_are_chosen_without_a_geometry(smiles, words, n_isomers):
    found = {}
    for seed in range(24):
        settings = ChemistrySettings(seed=seed)
        molecule = constrained(smiles, settings)
        assert not molecule.undefined_stereo
        assert molecule.message == f"chose one isomer: {words} had no stereo"
        assert molecule.standard_smiles == Chem.CanonSmiles(smiles)
        again = constrained(smiles, settings)
        assert (again.smiles, again.chirality.tolist()) == (
            molecule.smiles,
            molecule.chirality.tolist(),
        )
        found[molecule.smiles] = molecule
    assert len(found) == n_isomers
    for isomer, molecule in found.items():
        mol = Chem.MolFromSmiles(isomer)
        assert Chem.MolToSmiles(mol) == isomer
        assert Chem.MolToInchiKey(mol) == molecule.inchikey
        assert not [
            info
            for info in Chem.FindPotentialStereo(mol)
            if info.specified != Chem.StereoSpecified.Specified
        ]
        assert mol.HasSubstructMatch(Chem.MolFromSmiles(smiles), useChirality=True)
        # Atoms of the constraints are those of the row: RDKit's geometry of it has these hands.
        geometry = geometry_of(molecule)
        assert choose_stereo(molecule, geometry) is molecule
        assert choose_stereo(molecule, geometry * [1, 1, -1]) is None
        volumes = [
            (geometry[a] - geometry[d])
            @ np.cross(geometry[b] - geometry[d], geometry[c] - geometry[d])
            for _, a, b, c, d in molecule.constraints.chiral
        ]
        assert (np.sign(volumes) == np.sign(molecule.constraints.chiral_volumes[:, 0])).all()


def geometry_of(molecule: PreparedMolecule) -> np.ndarray:
    """RDKit's own of the row's mapped SMILES, atoms in the order of the row, Å [n_atoms, 3]."""
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    mol = Chem.MolFromSmiles(molecule.mapped_smiles, parameters)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    order = np.argsort([atom.GetAtomMapNum() for atom in mol.GetAtoms()])
    return mol.GetConformer().GetPositions()[order]


@pytest.mark.parametrize(
    "smiles",
    [
        pytest.param("CC1(C)C2CCC1(C)C(=O)C2", id="camphor"),
        pytest.param("C1CCC2CCCCC2C1", id="decalin"),
        pytest.param("CC(F)Cl.CC1CC2CCC1C2", id="the larger part of two"),
        pytest.param("CCS(C)=O", id="a sulfoxide"),
        pytest.param("CC(F)C=CCl", id="a double bond"),
    ],
)
def test_where_a_hand_may_be_impossible_a_geometry_decides(smiles):
    assert constrained(smiles).undefined_stereo


def test_a_molecule_without_a_geometry_fails_in_words():
    found = not_embedded(constrained("CCS(C)=O"), "stereocentres came out wrong")
    assert (found.status, found.reason) == (MoleculeStatus.FAILED, Reason.EMBEDDING_FAILED)
    assert found.message == "stereocentres came out wrong"
    assert found.inchikey == Chem.MolToInchiKey(Chem.MolFromSmiles("CCS(C)=O"))
    assert found.constraints is None


def test_undefined_stereo_is_never_overlooked():
    with DRUGLIKE.open() as lines:
        flat = [row["smiles"].replace("@", "") for row in csv.DictReader(lines)][:150]
    n_undefined = 0
    for smiles in flat:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles.replace("/", "").replace("\\", "")))
        kinds = Chem.StereoType.Atom_Tetrahedral, Chem.StereoType.Bond_Double
        undefined = [
            info
            for info in Chem.FindPotentialStereo(mol)
            if info.type in kinds and info.specified != Chem.StereoSpecified.Specified
        ]
        n_undefined += bool(undefined)
        assert may_lack_stereo(Graph(mol)) >= bool(undefined), smiles
    assert n_undefined > 50


def test_a_pool_hands_over_the_constraints():
    records = [(k, None, smiles) for k, smiles in enumerate(("CCO", "c1ccccc1O", "C("))]
    with EmbeddingPool(SETTINGS, 1, prepare=prepare_constraints) as pool:
        first, second, third = pool.map(records)
    assert isinstance(second, ConstrainedMolecule)
    assert third.reason == Reason.INVALID_SMILES
    alone = constrained("c1ccccc1O").constraints
    assert np.array_equal(second.constraints.bounds, alone.bounds)
    assert np.array_equal(second.constraints.torsions, alone.torsions)
    assert first.constraints.n_atoms == first.n_atoms == 9


def test_side_by_side_each_molecule_is_as_it_is_alone():
    records = [(k, str(k), smiles) for k, smiles in enumerate([*RECORDS, "C" * 300, "c1ccccc1O"])]
    together = prepare_together(records, SETTINGS)
    assert len({m.status for m in together}) == 2
    for found, record in zip(together, records, strict=True):
        alone = prepare_constraints(*record, SETTINGS)
        assert_same_row(replace(found, constraints=None), replace(alone, constraints=None))
        assert pickle.dumps(found.constraints) == pickle.dumps(alone.constraints)


def test_the_time_of_a_molecule_is_that_of_its_own_stages(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    one, other = prepare_together([(0, None, "CCO"), (1, None, "CC(")], SETTINGS)
    # The clock is asked before and after each stage.
    assert other.timings_s == 1.0
    assert one.timings_s > 5.0
