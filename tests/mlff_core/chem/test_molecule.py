"""SMILES to checked molecules: what is accepted, what is said, and what the geometry is."""

import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdMolAlign, rdMolDescriptors, rdMolTransforms

from mlff_core.chem import embed as embedding
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged
from mlff_core.status import Flag, MoleculeStatus, Reason

# A norbornene with its bridgeheads trans: no such molecule exists.
IMPOSSIBLE = "NC(=O)[C@H]1[C@@H](N)[C@@H]2C=C[C@@H]1C2"
IMPOSSIBLE_WITH_A_TAIL = "NC(=O)[C@H]1[C@@H](NCCCCCCCC)[C@@H]2C=C[C@@H]1C2"
C60 = (
    "c12c3c4c5c2c2c6c7c1c1c8c3c3c9c4c4c%10c5c5c2c2c6c6c%11c7c1c1c7c8c3c3c8c9c4c4c9c%10c5c5c2c2c6c6"
    "c%11c1c1c7c3c3c8c4c4c9c5c2c2c6c1c3c42"
)
# Distance geometry from the usual start finds no coordinates for this one, random ones work.
NEEDS_RANDOM_COORDINATES = (
    "CCCCCCC(CCCCCC)(CO[C@H]1O[C@@H](CO)[C@H](O)[C@@H](O)[C@@H]1O)CO[C@H]1O[C@@H](CO)[C@H](O)"
    "[C@@H](O)[C@@H]1O"
)
CYCLIC_DECAPEPTIDE = "O=C1" + "CNC(=O)" * 9 + "CN1"
CAMPHOR_WITHOUT_STEREO = "CC1(C)C2CCC1(C)C(=O)C2"
STEREO = [
    "C[C@H](F)Cl",
    "C[C@@H](F)Cl",
    "C[S@](=O)CC",
    "C[P@](=O)(O)CC",
    "N[C@@H](C)C(=O)N[C@@H](CO)C(=O)O",
    "C[C@H]1C[C@@H](C)C1",
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "F/C=C/F",
    "F/C=C\\F",
    "C/C(Cl)=C(/C)[C@H](O)F",
    "C/C=N\\O",
    "OC(=O)/C=C\\C(=O)[O-]",
]


def prepared(smiles: str, **settings: object) -> PreparedMolecule:
    return prepare(7, "id", smiles, ChemistrySettings(**settings))  # type: ignore[arg-type]


def changes(molecule: PreparedMolecule) -> list[str | None]:
    arrays = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    return [rearranged(positions, *arrays) for positions in molecule.positions]


@pytest.mark.parametrize(
    ("smiles", "reason", "said"),
    [
        pytest.param("", Reason.EMPTY, "no SMILES", id="empty"),
        pytest.param(" \t ", Reason.EMPTY, "no SMILES", id="blank"),
        pytest.param("CC(", Reason.INVALID_SMILES, "syntax error at position 3", id="bracket"),
        pytest.param("hello", Reason.INVALID_SMILES, "syntax error at position 1", id="word"),
        pytest.param("C1CC", Reason.INVALID_SMILES, "unclosed ring", id="open ring"),
        pytest.param("CCO\nCCN", Reason.INVALID_SMILES, "several SMILES", id="two in a field"),
        pytest.param("c1cccc1", Reason.INVALID_SMILES, "kekulize", id="not aromatic"),
        pytest.param("CC(C)(C)(C)C", Reason.INVALID_SMILES, "atom # 1 C, 5", id="valence"),
        pytest.param("CC(C)(C)(C)C", Reason.INVALID_SMILES, "too many bonds", id="advice"),
        pytest.param("C\0C", Reason.INVALID_SMILES, "'\\x00' at position 2", id="NUL"),
        pytest.param("C\udcff", Reason.INVALID_SMILES, "'\\udcff' at position 2", id="bad byte"),
        pytest.param("CCÖ", Reason.INVALID_SMILES, "'\\xd6' at position 3", id="not ASCII"),
        pytest.param("CC>>CC", Reason.INVALID_SMILES, "a reaction is no", id="reaction"),
        pytest.param("[R1]CC", Reason.INVALID_SMILES, "written out", id="R group"),
        pytest.param("[D]O[D]", Reason.INVALID_SMILES, "[2H]", id="deuterium"),
        pytest.param("[C,N]C", Reason.INVALID_SMILES, "SMARTS", id="query atom"),
        pytest.param("C~C", Reason.INVALID_SMILES, "bond C1-C2 is not said", id="any bond"),
        pytest.param("InChI=1S/CH4/h1H4", Reason.INVALID_SMILES, "InChI", id="InChI"),
        pytest.param("CCO.", Reason.INVALID_SMILES, "one side of a dot", id="dot"),
        pytest.param("NaN", Reason.EMPTY, "but NaN", id="missing value"),
        pytest.param("CC.CC |Sg:n:0,1::ht|", Reason.INVALID_SMILES, "polymer", id="polymer"),
        pytest.param("CCO |m:0:1.2|", Reason.INVALID_SMILES, "several atoms", id="any place"),
        pytest.param("F[P-](F)(F)(F)F", Reason.RADICAL, "61 electrons", id="odd electrons"),
        pytest.param("C" * 10_000, Reason.TOO_LARGE, "30002 atoms", id="10,000 characters"),
        pytest.param("C" * 10_001, Reason.TOO_LARGE, "10001 characters", id="more characters"),
        pytest.param("C" * 84, Reason.TOO_LARGE, "254 atoms, the limit is 250", id="huge"),
        pytest.param("[Na+]", Reason.UNSUPPORTED_ELEMENT, "not know Na, it", id="sodium"),
        pytest.param("N[Pt](N)(Cl)Cl", Reason.UNSUPPORTED_ELEMENT, "not know Pt,", id="complex"),
        pytest.param("*CC", Reason.UNSUPPORTED_ELEMENT, "wildcard", id="attachment point"),
        pytest.param("C[N+](C)(C)" * 4 + "C", Reason.UNSUPPORTED_CHARGE, "charge +4", id="charge"),
        pytest.param("[H+]", Reason.UNSUPPORTED_CHARGE, "no electron", id="proton"),
        pytest.param("CC[O]", Reason.RADICAL, "1 unpaired electron (O3): if", id="radical"),
        pytest.param("CCO |^1:0|", Reason.RADICAL, "1 unpaired electron", id="CXSMILES radical"),
        pytest.param("[CH2]", Reason.RADICAL, "2 unpaired electrons", id="carbene"),
    ],
)
def test_what_cannot_be_computed_is_rejected_with_its_reason(smiles, reason, said):
    molecule = prepared(smiles)
    assert (molecule.record, molecule.input_id, molecule.input_smiles) == (7, "id", smiles)
    assert (molecule.status, molecule.reason) == (MoleculeStatus.REJECTED, reason)
    assert molecule.message is not None
    assert said in molecule.message
    assert molecule.positions.size == 0
    assert molecule.bonds.shape == (0, 2)


@pytest.mark.parametrize(
    ("smiles", "computed", "said"),
    [
        pytest.param("[Cl-]", "[Cl-]", None, id="ion"),
        pytest.param("[H][H]", "[H][H]", None, id="hydrogen"),
        pytest.param("C", "C", None, id="methane"),
        pytest.param("O", "O", None, id="water"),
        pytest.param("C[N+](C)(C)CC([O-])=O", "C[N+](C)(C)CC(=O)[O-]", None, id="zwitterion"),
        pytest.param("CC(C)=C=CC", "CC=C=C(C)C", None, id="allene"),
        pytest.param("C1C2CC3CC1CC(C2)C3", "C1C2CC3CC1CC(C2)C3", None, id="cage"),
        pytest.param(CYCLIC_DECAPEPTIDE, None, None, id="macrocycle"),
        pytest.param("NCC(=O)" * 8 + "O", None, None, id="peptide"),
        pytest.param("OCC a name", "CCO", None, id="name behind"),
        pytest.param("OCC\t|bad", "CCO", None, id="damaged CXSMILES"),
        pytest.param("[CH3:1][OH:2]", "CO", None, id="atom maps"),
        pytest.param(
            "[Na+].CC(=O)[O-].O.O",
            "CC(=O)[O-]",
            "kept the largest organic fragment of 4, left out [Na+], 2 x O",
            id="salt",
        ),
        pytest.param(
            "CCO.c1ccccc1",
            "c1ccccc1",
            "kept the largest organic fragment of 2, left out CCO",
            id="mixture",
        ),
        pytest.param(
            "BrBr.CI", "CI", "kept the largest organic fragment of 2, left out BrBr", id="organic"
        ),
        pytest.param(
            "[2H]O[13CH3]",
            "[2H]O[13CH3]",
            "isotopes 13C, 2H are computed as the plain elements",
            id="isotopes",
        ),
        pytest.param(
            "CC=CC(F)Cl",
            None,
            "chose one isomer: 1 stereocentre and 1 double bond had no stereo",
            id="stereo",
        ),
    ],
)
def test_what_can_be_computed_is_and_says_what_was_decided(smiles, computed, said):
    molecule = prepared(smiles)
    assert (molecule.status, molecule.reason, molecule.message) == (MoleculeStatus.OK, None, said)
    if computed is not None:
        assert molecule.smiles == computed
    assert molecule.n_atoms == len(molecule.numbers)
    assert molecule.positions.shape == (1, molecule.n_atoms, 3)
    assert changes(molecule) == [None]


@pytest.mark.parametrize("smiles", ["CC(=O)OI(OC(C)=O)c1ccccc1", "I[I-]I", "Cc1ccc([I+]C)cc1"])
def test_halogens_with_several_bonds_are_flagged_as_hardly_trained_on(smiles):
    molecule = prepared(smiles)
    assert Flag.OUTSIDE_TRAINING in molecule.flags
    assert molecule.message is not None
    assert "is a halogen with several bonds" in molecule.message


def test_columns_are_what_rdkit_says_of_the_molecule_that_was_computed():
    molecule = prepared("[Na+].CC(C)Cc1ccc(cc1)C(C)C(=O)[O-]")
    mol = Chem.MolFromSmiles(molecule.smiles)
    assert molecule.formula == "C13H17O2-"
    assert molecule.charge == -1
    assert (molecule.n_atoms, molecule.n_heavy_atoms) == (32, 15)
    assert molecule.inchikey == Chem.MolToInchiKey(mol)
    assert molecule.n_rotatable_bonds == rdMolDescriptors.CalcNumRotatableBonds(mol)
    assert molecule.mol_weight == pytest.approx(Descriptors.MolWt(mol))
    assert molecule.clogp == pytest.approx(Crippen.MolLogP(mol))
    assert molecule.tpsa == pytest.approx(rdMolDescriptors.CalcTPSA(mol))
    assert molecule.qed == pytest.approx(QED.qed(mol))


@pytest.mark.parametrize("smiles", ["C", "CCO", C60, "O=[N+]([O-])c1ccc(N=NC2CCS2)cc1S(N)(=O)=O"])
def test_qed_computed_from_known_parts_is_rdkits(smiles):
    rejected = prepared(smiles, elements=())
    assert rejected.qed == pytest.approx(QED.qed(Chem.MolFromSmiles(smiles)), abs=1e-12)


@pytest.mark.parametrize("smiles", STEREO)
def test_specified_stereo_is_in_the_geometry_and_in_the_arrays(smiles):
    molecule = prepared(smiles)
    assert molecule.message is None
    # The truth is RDKit's own reading of the coordinates, without the SMILES' stereo.
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == molecule.numbers.tolist()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, position in enumerate(molecule.positions[0].tolist()):
        conformer.SetAtomPosition(atom, position)
    mol.AddConformer(conformer)
    for atom in mol.GetAtoms():
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    Chem.AssignStereochemistryFrom3D(mol)
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == molecule.smiles
    n_centres = sum(
        s.type == Chem.StereoType.Atom_Tetrahedral for s in Chem.FindPotentialStereo(mol)
    )
    assert len(molecule.chirality) == n_centres
    for a, b, c, d in molecule.chirality:
        sides = molecule.positions[0][[a, b, c]] - molecule.positions[0][d]
        assert np.linalg.det(sides) > 0.1
    for i, j, k, last, side in molecule.double_bonds.tolist():
        angle = rdMolTransforms.GetDihedralDeg(mol.GetConformer(), i, j, k, last)
        assert abs(angle) == pytest.approx(0 if side > 0 else 180, abs=20)


def test_bonds_are_those_of_the_molecule_with_hydrogens():
    molecule = prepared("OCC")
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    bonds = {(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()}
    assert {tuple(sorted(bond)) for bond in molecule.bonds.tolist()} == bonds
    dtypes = [array.dtype for array in (molecule.numbers, molecule.positions, molecule.bonds)]
    assert dtypes == [np.int8, np.float32, np.int16]


def test_a_geometry_depends_on_the_molecule_and_the_seed_alone():
    first = prepared("CC(=O)Nc1ccc(O)cc1")
    otherwise_written = prepare(3, None, "c1(O)ccc(cc1)NC(C)=O", ChemistrySettings())
    assert np.array_equal(first.numbers, otherwise_written.numbers)
    assert np.array_equal(first.positions, otherwise_written.positions)
    other_seed = prepared("CC(=O)Nc1ccc(O)cc1", seed=1)
    assert not np.allclose(first.positions, other_seed.positions, atol=0.1)


def test_undefined_stereo_is_chosen_the_same_way_each_time_and_can_exist():
    molecule = prepared(CAMPHOR_WITHOUT_STEREO, n_conformers=4, prune_rmsd_angstrom=0.0)
    again = prepared("O=C1CC2CCC1(C)C2(C)C", n_conformers=4, prune_rmsd_angstrom=0.0)
    assert molecule.message == "chose one isomer: 2 stereocentres had no stereo"
    both = {
        prepared(s).smiles
        for s in ("CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2", "C[C@]12CC[C@H](C1(C)C)CC2=O")
    }
    assert molecule.smiles in both
    assert molecule.smiles == again.smiles
    assert molecule.inchikey == Chem.MolToInchiKey(Chem.MolFromSmiles(molecule.smiles))
    assert len(molecule.chirality) == 2
    assert changes(molecule) == [None] * 4
    chosen = {prepared("CC(F)Cl", seed=seed).smiles for seed in range(8)}
    assert chosen == {"C[C@H](F)Cl", "C[C@@H](F)Cl"}


def test_conformers_that_are_the_same_are_pruned():
    all_of_them = prepared("CCCCCC", n_conformers=20, prune_rmsd_angstrom=0.0)
    assert all_of_them.positions.shape[0] == 20
    different = prepared("CCCCCC", n_conformers=20, prune_rmsd_angstrom=0.5)
    assert 1 < different.positions.shape[0] < 20
    mol = Chem.MolFromSmiles("CCCCCC")
    for positions in different.positions:
        conformer = Chem.Conformer(6)
        for atom in range(6):
            conformer.SetAtomPosition(atom, positions[atom].tolist())
        mol.AddConformer(conformer, assignId=True)
    assert min(rdMolAlign.GetAllConformerBestRMS(mol)) >= 0.5 - 1e-3
    assert prepared("C", n_conformers=20).positions.shape[0] == 1
    assert prepared("[Cl-]", n_conformers=20).positions.shape[0] == 1


def test_random_coordinates_are_the_second_try():
    molecule = prepared(NEEDS_RANDOM_COORDINATES)
    assert molecule.status == MoleculeStatus.OK
    assert molecule.message == "embedded from random coordinates at the second try"
    assert changes(molecule) == [None]


def test_a_molecule_that_cannot_exist_fails_and_says_which_check_failed_most():
    molecule = prepared(IMPOSSIBLE, embed_timeout_s=30)
    assert (molecule.status, molecule.reason) == (MoleculeStatus.FAILED, Reason.EMBEDDING_FAILED)
    assert molecule.message is not None
    assert molecule.message.startswith("ETKDGv3: atoms came out flat instead of tetrahedral (")
    assert "; random coordinates: " in molecule.message
    # Bridgeheads of norbornene that are trans: turned, they are what exists.
    named = re.search(r"it embeds, ((?:C\d+ ?)+) the other way", molecule.message)
    assert named
    mol = Chem.MolFromSmiles(molecule.smiles)
    for name in named[1].split():
        mol.GetAtomWithIdx(int(name[1:]) - 1).InvertChirality()
    assert prepared(Chem.MolToSmiles(mol)).status == MoleculeStatus.OK
    assert molecule.n_atoms == 23
    assert molecule.inchikey is not None


def test_a_molecule_that_embeds_for_ever_runs_into_rdkits_time_limit(monkeypatch):
    # So many attempts that on no machine anything but the time ends a try.
    monkeypatch.setattr(
        embedding, "_TRIES", [one._replace(max_iterations=10**6) for one in embedding._TRIES]
    )
    molecule = prepared(IMPOSSIBLE_WITH_A_TAIL, embed_timeout_s=1)
    assert (molecule.status, molecule.reason) == (MoleculeStatus.FAILED, Reason.EMBEDDING_TIMEOUT)
    assert molecule.message is not None
    assert "random coordinates: over 1 s, " in molecule.message
    assert molecule.timings_s > 1


def test_conformers_found_before_the_time_limit_are_kept():
    molecule = prepared("OC(=O)CNC(=O)CN", n_conformers=100_000, conformers_timeout_s=2)
    assert molecule.status == MoleculeStatus.OK
    assert 1 < molecule.positions.shape[0] < 100_000
    n_conformers = molecule.positions.shape[0]
    assert molecule.message == f"stopped after {n_conformers} conformers: the others took over 2 s"


@pytest.mark.parametrize(("busy", "whole"), [(1.9, True), (9.0, False)])
def test_a_busy_machine_leaves_out_no_conformers_unless_it_is_too_busy(monkeypatch, busy, whole):
    n_looks = iter(range(1000))
    computed = [0.0]

    class Clock:
        @staticmethod
        def thread_time() -> float:
            return computed[0]

        @staticmethod
        def monotonic() -> float:
            computed[0] = 0.8 * next(n_looks)  # four of RDKit's calls fit into the limit
            return busy * computed[0]

    monkeypatch.setattr(embedding, "time", Clock)
    molecule = prepared("OC(=O)CNC(=O)CN", n_conformers=25, conformers_timeout_s=4)
    assert molecule.status == MoleculeStatus.OK
    assert (molecule.message is None) == whole


@pytest.mark.parametrize("error", [RuntimeError("strange"), MemoryError()])
def test_what_nobody_expected_fails_that_molecule_only(monkeypatch, error):
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("mlff_core.chem.prepare.describe", broken)
    molecule = prepared("CCO")
    assert molecule.status == MoleculeStatus.FAILED
    if isinstance(error, MemoryError):
        assert molecule.reason == Reason.OUT_OF_MEMORY
    else:
        assert molecule.reason == Reason.INTERNAL_ERROR
        assert molecule.message == "RuntimeError: strange"


def test_rdkit_writes_nothing_to_the_terminal(capfd):
    for smiles in ("CC(", "c1cccc1", "*CC", "CCO"):
        prepared(smiles)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_conformers": 0}, "n_conformers: expected more than 0, found 0"),
        ({"max_atoms": -1}, "max_atoms: expected more than 0, found -1"),
        ({"hard_timeout_s": float("nan")}, "hard_timeout_s: expected more than 0, found nan"),
        ({"embed_timeout_s": 0.5}, "embed_timeout_s: expected whole seconds, found 0.5"),
        ({"prune_rmsd_angstrom": -0.1}, "prune_rmsd_angstrom: expected 0 or more, found -0.1"),
        ({"min_charge": 4}, "min_charge: expected at most max_charge 3, found 4"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ChemistrySettings(**settings)
