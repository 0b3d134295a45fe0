"""Which molecules are learnt from: the split, the reasons, the substitutes."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from rdkit import Chem

from mlff_core.distill.molecules import (
    UNUSUAL_CHARGE,
    Choice,
    MoleculesConfig,
    candidates,
    choose,
    choose_many,
    choose_molecules,
    is_held_out,
    smiles_charge,
    substitute,
)


def chosen(smiles: str, **changes: object) -> Choice | str:
    return choose(smiles, replace(MoleculesConfig(held_out_share=0.5, salt="a"), **changes))


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("not a molecule", "invalid_smiles"),
        ("", "invalid_smiles"),
        ("CCO.O", "mixture"),
        ("[Pt]", "element"),
        ("C[CH2]", "radical_or_isotope"),
        ("[2H]O", "radical_or_isotope"),
        ("C" * 40, "too_large"),
        ("[NH3+]" + "C[NH2+]" * 4 + "C", "charge"),
    ],
)
def test_what_is_left_out_has_a_reason(smiles: str, reason: str):
    assert chosen(smiles) == reason


def test_variants_of_a_molecule_stand_on_one_side():
    for variants in (
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C[C@H]([NH3+])C(=O)[O-]"),
        ("C/C=C/C", "C/C=C\\C"),
        ("OC(=O)c1ccccc1", "[O-]C(=O)c1ccccc1"),
    ):
        assert len({chosen(s).key for s in variants}) == 1
        for salt in "abcdefgh":
            assert len({chosen(s, salt=salt).held_out for s in variants}) == 1


def test_a_record_of_two_molecules_is_held_out_with_either_of_them():
    seen = set()
    for salt in "abcdefghijklmnopqrstuvwxyz":
        parts = [chosen(text, salt=salt).held_out for text in ("C[NH3+]", "CC(=O)[O-]")]
        both = chosen("C[NH3+].CC(=O)[O-]", salt=salt, max_parts=2)
        assert both.charge == 0
        assert both.held_out == any(parts)
        seen.add(tuple(parts))
    assert len(seen) == 4
    assert chosen("C.C.C", max_parts=2) == "mixture"


def test_the_share_of_keys_that_is_held_out_is_the_one_asked_for():
    held_out = sum(is_held_out(f"KEY{k}", 0.02, "a") for k in range(20_000))
    assert 300 < held_out < 500
    assert not any(is_held_out(f"KEY{k}", 0.0, "a") for k in range(100))


@pytest.mark.parametrize(
    "smiles", ["CCO", "C[NH3+]", "[O-]C(=O)C[N+](C)(C)C", "[O-2]", "[NH3+]CC[NH3+]", "[Ca++]"]
)
def test_the_charge_is_read_from_the_brackets(smiles: str):
    assert smiles_charge(smiles) == Chem.GetFormalCharge(Chem.MolFromSmiles(smiles))


def test_heavier_relatives_take_the_place_of_sulfur_and_phosphorus():
    assert substitute("CSC", 16, 34) == "C[Se]C"
    assert substitute("CS(C)=O", 16, 34) is None
    assert substitute("CCO", 16, 34) is None
    assert substitute("CP(C)C", 15, 33) == "C[As](C)C"


def test_rare_elements_and_charges_are_taken_besides():
    table = ["CCCC", "CCCCC", "CCCCCC", "C[Si](C)(C)C", "[NH3+]CC[NH3+]", "CB(O)O", "CBr"]
    config = MoleculesConfig(common=2)
    assert {text for text, _ in candidates(table, config)} == {
        "CCCC", "CCCCC", "C[Si](C)(C)C", "[NH3+]CC[NH3+]", "CB(O)O"
    }  # fmt: skip
    assert candidates(table, config) == candidates(table, config)


def test_a_molecule_keeps_its_kind_whatever_takes_its_place():
    acids = [f"{'C' * k}SCC(N)CC(=O)O" for k in range(1, 41)]
    table = [*acids, *(f"{'C' * k}CO" for k in range(1, 41)), acids[0]]
    kinds = ["acid"] * 40 + ["alcohol"] * 40 + ["again"]
    config = MoleculesConfig(
        selenium_share=0.5, protomer_share=0.5, held_out_share=0.0, max_atoms=200
    )
    made, left_out = choose_molecules(table, config, n_processes=1, kinds=kinds)
    assert [replace(choice, kind="") for choice in made] == (
        choose_molecules(table, config, n_processes=1)[0]
    )
    assert Counter("Se" in choice.smiles for choice in made)[True] > 10
    assert Counter("+" in choice.smiles or "-" in choice.smiles for choice in made)[True] > 10
    for choice in made:
        if choice.kind != "again":
            assert choice.kind == ("acid" if "N" in choice.smiles else "alcohol"), choice
    assert len(made) + left_out["duplicate"] == 81


@pytest.mark.parametrize(
    "smiles",
    [
        "CC(C)=[NH2+]",
        "NC(=[NH2+])c1ccccc1",
        "[NH+](C)=C",
        "C[n+]1ccccc1",
        "C[N+](C)=C",
        "C[S+](C)C",
        "c1cc[o+]cc1",
        "CC(=O)[N-]S(C)(=O)=O",
        "C[S-]",
        "[C-]#[N+]C",
        "c1nnn[n-]1",
        "CN=[N+]=[N-]",
    ],
)
def test_a_charge_where_few_molecules_have_one_is_unusual(smiles: str):
    assert Chem.MolFromSmiles(smiles) is not None
    assert re.search(UNUSUAL_CHARGE, smiles)


@pytest.mark.parametrize(
    "smiles",
    ["C[NH3+]", "CC(=O)[O-]", "O=[N+]([O-])c1ccccc1", "C[N+](=O)[O-]", "C[N+](C)(C)CC(=O)[O-]"],
)
def test_ammonium_carboxylate_and_nitro_groups_are_usual(smiles: str):
    assert not re.search(UNUSUAL_CHARGE, smiles)


def test_what_is_left_out_of_many_is_counted():
    made, left_out = choose_many(["CCO", "CC.C", "?", "CCN", "??"], MoleculesConfig())
    assert [choice.smiles for choice in made] == ["CCO", "CCN"]
    assert left_out == {"mixture": 1, "invalid_smiles": 2}


def test_other_protonation_states_take_the_place_of_some_molecules():
    tails = ("CCN", "CCCN", "CCOCCN")
    table = [f"{'C' * k}NS(=O)(=O){tail}" for tail in tails for k in range(1, 21)] + ["CCO"]
    config = MoleculesConfig(held_out_share=0.5)
    as_they_are, _ = choose_many(table, config)
    made, left_out = choose_many(table, replace(config, protomer_share=0.5))
    assert not left_out
    assert (
        made
        == choose_many(table[:30], replace(config, protomer_share=0.5))[0]
        + (choose_many(table[30:], replace(config, protomer_share=0.5))[0])
    )
    changed = sum(a != b for a, b in zip(as_they_are, made, strict=True))
    assert 10 < changed < 40  # half of them are drawn, of which a quarter stay what they are
    assert {choice.charge for choice in made} == {-1, 0, 1}
    for before, after in zip(as_they_are, made, strict=True):
        assert (after.key, after.held_out) == (before.key, before.held_out)
        mol = Chem.MolFromSmiles(after.smiles)
        assert after.charge == Chem.GetFormalCharge(mol)
        assert after.n_atoms == Chem.AddHs(mol).GetNumAtoms()


def test_states_of_both_signs_come_besides_and_only_where_a_molecule_has_one():
    tails = ("CC(=O)O", "CCC(=O)O", "C(C)C(=O)O")
    table = [f"{'C' * k}NCCC(N)C{tail}" for tail in tails for k in range(1, 18)] + ["CCO"] * 5
    config = MoleculesConfig(held_out_share=0.0)
    made, _ = choose_many(table, replace(config, both_signs_share=0.5))
    charges = Counter(choice.charge for choice in made)
    assert set(charges) == {0, 1}
    assert 15 < charges[1] < 36
    for choice in made:
        if choice.charge:
            assert choice.smiles.count("+]") == 2
            assert choice.smiles.count("[O-]") == 1
    # Which of them are drawn for any other state does not change.
    plain, _ = choose_many(table, replace(config, protomer_share=0.3))
    both, _ = choose_many(table, replace(config, protomer_share=0.3, both_signs_share=0.3))
    drawn = [k for k, choice in enumerate(plain) if choice.smiles != table[k]]
    assert drawn
    assert [both[k] for k in drawn] == [plain[k] for k in drawn]
