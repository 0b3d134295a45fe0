"""Given geometries: the molecule is the entry's, each atom where the entry has it."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pose import frozen_atoms, pose
from mlff_core.library.molblock import smiles_of

#: Centres, a double bond, equal groups that differ by place only, charges, a ring.
CHIRAL = "C/C=C/[C@H](O)[C@@H]1CC[C@H](C(=O)[O-])[NH2+]1"
#: Neopentane and one more methyl group.
FIVE_BONDS = (
    "\n     RDKit          3D\n\n  6  5  0  0  0  0  0  0  0  0999 V2000\n"
    + "".join(
        f"{x:10.4f}{y:10.4f}{z:10.4f} C   0  0\n"
        for x, y, z in [
            (0, 0, 0),
            (1.5, 0, 0),
            (-1.5, 0, 0),
            (0, 1.5, 0),
            (0, -1.5, 0),
            (0, 0, 1.5),
        ]
    )
    + "".join(f"  1{k:3}  1  0\n" for k in range(2, 7))
    + "M  END\n"
)
DIISOPROPYL = "CC(C)[C@H](F)C(C)C"


def embedded(smiles: str, shuffle: int | None = None) -> Chem.Mol:
    """A molecule with all hydrogens and a geometry, its atoms in random order."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    if shuffle is None:
        return mol
    order = np.random.default_rng(shuffle).permutation(mol.GetNumAtoms()).tolist()
    return Chem.RenumberAtoms(mol, order)


def coordinates(block: str) -> np.ndarray:
    """What a mol block says, in its order, float32 [n_atoms, 3]."""
    mol = Chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
    return np.float32(mol.GetConformer().GetPositions())


def posed(block: str, frozen: str = "", **options: object) -> PreparedMolecule:
    smiles, note = smiles_of(block.split("\n"), posed=True)
    assert smiles is not None, note
    settings = ChemistrySettings(from_3d="all", **options)  # type: ignore[arg-type]
    return pose(3, "name", smiles, block + frozen, settings)


@pytest.mark.parametrize("smiles", [CHIRAL, DIISOPROPYL, "c1ccccc1", "[2H][C@](F)(Cl)Br", "O"])
def test_every_atom_stands_where_the_entry_has_it(smiles: str) -> None:
    mol = embedded(smiles, shuffle=len(smiles))
    block = Chem.MolToMolBlock(mol)
    found = posed(block)
    assert found.status == "ok"
    assert "hydrogens_added" not in found.flags
    x = found.conformers()[0]
    given = coordinates(block)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    placed = sorted(zip(found.numbers.tolist(), x.tolist(), strict=True))
    assert placed == sorted(zip(numbers, given.tolist(), strict=True))
    # Read back from the coordinates alone, it is the same stereoisomer.
    back = molecule_of(found.mapped_smiles or "", found.numbers, {0: x})
    Chem.AssignStereochemistryFrom3D(back)
    for atom in back.GetAtoms():
        atom.SetAtomMapNum(0)
    assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(back))) == Chem.CanonSmiles(smiles)
    for a, b in found.bonds.tolist():
        assert np.linalg.norm(x[a] - x[b]) < 2.1


def test_missing_hydrogens_are_placed_and_told() -> None:
    whole = embedded(CHIRAL)
    bare = Chem.RemoveHs(whole)
    found = posed(Chem.MolToMolBlock(bare))
    assert found.status == "ok"
    assert "hydrogens_added" in found.flags
    n_missing = whole.GetNumAtoms() - bare.GetNumAtoms()
    assert f"{n_missing} of {whole.GetNumAtoms()} atoms" in (found.message or "")
    assert found.smiles == posed(Chem.MolToMolBlock(whole)).smiles
    x = found.conformers()[0]
    lengths = [
        np.linalg.norm(x[a] - x[b]) for a, b in found.bonds.tolist() if found.numbers[b] == 1
    ]
    assert len(lengths) == n_missing
    assert 0.9 < min(lengths) <= max(lengths) < 1.2


def flat(mol: Chem.Mol) -> str:
    """A drawing that says it is none."""
    rdDepictor.Compute2DCoords(mol)
    block = Chem.MolToMolBlock(mol)
    return block.replace("2D\n", "3D\n", 1)


def zeroed(block: str) -> str:
    """The block with all coordinates 0."""
    lines = block.split("\n")
    n_atoms = int(lines[3][:3])
    for k in range(4, 4 + n_atoms):
        lines[k] = f"{0:10.4f}" * 3 + lines[k][30:]
    return "\n".join(lines)


def test_what_has_no_geometry_is_rejected_with_words() -> None:
    benzene = embedded("c1ccccc1")
    x = benzene.GetConformer().GetPositions()
    x -= x.mean(0)
    in_plane = x @ np.linalg.svd(x)[2].T
    in_plane[:, 2] = 0.0
    benzene.GetConformer().SetPositions(in_plane)
    lying = Chem.MolToMolBlock(benzene)
    if "3D" not in lying.split("\n")[1]:
        lying = lying.replace("2D\n", "3D\n", 1)
    cases = [
        (lying, "ok", None, ""),
        (lying.replace("3D\n", "2D\n", 1), "rejected", "not_3d", "drawing"),
        (flat(Chem.MolFromSmiles("OC1CCCCC1")), "rejected", "not_3d", "drawing"),
        (flat(Chem.AddHs(Chem.MolFromSmiles("CC"))), "rejected", "not_3d", "drawing"),
        (zeroed(Chem.MolToMolBlock(embedded("CCO"))), "rejected", "not_3d", "in one place"),
    ]
    for block, status, reason, words in cases:
        found = posed(block)
        assert (found.status, found.reason) == (status, reason), found.message
        assert words in (found.message or "")


def test_a_valence_that_cannot_be_is_rejected_as_elsewhere() -> None:
    mol = Chem.RWMol(embedded("CC"))
    carbon = mol.AddAtom(Chem.Atom(6))
    mol.AddBond(0, carbon, Chem.BondType.SINGLE)
    mol.GetConformer().SetAtomPosition(carbon, [2.0, 2.0, 2.0])
    # With hydrogens and, as they are dropped where a SMILES is made, without.
    for block in (Chem.MolToMolBlock(mol, kekulize=False), FIVE_BONDS):
        found = posed(block)
        assert (found.status, found.reason) == ("rejected", "invalid_smiles")
        assert "too many bonds" in (found.message or "")


def test_of_a_salt_the_organic_part_is_posed() -> None:
    block = Chem.MolToMolBlock(embedded("[Na+].CC(=O)[O-]", shuffle=1))
    found = posed(block)
    assert (found.status, found.smiles, found.n_atoms) == ("ok", "CC(=O)[O-]", 7)
    assert len(found.conformers()[0]) == 7
    assert "left out [Na+]" in (found.message or "")


def test_frozen_atoms_are_those_named_whatever_the_order() -> None:
    mol = embedded(CHIRAL, shuffle=4)
    block = Chem.MolToMolBlock(mol)
    smiles, _ = smiles_of(block.split("\n"))
    given = coordinates(block)
    one = ChemistrySettings(from_3d="frozen")
    found = pose(0, None, smiles or "", block + "2, 5-7\n11", one)
    named = given[[1, 4, 5, 6, 10]]
    kept = found.conformers()[0][found.frozen]
    assert sorted(kept.tolist()) == sorted(named.tolist())
    heavy = pose(0, None, smiles or "", block, ChemistrySettings(from_3d="hydrogens"))
    assert heavy.frozen.tolist() == np.flatnonzero(heavy.numbers > 1).tolist()
    nobody = pose(0, None, smiles or "", block, one)
    assert (nobody.status, nobody.frozen.tolist()) == ("ok", [])
    assert "no frozen atoms are named" in (nobody.message or "")
    for text in ("0", "31", "7-5", "all", "-2", "1.5"):
        wrong = pose(0, None, smiles or "", block + text, one)
        assert (wrong.status, wrong.reason) == ("rejected", "invalid_frozen_atoms"), text


def test_frozen_atoms_are_counted_from_one() -> None:
    assert frozen_atoms("1 3-4,6", 6) == {0, 2, 3, 5}
    assert frozen_atoms(" \n", 6) == set()
