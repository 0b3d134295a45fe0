"""SD files: stereo of every kind comes through, and what does not is told."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.library import Record, open_library
from mlff_core.shard import with_unreadable
from mlff_core.status import Flag, Reason


def flat(smiles: str) -> Chem.Mol:
    mol = Chem.MolFromSmiles(smiles)
    AllChem.Compute2DCoords(mol)
    return mol


def solid(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def read(folder: Path, *blocks: str) -> list[Record]:
    text = "".join(f"{block}\n$$$$\n" for block in blocks)
    (folder / "a.sdf").write_text(text)
    return list(open_library(folder / "a.sdf").records())


def same(one: str, two: str) -> bool:
    """Whether two CXSMILES mean the same, enhanced stereo and axes included."""
    a, b = (Chem.MolToCXSmiles(Chem.MolFromSmiles(s)) for s in (one, two))
    return a == b


STEREO = [
    "C[C@H](N)C(=O)O",
    "C/C=C/C(C)C",
    "C/C(=N\\O)/CC",
    "C[S@](=O)CC",
    "C[P@](CC)c1ccccc1",
    "C[P@@](CC)c1ccccc1",
    "CC[As@](C)c1ccccc1",
    "CP(C)c1ccccc1",
    "CC[Se@](C)=O",
    "C[C@H](N)[Se@@](C)=O",
    "CC[As@](C)(=O)c1ccccc1",
    "C[N@]1C[C@H]1F",
    "C[C@H](O)[C@@H](C)N |&1:1,3|",
    "C[C@H](O)[C@@H](C)N |o1:1,3|",
    "C[C@H](O)[C@@H](C)N |a:1,&1:3|",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.7|",
    "Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.6|",
]


@pytest.mark.parametrize("smiles", STEREO)
@pytest.mark.parametrize("drawn", [flat, solid])
def test_stereo_comes_through(tmp_path, smiles, drawn):
    mol = drawn(smiles)
    blocks = [Chem.MolToMolBlock(mol), Chem.MolToV3KMolBlock(mol)]
    for record in read(tmp_path, *blocks):
        assert record.smiles is not None
        assert same(record.smiles, smiles), record.smiles
        assert record.note is None


def test_groups_that_say_nothing_new_are_not_written(tmp_path):
    (record,) = read(tmp_path, Chem.MolToV3KMolBlock(flat("C[C@H](O)[C@@H](C)N |a:1,3|")))
    assert record.smiles == Chem.CanonSmiles("C[C@H](O)[C@@H](C)N")


def test_the_two_axes_are_two_molecules(tmp_path):
    found = read(tmp_path, *(Chem.MolToMolBlock(flat(s)) for s in STEREO[-2:]))
    assert found[0].smiles != found[1].smiles


def test_stereo_that_smiles_cannot_say_is_told(tmp_path):
    ring = Chem.MolToMolBlock(trans_cycloheptene())
    others = [Chem.MolToMolBlock(solid(s)) for s in ("ClC=C=CF", "ClC=C=C", "C1CCCCC=C1")]
    found = read(tmp_path, ring, *others)
    assert [r.note for r in found] == [
        "the trans double bond in a ring of 7 that the entry shows is not kept",
        "the handedness of an allene that the entry shows is not kept",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("smiles", "hindered"),
    [
        ("Cc1cccc(Cl)c1-c1c(C)cccc1Cl", True),
        ("Cc1cccc(Cl)c1-c1c(C)cccc1F", True),
        ("Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12", True),
        ("Cc1ccccc1-c1ccccc1Cl", False),  # two places: it turns
        ("Cc1cccc(C)c1-c1c(C)cccc1Cl", False),  # two equal neighbours at one end
        ("Cc1cccc(F)c1-c1c(F)cccc1Cl", False),
    ],
)
def test_a_hindered_axis_in_three_dimensions_needs_no_wedge(tmp_path, smiles, hindered):
    mol = solid(smiles)
    image = Chem.Mol(mol)
    image.GetConformer().SetPositions(mol.GetConformer().GetPositions() * [1.0, 1.0, -1.0])
    blocks = [Chem.MolToMolBlock(Chem.RemoveHs(m)) for m in (mol, image)]
    assert not any(line.split()[3:] in (["1"], ["6"]) for b in blocks for line in b.splitlines())
    found = read(tmp_path, *blocks)
    assert all(Chem.CanonSmiles(r.smiles.split()[0]) == Chem.CanonSmiles(smiles) for r in found)
    assert (found[0].smiles != found[1].smiles) == hindered
    if not hindered:
        return
    for record, original in zip(found, (mol, image), strict=True):
        molecule = prepare(0, None, record.smiles, ChemistrySettings())
        made = molecule_of(molecule.mapped_smiles, molecule.numbers, {0: molecule.positions[0]})
        hands = [hand(m, smiles) for m in (original, made)]
        assert hands[0] * hands[1] > 0


def hand(mol: Chem.Mol, smiles: str) -> float:
    """Signed volume of the atoms along the axis of a biaryl, as its SMILES orders them."""
    query = Chem.MolFromSmiles(smiles)
    ((b, c),) = query.GetSubstructMatches(Chem.MolFromSmarts("[a]-!@[a]"))
    a, d = (
        min(n.GetIdx() for n in query.GetAtomWithIdx(i).GetNeighbors() if n.GetIdx() != j)
        for i, j in ((b, c), (c, b))
    )
    match = mol.GetSubstructMatch(query)
    x = mol.GetConformer().GetPositions()[[match[k] for k in (a, b, c, d)]]
    return float(np.linalg.det(x[:3] - x[3]))


def trans_cycloheptene() -> Chem.Mol:
    """From distance geometry with a dihedral held at 130°, as in E-cycloheptene."""
    mol = Chem.AddHs(Chem.MolFromSmiles("C1CCCCC=C1"))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    field = AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol))
    field.Initialize()
    field.MMFFAddTorsionConstraint(4, 5, 6, 0, False, 125.0, 135.0, 1000.0)
    field.Minimize(maxIts=2000)
    return mol


def test_stereo_that_an_entry_shows_and_smiles_cannot_say_is_flagged(tmp_path):
    allene = Chem.MolFromSmiles("C(Cl)=C=CF")
    AllChem.Compute2DCoords(allene)
    drawn = Chem.MolToMolBlock(allene)
    flat_bond = "  1  2  1  0\n"
    assert flat_bond in drawn
    records = read(tmp_path, drawn.replace(flat_bond, "  1  2  1  1\n"), drawn)
    molecules = [prepare(r.record, None, r.smiles or "", ChemistrySettings()) for r in records]
    wedged, plain = with_unreadable(molecules, records)
    assert wedged.flags == [Flag.STEREO_NOT_KEPT]
    assert wedged.message == "the handedness of an allene that the entry shows is not kept"
    assert (plain.flags, plain.message) == ([], None)


def test_lines_that_are_blank_among_atoms_and_bonds_are_passed_over(tmp_path):
    mol = solid("C[C@H](N)C(=O)O")
    for block in (Chem.MolToMolBlock(mol), Chem.MolToV3KMolBlock(mol)):
        lines = block.splitlines()
        gaps = [*lines[:6], "", *lines[6:-1], "  ", "", "M END"]
        (record,) = read(tmp_path, "\n".join(gaps))
        assert record.smiles == Chem.CanonSmiles("C[C@H](N)C(=O)O")


def test_a_block_that_cannot_be_read_is_answered_in_rdkits_words(tmp_path, capfd):
    good = Chem.MolToMolBlock(flat("CCO"))
    blocks = [
        good.replace(" C   0", " Qq  0", 1),
        good.replace("  1  2  1  0", "  1  9  1  0"),
        good.replace("M  END\n", ""),
        good.replace("  3  2", "  3 x2"),
        "\n".join(good.splitlines()[1:]),
    ]
    found = read(tmp_path, *blocks)
    assert [r.smiles for r in found] == [None] * len(blocks)
    said = [(r.note or "").removeprefix("the mol block cannot be read: ") for r in found]
    assert said[0] == "Element 'Qq' not found"
    assert said[1] == "a number is out of range: not 8 < 3"
    assert "M END" in said[2] or "line" in said[2]
    assert said[3] == "Cannot convert ' x2' to unsigned int on line 4"
    assert "line 4" in said[4]
    assert capfd.readouterr().err == ""  # and in the row only


NO_BONDS = """{title}
  x

{n:3d}  0  0  0  0  0  0  0  0  0999 V2000
{atoms}{charges}M  END"""


def without_bonds(elements: list[str], charges: str = "") -> str:
    atoms = "".join(
        f"{i * 3.0:10.4f}{0.0:10.4f}{0.0:10.4f} {element:<3} 0  0  0  0  0\n"
        for i, element in enumerate(elements)
    )
    return NO_BONDS.format(title="t", n=len(elements), atoms=atoms, charges=charges)


@pytest.mark.parametrize(
    ("elements", "charges", "smiles"),
    [
        (["C", "O"], "", None),
        (["H", "H"], "", None),
        (["O", "H", "H"], "", None),
        (["Xe"], "", "[Xe]"),
        (["C"], "", "C"),
        (["Ar", "Xe"], "", "[Ar].[Xe]"),
        (["Na", "Cl"], "M  CHG  2   1   1   2  -1\n", "[Cl-].[Na+]"),
    ],
)
def test_atoms_without_bonds_are_a_molecule_only_if_they_have_none(
    tmp_path, elements, charges, smiles
):
    (record,) = read(tmp_path, without_bonds(elements, charges))
    assert record.smiles == smiles
    if smiles is None:
        assert f"{len(elements)} atoms but no bonds" in (record.note or "")


def test_a_repeating_unit_is_not_read_as_a_molecule(tmp_path):
    unit = "M  STY  1   1 SRU\nM  SAL   1  2   1   2\nM  SMT   1 n\nM  END"
    [record] = read(tmp_path, Chem.MolToMolBlock(flat("CCO")).replace("M  END", unit))
    assert record.smiles is not None
    molecule = prepare(0, None, record.smiles, ChemistrySettings())
    assert molecule.reason == Reason.INVALID_SMILES
    assert molecule.message is not None
    assert "polymer" in molecule.message


def test_atoms_that_no_bond_leads_to_are_told(tmp_path):
    (record,) = read(tmp_path, Chem.MolToMolBlock(flat("CCO.C")))
    assert record.smiles == "C.CCO"
    assert record.note == "no bond leads to C3: each is a molecule of its own"


def test_coordinates_that_are_not_used_are_told(tmp_path):
    (tmp_path / "a.sdf").write_text(Chem.MolToMolBlock(solid("CCO")) + "$$$$\n")
    said = open_library(tmp_path / "a.sdf").notes[0]
    assert said.startswith("the 3D coordinates of the file are not used")
    (tmp_path / "a.sdf").write_text(Chem.MolToMolBlock(flat("CCO")) + "$$$$\n")
    assert open_library(tmp_path / "a.sdf").notes == (
        "the title lines are blank",
        "no column is taken for the id (name one with --id-column)",
    )


def test_titles_that_are_all_the_same_give_way_to_a_property(tmp_path):
    block = Chem.MolToMolBlock(flat("CCO"))
    block = "untitled" + block
    entries = [f"{block}> <Compound_ID>\n{i}\n\n$$$$\n" for i in range(3)]
    (tmp_path / "a.sdf").write_text("".join(entries))
    library = open_library(tmp_path / "a.sdf")
    assert [r.input_id for r in library.records()] == ["0", "1", "2"]
    assert library.notes[0] == "the title lines are not unique or some are blank"
