"""Random protonation states: same skeleton, bounded charge, every combination of the groups."""

import random

import pytest
from rdkit import Chem

from mlff_core.distill.protomers import protomer, sites

LYSINE = "NCCCCC(N)C(=O)O"


def states(smiles: str, n: int = 200, **options: int) -> set[str | None]:
    rng = random.Random(1)
    return {protomer(smiles, rng, **({"max_charge": 3} | options)) for _ in range(n)}


def test_every_combination_of_the_groups_is_met():
    assert states(LYSINE) == {
        Chem.CanonSmiles(s)
        for s in (
            "NCCCCC(N)C(=O)O",
            "NCCCCC(N)C(=O)[O-]",
            "[NH3+]CCCCC(N)C(=O)O",
            "NCCCCC([NH3+])C(=O)O",
            "[NH3+]CCCCC(N)C(=O)[O-]",
            "NCCCCC([NH3+])C(=O)[O-]",
            "[NH3+]CCCCC([NH3+])C(=O)O",
            "[NH3+]CCCCC([NH3+])C(=O)[O-]",
        )
    }


def test_where_it_starts_from_does_not_matter():
    assert states("[NH3+]CCCCC([NH3+])C(=O)[O-]") == states(LYSINE)


def test_the_charge_stays_within_its_bound():
    assert {Chem.GetFormalCharge(Chem.MolFromSmiles(s)) for s in states(LYSINE, max_charge=1)} == {
        -1, 0, 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("smiles", "acids", "bases"),
    [
        ("CCO", 0, 0),
        ("CC(=O)O", 1, 0),
        ("COP(=O)(O)O", 2, 0),
        ("CNS(C)(=O)=O", 1, 0),
        ("O=C1CCC(=O)N1", 1, 0),
        ("c1c[nH]cn1", 1, 1),
        ("Oc1ccccc1", 1, 0),
        ("CN(C)C", 0, 1),
        ("CC(N)=O", 0, 0),
        ("Nc1ccccc1", 0, 0),
        ("NC(=N)N", 0, 1),
        ("C#N", 0, 0),
    ],
)
def test_groups_that_can_be_charged(smiles: str, acids: int, bases: int):
    found = sites(Chem.MolFromSmiles(smiles))
    assert (len(found[0]), len(found[1])) == (acids, bases)


def test_charges_that_no_proton_explains_stay():
    for smiles in states("C[N+](C)(C)CC(=O)O", 20):
        assert "[N+]" in smiles
    for smiles in states("NCc1ccc([N+](=O)[O-])cc1", 20):
        assert "[N+](=O)[O-]" in smiles


def test_neighbours_do_not_both_take_a_proton():
    assert "c1c[nH+]cc[nH+]1" not in states("c1cnccn1")
    assert "[NH3+]CC[NH3+]" not in states("NCCN")
    assert "[NH3+]CCC[NH3+]" in states("NCCCN")


def test_what_has_no_such_group_has_no_other_state():
    assert states("CCO", 1) == {None}
    assert states("not a molecule", 1) == {None}


def test_groups_of_both_signs_are_three_at_least_and_bound_by_the_total_charge():
    found = states("OC(=O)CCC(N)C(=O)NCCCCN", both_signs=True)
    assert found == {Chem.CanonSmiles(s) for s in ("[O-]C(=O)CCC([NH3+])C(=O)NCCCC[NH3+]",)}
    wide = states("OC(=O)CCC(N)C(=O)O", both_signs=True)
    assert wide == {Chem.CanonSmiles("[O-]C(=O)CCC([NH3+])C(=O)[O-]")}
    assert states("OC(=O)CCC(N)C(=O)NCCCCN", both_signs=True, max_charge=0) == {None}


def test_a_molecule_of_two_groups_has_no_state_of_both_signs_and_more():
    assert states("NCC(=O)O", 20, both_signs=True) == {None}
    assert states("NCCCCCN", 20, both_signs=True) == {None}
