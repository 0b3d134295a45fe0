"""Every group makes molecules of its kind, and none of them is held out."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from rdkit import Chem

from mlff_core.distill.molecules import (
    Choice,
    MoleculesConfig,
    choose,
    is_held_out,
    smiles_charge,
)
from mlff_core.testing import script_at

MADE = script_at(Path(__file__).parents[2] / "datasets/make_groups.py")
CONFIG = MoleculesConfig()
EVERY_GROUP = [(kind, group) for kind, groups in MADE.GROUPS.items() for group in groups]
EVERY_SUBSTITUENT = [text for texts in MADE.SUBSTITUENTS.values() for text in texts]


def n_rings(smiles: str) -> int:
    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None, smiles
    return mol.GetRingInfo().NumRings()


def same_everywhere(group: str, text: str) -> str:
    return MADE.PLACE.sub(MADE.with_own_rings(text), group)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return MADE.chosen(600, CONFIG, 1)


def test_no_group_and_no_substituent_is_written_twice():
    groups = [group for _, group in EVERY_GROUP]
    assert len(set(groups)) == len(groups)
    for texts in MADE.SUBSTITUENTS.values():
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("kind", MADE.GROUPS)
def test_every_group_makes_a_molecule_to_learn_from(kind):
    rng = random.Random(3)
    for group in MADE.GROUPS[kind]:
        found = [
            choose(MADE.filled(group, rng), replace(CONFIG, max_atoms=MADE.MAX_ATOMS))
            for _ in range(5)
        ]
        assert "invalid_smiles" not in found, group
        assert any(isinstance(choice, Choice) and not choice.held_out for choice in found), group


def test_every_substituent_fits_in_every_place():
    for text in EVERY_SUBSTITUENT:
        assert Chem.MolFromSmiles(f"C{text}") is not None, text
    for _, group in EVERY_GROUP:
        assert not MADE.PLACE.match(group), group
        # A place is a branch or the end: what follows in a chain would be bound to the last atom.
        assert all(group[m.end() :][:1] in ("", ")") for m in MADE.PLACE.finditer(group)), group


@pytest.mark.parametrize("substituent", ["c1ccccc1", "c1ccc2ccccc2c1"])
def test_rings_of_group_and_substituent_do_not_meet(substituent):
    assert n_rings(same_everywhere("c1ccc({})cc1", "c1ccccc1")) == 2
    for _, group in EVERY_GROUP:
        assert "%" not in group
        n_places = len(MADE.PLACE.findall(group))
        expected = n_rings(same_everywhere(group, "C")) + n_places * n_rings(substituent)
        assert n_rings(same_everywhere(group, substituent)) == expected, group


def test_charges_are_what_the_headings_say():
    for kind, group in EVERY_GROUP:
        charge = smiles_charge(group)
        mol = Chem.MolFromSmiles(same_everywhere(group, "C"))
        assert Chem.GetFormalCharge(mol) == charge
        if kind == "cation":
            assert charge == 1, group
        elif kind == "anion":
            assert charge < 0, group
        elif kind == "acid":
            assert charge <= 0, group
        elif kind not in {"hydrogen bond", "quinoid"}:
            assert charge == 0, group
    for name in ("small", "large", "aryl"):
        assert not any(map(smiles_charge, MADE.SUBSTITUENTS[name]))


def test_an_aryl_place_has_an_aryl_group_and_an_end_place_an_end_group():
    rng = random.Random(4)
    for place, name in (("{A}", "aryl"), ("{E}", "end")):
        fit = {f"C{MADE.with_own_rings(text)}" for text in MADE.SUBSTITUENTS[name]}
        assert {MADE.filled(f"C{place}", rng) for _ in range(1000)} == fit


def test_every_kind_is_there_and_no_molecule_comes_twice(rows):
    smiles = [text for text, _ in rows]
    assert {kind for _, kind in rows} == set(MADE.GROUPS)
    assert len(set(smiles)) == len(smiles)
    assert smiles == [Chem.CanonSmiles(text) for text in smiles]
    assert ("O=Cc1ccccc1O", "hydrogen bond") in rows


def test_the_same_seed_gives_the_same_list_and_another_another(rows):
    assert MADE.chosen(600, CONFIG, 1) == rows
    assert MADE.chosen(600, CONFIG, 2) != rows


def test_nothing_held_out_is_in_the_list(rows):
    def held_out(rows: list[tuple[str, str]], share: float) -> int:
        keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(text))[:14] for text, _ in rows]
        return sum(is_held_out(key, share, CONFIG.salt) for key in keys)

    assert held_out(rows, CONFIG.held_out_share) == 0
    assert held_out(rows, 0.5) > 100
    assert held_out(MADE.chosen(600, replace(CONFIG, held_out_share=0.5), 1), 0.5) == 0
