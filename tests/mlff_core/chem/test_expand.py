"""A record to its variants: each isomer that can exist once, and what is said of the others.

The numbers of isomers are those of textbooks (tartaric acid three, inositol nine); those of cages
are the pairs of mirror images, or the one form, that their rings allow.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.constrained import choose_stereo, on_a_core, prepare_constraints
from mlff_core.chem.expand import Source, expand, expanded
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import prepare
from mlff_core.chem.variant import Expansion, Variant

ALL = ChemistrySettings(expansion=Expansion("enumerate", max_variants=32))
DIASTEREOMERS = ChemistrySettings(expansion=Expansion("diastereomers", max_variants=32))
OMEPRAZOLE = "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1"


def computed(smiles: str, settings: ChemistrySettings) -> list[str]:
    """SMILES of all variants; the record's own if it has none."""
    return [v.smiles for v in expand(0, None, smiles, settings)] or [smiles]


@pytest.mark.parametrize(
    ("smiles", "n", "n_diastereomers"),
    [
        pytest.param("OC(=O)C(O)C(O)C(O)=O", 3, 2, id="tartaric acid"),
        pytest.param("OC1C(O)C(O)C(O)C(O)C1O", 9, 8, id="inositol"),
        pytest.param("CC1CCC(C)CC1", 2, 2, id="1,4-dimethylcyclohexane"),
        pytest.param("CC1CCCCC1C", 3, 2, id="1,2-dimethylcyclohexane"),
        pytest.param("CC(O)C(O)C(O)C", 4, 3, id="pentane-2,3,4-triol"),
        pytest.param("OCC1OC(O)C(O)C(O)C1O", 32, 16, id="aldohexopyranose"),
        pytest.param("CC1(C)C2CCC1(C)C(=O)C2", 2, 1, id="camphor"),
        pytest.param("CN1C2CCC1CC(O)C2", 2, 2, id="tropine"),
        pytest.param("OC1CN2CCC1CC2", 2, 1, id="quinuclidinol"),
        pytest.param(OMEPRAZOLE, 2, 1, id="omeprazole"),
        pytest.param("CC=CC", 2, 2, id="but-2-ene"),
        pytest.param("CC=NO", 2, 2, id="acetaldoxime"),
        pytest.param("CC(=NN)c1ccccc1", 2, 2, id="acetophenone hydrazone"),
        pytest.param("C1CC=CCCC=C1", 3, 3, id="1,5-cyclooctadiene"),
        pytest.param("CC=C=CC", 1, 1, id="an allene"),
        pytest.param("Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12", 1, 1, id="BINOL"),
        pytest.param("CNC(=NC#N)NCCSCc1[nH]cnc1C", 1, 1, id="cimetidine"),
        pytest.param("CC(=NC)N", 1, 1, id="N-methylacetamidine"),
        pytest.param("CNC(NCC)=C[N+](=O)[O-]", 1, 1, id="the nitroethene of ranitidine"),
        pytest.param("COC(=O)C(C#N)=CNC", 1, 1, id="an amine and two acceptors"),
        pytest.param("CC(N)=CC(C)=O", 2, 2, id="an enaminone"),
        pytest.param("CC1CN1C", 2, 1, id="an aziridine"),
        pytest.param("C[NH+](CC)CCC", 1, 1, id="an ammonium ion"),
        pytest.param("C[C@H](O)[C@@H](C)O", 1, 1, id="nothing open"),
        pytest.param("C[C@H](O)C(C)F", 2, 2, id="one of two open"),
        pytest.param("C[C@H](O)c1ccccc1 |o1:1|", 2, 1, id="one of two, not known which"),
        pytest.param("C[C@H](O)c1ccccc1 |&1:1|", 2, 1, id="a racemate"),
        pytest.param("C[C@H](O)[C@@H](F)Cl |&1:1,3|", 2, 1, id="a racemate of two centres"),
    ],
)
def test_each_isomer_that_can_exist_comes_once(smiles: str, n: int, n_diastereomers: int) -> None:
    found = computed(smiles, ALL)
    assert len(found) == len(set(found)) == n
    assert len(computed(smiles, DIASTEREOMERS)) == n_diastereomers
    flat = {Chem.MolToSmiles(Chem.MolFromSmiles(s), isomericSmiles=False) for s in found}
    assert flat == {Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)}


def test_stereo_that_is_given_stays() -> None:
    for smiles in computed("C[C@H](O)C(F)C=C(Cl)F", ALL):
        assert Chem.MolFromSmiles(smiles).HasSubstructMatch(
            Chem.MolFromSmarts("[CH3][C@H](O)C"), useChirality=True
        )


def test_a_cage_says_which_isomers_it_forbids() -> None:
    camphor = expand(0, None, "CC1(C)C2CCC1(C)C(=O)C2", ALL)
    assert {v.message for v in camphor} == {"2 of 4 stereoisomers cannot exist in these rings"}
    assert {(v.kind, v.n_variants, v.flags) for v in camphor} == {("stereoisomer", 2, ())}


def test_where_rings_allow_one_isomer_nothing_was_open() -> None:
    # As PubChem has it: amantadine has no stereocentre.
    amantadine, key = "NC12CC3CC(CC(C3)C1)C2", "DKNWSYNQZKUICI-UHFFFAOYSA-N"
    [variant] = expand(0, None, amantadine, ALL)
    row = prepare(0, None, variant, ALL)
    assert (row.smiles, row.inchikey, row.message) == (amantadine, key, None)
    assert (row.variant_kind, row.n_variants, len(row.chirality)) == ("as_given", 1, 0)
    by_card = choose_stereo(prepare_constraints(0, None, variant, ALL), row.positions[0])
    assert by_card is not None
    assert by_card.undefined_stereo is False
    assert (by_card.smiles, by_card.message, len(by_card.chirality)) == (amantadine, None, 0)


@pytest.mark.parametrize(
    ("smiles", "hands"),
    [
        pytest.param("O=C([O-])P(=O)([O-])O", 1, id="foscarnet"),
        pytest.param("CCOP(=O)([O-])OC", 1, id="a phosphodiester"),
        pytest.param("CCOP(=O)(O)OC", 1, id="its acid"),
        pytest.param("CS(=O)O", 1, id="a sulfinic acid"),
        pytest.param("CS(=O)(=N)N", 1, id="a sulfonimidamide with three protons"),
        pytest.param("C[NH+]1CCCC1(C)C", 1, id="an ammonium ion in a ring"),
        pytest.param("CC(P(=O)(O)O)P(=O)(O)[O-]", 1, id="the carbon between two acids"),
        pytest.param("OC(CC(=O)O)(CC(=O)[O-])C(=O)[O-]", 1, id="citrate"),
        pytest.param("[NH3+]CC(O)CN", 1, id="the carbon between two amines"),
        pytest.param("CC(c1cc[nH+]cc1)c1ccncc1", 1, id="the carbon between two pyridines"),
        pytest.param("CCOP(=S)([O-])OC", 2, id="a phosphorothioate"),
        pytest.param("C[N+](C)(C)CC(O)CN", 2, id="a cation that no proton makes"),
        pytest.param("CC(C(=O)[O-])C(=O)OC", 2, id="the carbon between an acid and an ester"),
        pytest.param("CC([NH3+])C(=O)[O-]", 2, id="an amino acid"),
        pytest.param("CCOP(=O)(C)OC", 2, id="a phosphonate diester"),
        pytest.param("CS(=O)CC", 2, id="a sulfoxide"),
        pytest.param("CS(=O)(=NC)N(C)C", 2, id="a sulfonimidamide without"),
    ],
)
def test_what_a_proton_alone_tells_apart_is_no_stereocentre(smiles: str, hands: int) -> None:
    assert len(computed(smiles, ALL)) == hands
    row = prepare(0, None, smiles, ChemistrySettings())
    assert ("@" in str(row.smiles)) == (hands == 2) == (len(row.chirality) > 0)
    assert row.message == (
        "chose one isomer: 1 stereocentre had no stereo" if hands == 2 else None
    )  # fmt: skip


def test_a_double_bond_beside_two_acids_has_sides_only_if_more_than_a_proton_tells_them() -> None:
    for smiles, sides in (("CC=C(C(=O)[O-])C(=O)O", 1), ("CC=C(C(=O)[O-])C(=O)OC", 2)):
        assert len(computed(smiles, ALL)) == sides
        row = prepare(0, None, smiles, ChemistrySettings())
        assert len(row.double_bonds) == sides - 1
        assert ("/" in str(row.smiles)) == (sides == 2)


def test_both_hands_of_an_ammonium_ion_are_conformers_of_one_molecule() -> None:
    # N-methyl beside C-methyl, cis and trans: the proton leaves and comes back at the other side.
    row = prepare(0, None, "C[C@H]1CCC[NH+]1C", ChemistrySettings(n_conformers=30))
    bonded = [{int(b) for b in pair} for pair in row.bonds]
    [n] = np.flatnonzero(row.numbers == 7)
    around = [next(iter(pair - {n})) for pair in bonded if n in pair]
    hands = {
        np.sign(np.linalg.det(x[around[:3]] - x[around[3]])) for x in row.conformers()
    }  # fmt: skip
    assert hands == {-1.0, 1.0}


def test_more_isomers_than_wanted_are_counted_and_always_the_same_are_kept() -> None:
    settings = ChemistrySettings(expansion=Expansion("enumerate"))
    chain = "C(F)C(Cl)C(Br)C(F)C(Cl)CI"
    smiles = f"Br{chain}"
    variants = expand(3, "x", smiles, settings)
    assert [v.number for v in variants] == list(range(8))
    assert {v.n_variants for v in variants} == {8}
    assert {v.message for v in variants} == {"8 of 32 stereoisomers"}
    assert {v.flags for v in variants} == {("variants_left_out",)}
    otherwise = Chem.MolToSmiles(Chem.MolFromSmiles(smiles), doRandom=True)
    assert [v.smiles for v in expand(0, None, otherwise, settings)] == [v.smiles for v in variants]
    [far_more] = {v.message for v in expand(0, None, f"CC(I){chain}", settings)}
    assert far_more == "8 of 64 stereoisomers"
    [most] = {v.message for v in expand(0, None, f"CC(F)C(I){chain}", settings)}
    assert most == "8 of up to 128 stereoisomers"


def test_what_was_done_to_the_record_stands_in_every_row() -> None:
    rows = expand(0, None, "C[C@H](F)Cl.O |&1:1|", ALL)
    assert len(rows) == 2
    for row in rows:
        assert row.message == "kept the largest organic fragment of 2, left out O"
        assert row.flags == ()


@pytest.mark.parametrize("smiles", ["", "nonsense", "C[Fe]C", "C" * 300])
def test_what_cannot_be_read_is_left_to_the_record_s_own_row(smiles: str) -> None:
    assert expand(0, None, smiles, ALL) == []


def test_the_state_at_a_ph_says_how_sure_it_is() -> None:
    settings = ChemistrySettings(expansion=Expansion(ph=7.4))
    [acid] = expand(0, None, "CC(=O)O", settings)
    assert (acid.smiles, acid.kind) == ("CC(=O)[O-]", "protomer")
    assert acid.margin == pytest.approx(2.6)
    assert acid.weight == pytest.approx(1.0, abs=0.01)
    [ion] = expand(0, None, "CC(=O)[O-].[Na+]", settings)
    assert (ion.smiles, ion.kind, ion.message) == (
        "CC(=O)[O-]", "as_given", "kept the largest organic fragment of 2, left out [Na+]"
    )  # fmt: skip
    [ethanol] = expand(0, None, "CCO", settings)
    assert (ethanol.kind, ethanol.weight, ethanol.margin) == ("as_given", 1.0, None)


def test_stereo_comes_after_the_protons() -> None:
    settings = ChemistrySettings(
        expansion=Expansion("enumerate", ph=9.0, ph_window=1.0, max_variants=3)
    )
    rows = expand(0, None, "CC(N)COC", settings)
    kinds = [row.kind for row in rows]
    assert kinds == ["protomer+stereoisomer", "protomer+stereoisomer", "stereoisomer"]
    assert {row.message for row in rows} == {"3 of 4 variants"}
    assert rows[0].weight == rows[1].weight > (rows[2].weight or 0) > 0
    assert all("variants_left_out" in row.flags for row in rows)
    # An ammonium ion inverts: its nitrogen is no stereocentre.
    [ion] = expand(0, None, "CCN(C)CCC", ChemistrySettings(expansion=Expansion("enumerate", ph=7)))
    assert ion.kind == "protomer"


@pytest.mark.parametrize(
    ("smiles", "others"),
    [
        ("Oc1ccccn1", {"O=c1cccc[nH]1"}),
        ("O=c1cc[nH]cc1", {"Oc1ccncc1"}),
        ("CC(=O)C=C(C)O", {"CC(=O)CC(C)=O"}),
        ("Cc1nn[nH]n1", {"Cc1nnn[nH]1"}),
        ("c1c[nH]nn1", {"c1cn[nH]n1"}),
        ("c1ccc2[nH]ncc2c1", {"c1ccc2n[nH]cc2c1"}),
        ("Cc1c[nH]cn1", {"Cc1cnc[nH]1"}),
        # No imidic acid, no enol of a ketone, no phenol without its ring, no imine of an amine.
        ("CC(N)=O", set()),
        ("CC(C)=O", set()),
        ("OC(=O)C(O)C(O)C(O)=O", set()),
        ("OCC(O)C=O", set()),
        ("OCC1OC(O)C(O)C(O)C1O", set()),
        ("Oc1ccccc1", set()),
        ("Nc1ccccn1", set()),
        ("C[C@H](N)C(=O)NC1CC1", set()),
    ],
)
def test_tautomers_are_those_that_a_chemist_would_draw(smiles: str, others: set[str]) -> None:
    settings = ChemistrySettings(expansion=Expansion(tautomers=True))
    rows = expand(0, None, smiles, settings)
    if others:
        assert rows[0].smiles == Chem.CanonSmiles(smiles)
        assert [row.kind for row in rows] == ["as_given"] + ["tautomer"] * len(others)
    assert {row.smiles for row in rows[1:]} == {Chem.CanonSmiles(s) for s in others}


def test_tautomers_keep_the_centres_that_are_given() -> None:
    settings = ChemistrySettings(expansion=Expansion(tautomers=True, max_variants=100))
    smiles = "C[C@H](Cc1c[nH]cn1)N1C(=O)NC(=O)[C@@H]1C"
    rows = expand(0, None, smiles, settings)
    assert len(rows) > 1
    for row in rows:
        centres = Chem.FindMolChiralCenters(Chem.MolFromSmiles(row.smiles), includeUnassigned=True)
        assert [mark for _, mark in centres].count("?") == 0
        assert len(centres) == 2


def test_a_long_list_of_tautomers_is_cut_and_says_so() -> None:
    settings = ChemistrySettings(expansion=Expansion(tautomers=True))
    rows = expand(0, None, "Nc1nc2c(nc(CNc3ccc(cc3)C(=O)O)cn2)c(=O)[nH]1", settings)
    assert 1 < len(rows) <= 8
    assert all("variants_left_out" in row.flags for row in rows)


def test_a_variant_is_computed_in_place_of_its_record() -> None:
    variants = expand(5, "id", "CC(F)Cl.O", ALL)
    rows = [prepare(5, "id", variant, ALL) for variant in variants]
    assert [r.variant for r in rows] == [0, 1]
    assert {(r.n_variants, r.variant_kind, r.input_smiles) for r in rows} == {
        (2, "stereoisomer", "CC(F)Cl.O")
    }
    assert {r.smiles for r in rows} == {"C[C@@H](F)Cl", "C[C@H](F)Cl"}
    assert len({r.inchikey for r in rows}) == 2
    assert {r.message for r in rows} == {"kept the largest organic fragment of 2, left out O"}
    assert {r.standard_smiles for r in rows} == {"CC(F)Cl"}


def test_a_record_of_which_no_isomer_can_exist_fails_with_the_reasons() -> None:
    cubane = "[C@H]12[C@H]3[C@@H]4[C@@H]1[C@@H]5[C@@H]2[C@@H]3[C@@]45C(F)O"  # corners inside out
    [variant] = expand(0, None, cubane, ALL)
    row = prepare(0, None, variant, ALL)
    assert (row.status, row.reason, row.n_variants) == ("failed", "embedding_failed", 1)
    assert str(row.message).startswith("none of 2 stereoisomers that were tried could be embedded")
    assert "; " in str(row.message)


def prepare_or_die(
    record: int, input_id: str | None, source: str | Variant, settings: ChemistrySettings
) -> PreparedMolecule:
    """Prepare, but for the variants of one hand, which never come back."""
    if isinstance(source, Variant) and "@@" in source.smiles:
        raise SystemExit(1)
    return prepare(record, input_id, source, settings)


def test_a_variant_that_takes_its_process_with_it_leaves_its_brothers_alone() -> None:
    records = [(0, None, "CCO"), (1, "two", "CC(F)Cl"), (2, None, "nonsense")]
    ended: list[PreparedMolecule] = []
    with EmbeddingPool(ALL, 1, prepare=prepare_or_die) as pool:
        sources: Iterator[Source] = expanded(records, pool, ended)
        rows = list(pool.map(sources))
    assert not ended
    assert [(r.record, r.variant, r.n_variants) for r in rows] == [
        (0, 0, 1), (1, 0, 2), (1, 1, 2), (2, 0, 1)
    ]  # fmt: skip
    assert [r.reason for r in rows] == [None, "internal_error", None, "invalid_smiles"]


def test_a_record_whose_expansion_takes_too_long_fails_in_words() -> None:
    settings = ChemistrySettings(hard_timeout_s=0.2, expansion=Expansion("enumerate"))
    ended: list[PreparedMolecule] = []
    quinine = "COc1ccc2nccc(C(O)C3CC4CCN3CC4C=C)c2c1"
    with EmbeddingPool(settings, 1, prepare=on_a_core) as pool:
        assert list(expanded([(4, "q", quinine)], pool, ended)) == []
    [row] = ended
    assert (row.record, row.input_id, row.reason) == (4, "q", "embedding_timeout")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stereo", "all"),
        ("max_variants", 0),
        ("max_variants", 1001),
        ("ph", 30),
        ("ph_window", -1),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Expansion(**{field: value})  # type: ignore[arg-type]
