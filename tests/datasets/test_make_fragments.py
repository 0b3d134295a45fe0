"""A fragment has what is near its bond, with all valences, and none is held out."""

import csv
import random
import string
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from mlff_core.distill.molecules import Choice, MoleculesConfig, choose, is_held_out
from mlff_core.testing import script_at

DATASETS = Path(__file__).parents[2] / "datasets"
CUT = script_at(DATASETS / "make_fragments.py")
CONFIG = MoleculesConfig()
LINES = (DATASETS / "druglike/druglike.csv").read_text().splitlines()
DRUGS = [row["smiles"] for row in csv.DictReader(LINES)]


def every_fragment(smiles: str) -> list[str]:
    """One for each bond that turns."""
    mol = Chem.MolFromSmiles(smiles)
    bonds = mol.GetSubstructMatches(CUT.TURNS)
    return [CUT.cut_out(mol, CUT.around(mol, bond)) for bond in bonds]


def with_hydrogens(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


@pytest.fixture(scope="module")
def rows() -> list[Choice]:
    return CUT.chosen(DRUGS, 100, CONFIG, 1)


@pytest.mark.parametrize(
    ("smiles", "fragments"),
    [
        ("CCCCCC", {"CCCC", "CCCCCC"}),
        # Whole rings, with what is fused to them.
        ("OCCCCn1ccc2ccccc21", {"CCn1ccc2ccccc21", "CCCn1ccc2ccccc21", "CCCCO", "CCCO"}),
        # A nitrogen of a ring has a hydrogen for what is cut off it.
        (
            "c1cc[nH]c1-n1cccc1CCO",
            {"Cc1cccn1-c1ccc[nH]1", "OCCc1cccn1-c1ccc[nH]1", "OCCc1ccc[nH]1"},
        ),
        # Groups in ortho, but not those in para.
        (
            "CCCc1ccccc1-c1ccc(CCC)cc1",
            {"Cc1ccccc1-c1ccccc1", "CCCc1ccccc1-c1ccccc1", "CCCc1ccccc1"},
        ),
        # Groups that are not cut.
        ("CCNC(=O)c1ccccc1", {"CCNC=O", "CCNC(=O)c1ccccc1", "NC(=O)c1ccccc1"}),
        ("CCCS(=O)(=O)NC1CC1", {"CCCS(N)(=O)=O", "CS(=O)(=O)NC1CC1"}),
        ("CCCCSc1ccccc1", {"CCCC", "CCCCSc1ccccc1", "CCSc1ccccc1", "CSc1ccccc1"}),
        (
            "CCCCOC(=O)CCCC",
            {"CCCC", "CCCCOC=O", "CCOC=O", "COC(C)=O", "CCC(=O)OC", "CCCCC(=O)OC"},
        ),
        ("CCNN(CC)CCC", {"CCNN", "CCNN(C)CC", "CCN(C)N", "CCCN(N)CC", "CCCNN"}),
        ("CCCCON=C(C)C", {"CCCC", "CCCCON=C(C)C", "CCON=C(C)C", "CON=C(C)C"}),
        ("FC(F)(F)CCC#N", {"CCC(F)(F)F", "N#CCCC(F)(F)F"}),
        # Charges, with a hydrogen for each group that is cut off a charged nitrogen.
        ("CCCC[N+](CCCC)(CCCC)CCCC", {"CC[N+](C)(C)C", "CCCC[NH3+]", "CCCC"}),
        (
            "CCCC[n+]1cccc(CCO)c1",
            {"CC[n+]1ccccc1", "CCCC[n+]1ccccc1", "OCCc1ccc[nH+]c1", "CCCC"},
        ),
        ("[O-]C(=O)CCC[NH3+]", {"CCC(=O)[O-]", "CCC[NH3+]", "[NH3+]CCCC(=O)[O-]"}),
    ],
)
def test_a_fragment_has_what_is_near_its_bond(smiles, fragments):
    assert set(every_fragment(smiles)) == fragments


@pytest.mark.parametrize("smiles", ["not a molecule", "CC", "c1ccccc1", "CC(C)(C)C", "CC#CC#CC"])
def test_a_molecule_without_a_bond_that_turns_has_no_fragment(smiles):
    assert CUT.fragment(smiles, random.Random(1)) is None


def test_a_fragment_says_nothing_of_stereo():
    rng = random.Random(1)
    found = {CUT.fragment("C/C=C/[C@H](N)C(=O)O", rng) for _ in range(30)}
    assert found == {"CC=CC(N)C(=O)O"}


def test_a_fragment_has_the_valences_and_charges_of_its_molecule():
    n_cut = 0
    for smiles in DRUGS:
        mol = Chem.MolFromSmiles(smiles)
        for bond in mol.GetSubstructMatches(CUT.TURNS):
            kept = CUT.around(mol, bond)
            atoms = [mol.GetAtomWithIdx(index) for index in sorted(kept)]
            part = Chem.MolFromSmiles(CUT.cut_out(mol, kept))

            def described(atoms: list[Chem.Atom]) -> Counter[tuple[int, ...]]:
                return Counter(
                    (a.GetAtomicNum(), a.GetFormalCharge(), a.GetTotalValence()) for a in atoms
                )

            assert described(list(part.GetAtoms())) == described(atoms), smiles
            assert len(Chem.GetMolFrags(part)) == 1
            assert part.HasSubstructMatch(CUT.TURNS)
            assert not any(atom.GetNumRadicalElectrons() for atom in part.GetAtoms())
            n_cut += len(kept) < mol.GetNumAtoms()
    assert n_cut > 500


def test_a_list_is_fit_to_learn_from_and_has_nothing_twice(rows):
    smiles = [row.smiles for row in rows]
    assert len(set(smiles)) == len(smiles) > 50
    assert smiles == [Chem.CanonSmiles(text) for text in smiles]
    for row in rows:
        assert choose(row.smiles, CONFIG) == row
        mol = with_hydrogens(row.smiles)
        assert row.n_atoms == mol.GetNumAtoms()
        assert CUT.MIN_ATOMS <= row.n_atoms <= CUT.MAX_ATOMS
        assert row.charge == Chem.GetFormalCharge(mol)
        assert mol.HasSubstructMatch(CUT.TURNS)


def test_two_in_five_are_ions_where_there_are_as_many(rows):
    signs = Counter(CUT.sign(row.smiles) for row in rows)
    assert signs[0] == 60
    assert 5 < signs[1] <= 20
    assert 5 < signs[-1] <= 20
    many = CUT.chosen(DRUGS, 20, CONFIG, 1)
    assert Counter(CUT.sign(row.smiles) for row in many) == {0: 12, 1: 4, -1: 4}


def test_a_fragment_and_its_state_do_not_share_the_last_room():
    config = replace(CONFIG, held_out_share=0.0)
    smiles = ["CC(N)CC(=O)O"]
    found = [row.smiles for seed in range(40) for row in CUT.chosen(smiles, 9, config, seed)]
    assert "CC([NH3+])CC(=O)[O-]" in found
    assert all(len(CUT.chosen(smiles, 1, config, seed)) == 1 for seed in range(40))


def test_the_same_seed_gives_the_same_list_and_another_another(rows):
    assert CUT.chosen(DRUGS, 100, CONFIG, 1) == rows
    assert CUT.chosen(DRUGS, 100, CONFIG, 2) != rows


def test_nothing_held_out_is_in_the_list(rows):
    def held_out(rows: list[Choice]) -> int:
        return sum(is_held_out(row.key, 0.5, CONFIG.salt) for row in rows)

    assert held_out(rows) > 20
    half = CUT.chosen(DRUGS, 100, replace(CONFIG, held_out_share=0.5), 1)
    assert len(half) > 20
    assert held_out(half) == 0


def test_a_fragment_is_held_out_with_its_molecule_and_a_state_with_its_fragment():
    # The proton of a sulfonamide counts as connectivity: each of the three has a key of its own.
    whole, part, state = (
        f"{nitrogen}S(=O)(=O)c1ccc{para}cc1"
        for nitrogen, para in (("N", "(C(C)=O)"), ("N", ""), ("[NH-]", ""))
    )
    seen = set()
    for salt in string.ascii_letters:
        config = replace(CONFIG, held_out_share=0.5, salt=salt)
        sides = tuple(choose(text, config).held_out for text in (whole, part, state))
        if sides in seen:
            continue
        seen.add(sides)
        found = {row.smiles for seed in range(30) for row in CUT.chosen([whole], 10, config, seed)}
        assert (Chem.CanonSmiles(part) in found) == (not any(sides[:2])), sides
        assert (Chem.CanonSmiles(state) in found) == (not any(sides)), sides
    assert len(seen) == 8


def test_the_table_says_that_they_are_fragments(tmp_path, monkeypatch):
    table, out = tmp_path / "table.parquet", tmp_path / "fragments.parquet"
    pq.write_table(pa.table({"smiles": DRUGS[:40]}), table)
    recipe = DATASETS / "recipes/charges.toml"
    monkeypatch.setattr(
        sys,
        "argv",
        ["make_fragments.py", str(table), str(out), "--n", "9", "--recipe", str(recipe)],
    )
    CUT.main()
    made = pq.read_table(out)
    assert made.column_names == ["smiles", "charge", "n_atoms", "kind"]
    assert set(made["kind"].to_pylist()) == {"fragment"}
    assert made.num_rows > 3
