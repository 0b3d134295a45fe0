"""Which part of a mixture is computed: the drug, not its counter-ion, and never a bare ligand."""

import random

import pytest
from rdkit import Chem

from mlff_core.chem.fragments import known_salt, largest_fragment
from mlff_core.chem.molecule import NotOkError
from mlff_core.status import Reason

IMATINIB = "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1"
NICOTINE = "CN1CCC[C@H]1c1cccnc1"
DIBENZOYLTARTRATE = "OC(=O)[C@@H](OC(=O)c1ccccc1)[C@H](OC(=O)c1ccccc1)C(O)=O"
LACTOBIONATE = (
    "OC[C@H]1O[C@@H](O[C@@H]([C@@H](CO)O)[C@@H]([C@H](C([O-])=O)O)O)[C@H](O)[C@@H](O)[C@H]1O"
)
DOCUSATE = "CCCCC(CC)COC(=O)CC(C(=O)OCC(CC)CCCC)S(=O)(=O)[O-]"
PAMOATE = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"
MEGLUMINE = "CNC[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO"
FENAMATE = "Cc1ccc(Cl)c(Nc2ccccc2C(=O)O)c1Cl"


def chosen(smiles: str) -> tuple[str, str]:
    """SMILES of what is computed, and what is said about it."""
    notes: list[str] = []
    mol = largest_fragment(Chem.MolFromSmiles(smiles), notes)
    return Chem.MolToSmiles(mol), "; ".join(notes)


def canonical(smiles: str) -> str:
    return Chem.CanonSmiles(smiles)


@pytest.mark.parametrize(
    ("drug", "counter_ion"),
    [
        (NICOTINE, DIBENZOYLTARTRATE),
        (NICOTINE, PAMOATE),
        ("C[NH+](C)CCc1c[nH]c2ccccc12", LACTOBIONATE),
        ("CC[NH+](CC)CCOC", DOCUSATE),
        (FENAMATE, MEGLUMINE),
        ("NCCc1ccccc1", "CCCCCCCCCCCCCCCCCC(=O)O"),
        ("C[NH2+]C(C)C", "Cc1ccc(S(=O)(=O)[O-])cc1"),
        ("C[n+]1ccn(C)c1", "F[P-](F)(F)(F)(F)F"),
        ("[O-]c1ccccc1", "CCCC[N+](CCCC)(CCCC)CCCC"),
        ("[O-]c1ccccc1", "C1COCCOCCOCCOCCOCCO1"),
        (
            "CC[NH+](CC)CCOC",
            "Fc1c(F)c(F)c([B-](c2c(F)c(F)c(F)c(F)c2F)(c2c(F)c(F)c(F)c(F)c2F)"
            "c2c(F)c(F)c(F)c(F)c2F)c(F)c1F",
        ),
    ],
)
def test_a_counter_ion_on_the_list_is_left_out_however_large_it_is(drug, counter_ion):
    for smiles in (f"{drug}.{counter_ion}", f"{counter_ion}.{drug}"):
        kept, said = chosen(smiles)
        assert kept == canonical(drug)
        assert f"left out {canonical(counter_ion)} (" in said


def test_heavy_atoms_decide_and_not_hydrogens():
    # 14 heavy atoms with 30 hydrogens against 15 with none.
    kept, said = chosen("CCCCCCCCCCCCCC.Clc1c(Cl)c(Cl)c2c(c1Cl)C(=O)OC2=O")
    assert kept == canonical("Clc1c(Cl)c(Cl)c2c(c1Cl)C(=O)OC2=O")
    assert said.startswith("kept the largest organic fragment of 2, left out CCCCCCCCCCCCCC")


def test_if_everything_is_on_the_list_the_largest_is_kept():
    assert chosen("[Na+].[O-]C(=O)c1ccccc1")[0] == "O=C([O-])c1ccccc1"
    assert chosen("C[N+](C)(C)CCO.[O-]C(=O)c1ccccc1O")[0] == "O=C([O-])c1ccccc1O"
    assert chosen("OCCN(CCO)CCO.OC(=O)c1ccccc1O")[0] == "O=C(O)c1ccccc1O"  # a tie: the ring
    assert chosen("[NH4+].[Cl-]")[0] == "[Cl-]"


def test_the_order_of_the_parts_does_not_matter():
    parts = [IMATINIB, "CS(=O)(=O)O", "O", "O", "CCO", "CC(=O)Nc1ccccc1"]
    answers = set()
    for seed in range(6):
        random.Random(seed).shuffle(parts)
        answers.add(chosen(".".join(parts))[0])
    assert answers == {canonical(IMATINIB)}


def test_parts_that_are_alike_are_told():
    amine = "C[C@H](N)Cc1ccccc1"
    kept, said = chosen(f"{amine}.{amine}.OS(=O)(=O)O")
    assert kept == canonical(amine)
    assert said == (
        "kept the largest organic fragment of 3, one of 2 that are alike, "
        "left out O=S(=O)(O)O (sulfate)"
    )


@pytest.mark.parametrize(
    "complex_in_pieces",
    [
        "N.N.Cl[Pt]Cl",
        "[NH3].[NH3].[Cl-].[Cl-].[Pt+2]",
        "[CH-]1C=CC=C1.[CH-]1C=CC=C1.[Fe+2]",
        "[Fe+3].Cc1occc(=O)c1[O-].Cc1occc(=O)c1[O-].Cc1occc(=O)c1[O-]",
        "[Zn+2].[O-]n1ccccc1=S.[O-]n1ccccc1=S",
        "[Zn+2].N.N.[Cl-].[Cl-]",
        "CCC[CH2-].[Li+]",
        "[CH3-].[Mg+2].[Br-]",
        "[Pt].NCCN",
        "[Cu+2].[O-]C(=O)C.[O-]C(=O)C.c1ccncc1",
        "[Mg+2].c1cc2cc3ccc([n-]3)cc3ccc(cc4nc(cc1[n-]2)C=C4)n3",
        "[K+].[K+].Cl[Pt-2](Cl)(Cl)Cl.NCCN",
        "[Hg+2].[O-]C(=O)C.[O-]C(=O)C",
        "[Zn+2].[Cl-].[Cl-].c1ccnc(c1)-c1ccccn1",
        "[Zn+2].[O-]S(=O)(=O)[O-].CN1CCC[C@H]1c1cccnc1",
        "[Na+].[Na+].[Ca+2].[O-]C(=O)CN(CC(=O)[O-])CCN(CC(=O)[O-])CC(=O)[O-]",
        "[Zn+2].[O-]C(=O)CNCC(=O)[O-]",
    ],
)
def test_a_metal_complex_in_pieces_is_refused(complex_in_pieces):
    with pytest.raises(NotOkError, match="metal complex") as refused:
        largest_fragment(Chem.MolFromSmiles(complex_in_pieces), [])
    assert refused.value.reason == Reason.UNSUPPORTED_ELEMENT


@pytest.mark.parametrize(
    ("salt", "kept"),
    [
        ("[K+].[O-]C(=O)CC", "CCC(=O)[O-]"),
        ("[Ca+2].[O-]C(=O)CC.[O-]C(=O)CC", "CCC(=O)[O-]"),
        ("[Mg+2].CCS(=O)(=O)[O-].CCS(=O)(=O)[O-].O", "CCS(=O)(=O)[O-]"),
        ("[Zn+2].CCCCCCCC(=O)[O-].CCCCCCCC(=O)[O-]", "CCCCCCCC(=O)[O-]"),
        ("[Al+3].CCCCCCCC(=O)[O-].[OH-].[OH-]", "CCCCCCCC(=O)[O-]"),
        ("[Zn+2].NCC(=O)[O-].NCC(=O)[O-]", "NCC(=O)[O-]"),
        ("[Ca+2].O=C([O-])CNC(=O)CCC(=O)[O-]", "O=C([O-])CCC(=O)NCC(=O)[O-]"),
        ("[Na+].[Na+].OC(=O)CN(CC(=O)O)CC(=O)[O-]", "O=C([O-])CN(CC(=O)O)CC(=O)O"),
        ("[Na].CCOC(=O)C(=O)O", "CCOC(=O)C(=O)O"),
        ("[Na]Cl.CCOC(=O)C(=O)O", "CCOC(=O)C(=O)O"),
        ("[Na+].CCOC(=O)[CH-]C(=O)OCC", "CCOC(=O)[CH-]C(=O)OCC"),
        ("[K+].[C-]#N", "[C-]#N"),
        ("CC[N+](CC)(CC)CC.Cl[Fe-](Cl)(Cl)Cl", "CC[N+](CC)(CC)CC"),
        ("C[n+]1ccn(C)c1.F[Sb-](F)(F)(F)(F)F", "Cn1cc[n+](C)c1"),
    ],
)
def test_plain_counter_ions_are_left_out_and_no_complexes(salt, kept):
    assert chosen(salt)[0] == canonical(kept)


def test_names_come_from_the_list_whatever_the_charge_and_stereo():
    for smiles in ("OC(=O)/C=C/C(=O)O", "[O-]C(=O)/C=C\\C(=O)[O-]"):
        assert known_salt(Chem.MolFromSmiles(smiles)) == "maleate or fumarate"
    assert known_salt(Chem.MolFromSmiles("O=[N+]([O-])[O-]")) == "nitrate"
    assert known_salt(Chem.MolFromSmiles("C1CCCCC1C(=O)O")) is None  # no benzoate
    assert known_salt(Chem.MolFromSmiles(IMATINIB)) is None
