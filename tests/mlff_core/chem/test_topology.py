"""A geometry is judged by the bonds and the stereo of its SMILES."""

import ase.data
import numpy as np
import pytest
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from mlff_core.chem import topology
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare

# Short contacts, long bonds and small rings that are what they should be.
UNUSUAL = [
    "C1C2CC1C2",
    "C1C2CC12",
    "C12C3C4C1C5C2C3C45",
    "C[Si]1(C)O[Si](C)(C)O1",
    "CSSC",
    "CI",
    "IC#CI",
    "OC(=O)/C=C\\C(=O)[O-]",
    "CC(C)(C)C(C(C)(C)C)(C(C)(C)C)O",
    "CP(C)(=S)SC",
    "O=C=C=C=O",
    "C1=CC2CC1C=C2",
    "CS(=O)(=O)N1CC1",
    "[NH3+]CC(=O)[O-]",
]


def relaxed(smiles: str) -> PreparedMolecule:
    """The molecule at a minimum of MMFF94, or UFF where that one does not know an atom type."""
    molecule = prepare(0, None, smiles, ChemistrySettings())
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, position in enumerate(molecule.positions[0].tolist()):
        conformer.SetAtomPosition(atom, position)
    mol.AddConformer(conformer)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    else:
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=2000)
    molecule.positions = mol.GetConformer().GetPositions()[None].astype(np.float32)
    return molecule


def judged(molecule: PreparedMolecule, positions: NDArray, **changed: NDArray) -> str | None:
    names = ("numbers", "bonds", "chirality", "double_bonds")
    return topology.rearranged(
        positions, *(changed.get(name, getattr(molecule, name)) for name in names)
    )


def index(molecule: PreparedMolecule, pattern: str) -> tuple[int, ...]:
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    return mol.GetSubstructMatch(Chem.MolFromSmarts(pattern))


@pytest.mark.parametrize("smiles", UNUSUAL)
def test_unusual_molecules_at_their_minima_are_themselves(smiles):
    molecule = relaxed(smiles)
    assert judged(molecule, molecule.positions[0]) is None


def test_single_atoms_and_pairs_are_themselves():
    for smiles in ("[Cl-]", "[H][H]", "Cl"):
        molecule = prepare(0, None, smiles, ChemistrySettings())
        assert judged(molecule, molecule.positions[0]) is None


def test_covalent_radii_are_those_of_ase():
    for number in ChemistrySettings().elements:
        assert topology.RADII[number] == pytest.approx(ase.data.covalent_radii[number])


def test_a_bond_pulled_apart_is_seen():
    molecule = relaxed("CCCl")
    carbon, chlorine = index(molecule, "CCl")
    positions = molecule.positions[0].copy()
    along = positions[chlorine] - positions[carbon]
    positions[chlorine] += 0.2 * along
    assert judged(molecule, positions) is None
    positions[chlorine] += 0.3 * along
    found = judged(molecule, positions)
    assert found is not None
    assert found.startswith(f"bond C{carbon + 1}-Cl{chlorine + 1} broken (2.6")


def test_a_ring_that_closed_is_seen():
    molecule = relaxed("C1CCCC1")
    open_chain = molecule.bonds[1:]
    a, b = sorted(molecule.bonds[0].tolist())
    found = judged(molecule, molecule.positions[0], bonds=open_chain)
    assert found is not None
    assert found.startswith(f"bond C{a + 1}-C{b + 1} formed (1.5")


def test_a_three_ring_that_closed_is_seen():
    molecule = relaxed("C1CC1")
    assert judged(molecule, molecule.positions[0], bonds=molecule.bonds[1:]) is not None


def test_a_proton_that_moved_is_seen():
    molecule = relaxed("[NH3+]CC(=O)[O-]")
    nitrogen, proton = index(molecule, "[N+][H]")
    (oxygen,) = index(molecule, "[O-]")
    positions = molecule.positions[0].copy()
    away = positions[oxygen] - positions.mean(axis=0)
    positions[proton] = positions[oxygen] + 0.97 * away / np.linalg.norm(away)
    found = judged(molecule, positions)
    assert found is not None
    assert f"-H{proton + 1} broken" in found
    # The same geometry seen as the neutral tautomer is fine there: no bond is broken or formed.
    bonds = molecule.bonds.copy()
    bonds[[set(pair) == {nitrogen, proton} for pair in bonds.tolist()]] = oxygen, proton
    assert judged(molecule, positions, bonds=bonds) is None


@pytest.mark.parametrize(
    ("smiles", "centre"),
    [("C[C@H](F)Cl", "[CH]"), ("CC[S@](C)=O", "S"), ("C[C@]1(O)CCCCO1", "[C;R]O")],
)
def test_an_inverted_centre_is_seen(smiles, centre):
    molecule = relaxed(smiles)
    mirrored = molecule.positions[0] * np.float32([1, 1, -1])
    atom = index(molecule, centre)[0]
    symbol = Chem.GetPeriodicTable().GetElementSymbol(int(molecule.numbers[atom]))
    assert judged(molecule, mirrored) == f"stereocentre {symbol}{atom + 1} inverted"
    unspecified = np.empty((0, 4), np.int16)
    assert judged(molecule, mirrored, chirality=unspecified) is None


@pytest.mark.parametrize(("smiles", "now"), [("C/C=C/C", "cis"), ("C/C=C\\C", "trans")])
def test_a_flipped_double_bond_is_seen(smiles, now):
    molecule, other = relaxed("C/C=C/C"), relaxed("C/C=C\\C")
    if now == "trans":
        molecule, other = other, molecule
    # Both SMILES number their atoms alike, so the one's coordinates serve as the other's.
    assert np.array_equal(molecule.bonds, other.bonds)
    assert judged(molecule, other.positions[0]) == f"double bond C2-C3 is {now} now"


def test_a_coordinate_that_is_not_a_number_is_no_molecule():
    molecule = relaxed("CCO")
    positions = molecule.positions[0].copy()
    positions[0, 0] = np.nan
    found = judged(molecule, positions)
    assert found is not None
    assert "broken" in found


def test_the_answer_does_not_depend_on_place_or_orientation():
    molecule = relaxed("C[C@H](F)Cl")
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    moved = molecule.positions[0] @ rotation + [100.0, -50.0, 20.0]
    assert judged(molecule, moved) is None
    assert judged(molecule, -moved) is not None


@pytest.mark.parametrize("pairs_at_once", [1, 100, 10**9])
def test_many_geometries_are_judged_as_each_by_itself(monkeypatch, pairs_at_once):
    monkeypatch.setattr(topology, "_PAIRS_AT_ONCE", pairs_at_once)
    rng = np.random.default_rng(1)
    positions, topologies = [], []
    for smiles in [*UNUSUAL, "C", "[Cl-]", "C[C@H](F)Cl", "C/C=C/C", "CC[S@](C)=O"]:
        molecule = relaxed(smiles)
        own = topology.Topology(
            molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds
        )
        x = molecule.positions[0]
        distorted = [x + rng.normal(0, s, x.shape).astype(np.float32) for s in (0.05, 0.2, 0.4)]
        not_finite = x.copy()
        not_finite[-1, 0] = np.nan
        for geometry in (x, x * np.float32([1, 1, -1]), *distorted, not_finite):
            positions.append(geometry)
            topologies.append(own)
    expected = [topology.rearranged(x, *t) for x, t in zip(positions, topologies, strict=True)]
    assert topology.rearrangements(positions, topologies) == expected
    words = {text.split()[-2] if "Å" in text else text.split()[-1] for text in expected if text}
    assert len(words) > 3  # every kind of change was among them
    assert expected.count(None) > len(UNUSUAL)
    assert topology.rearrangements([], []) == []
