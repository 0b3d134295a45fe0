"""The cores prepare and judge what a device embeds: nothing is lost, no stereo comes out wrong."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem import constrained
from mlff_core.chem.constrained import ConstrainedMolecule, CoreStep, on_a_core
from mlff_core.chem.embed import molecule_seed
from mlff_core.chem.expand import expanded
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import prepare
from mlff_core.chem.variant import Expansion
from mlff_core.embedding import on_device, prepared
from mlff_core.embedding.checks import Cause
from mlff_core.embedding.embedder import Embedded

ETHANOL, ALANINE, OPEN, ALKENE = "CCO", "C[C@H](N)C(=O)O", "CCS(C)=O", "C/C=C/C"
RECORDS = [(0, "a", ETHANOL), (1, None, ALANINE), (2, "c", OPEN), (3, None, "not a molecule"),
           (4, None, "[Xe]"), (5, None, ALKENE), (6, None, "C")]  # fmt: skip


class Device:
    """Stands for the card: ETKDG's geometries of the molecules, spoilt as a test asks.

    A molecule is known by its seed, which comes from its SMILES.
    """

    def __init__(self, settings: ChemistrySettings) -> None:
        self.smiles = {
            molecule_seed(settings.seed, s): s for s in (ETHANOL, ALANINE, OPEN, ALKENE, "C")
        }
        self.mirrored: set[str] = set()
        self.refused: dict[str, Cause] = {}
        self.calls: list[tuple[str, int]] = []

    def embed_molecules(
        self,
        constraints: Sequence[object],
        n_conformers: Sequence[int],
        seeds: Sequence[int],
        device: object,
        *,
        numbers: Sequence[object],
    ) -> Embedded:
        smiles = [self.smiles[seed] for seed in seeds]
        assert len(constraints) == len(smiles) == len(numbers)
        positions, causes, ones = [], [], []
        for s, seed, n in zip(smiles, seeds, n_conformers, strict=True):
            self.calls.append((s, n))
            mol = Chem.AddHs(Chem.MolFromSmiles(s))
            rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed % 1000)
            x = np.array([c.GetPositions() for c in mol.GetConformers()], np.float32)
            if s == OPEN:  # all have the hand of the first
                x[:] = x[0]
            positions.append(x * [1, 1, -1] if s in self.mirrored else x)
            causes.append(np.full(n, self.refused.get(s, Cause.NONE), np.int8))
            ones.append(np.ones(n, np.int8))
        return Embedded(positions, causes, ones, Counter())


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, EmbeddingPool]]:
    by_number = {
        n: EmbeddingPool(ChemistrySettings(n_conformers=n), 1, prepare=on_a_core) for n in (1, 4)
    }
    yield by_number
    for pool in by_number.values():
        pool.close()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    stand_in = Device(ChemistrySettings())
    monkeypatch.setattr(prepared, "embed_molecules", stand_in.embed_molecules)
    return stand_in


def centres_of(smiles: str) -> int:
    """Stereocentres and double bonds that a SMILES leaves open."""
    found = Chem.FindPotentialStereo(Chem.MolFromSmiles(smiles))
    return sum(info.specified != Chem.StereoSpecified.Specified for info in found)


def stereo_of(molecule) -> str:
    """The SMILES that the coordinates of the first conformer stand for."""
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    mol = Chem.MolFromSmiles(molecule.mapped_smiles, parameters)
    order = np.argsort([atom.GetAtomMapNum() for atom in mol.GetAtoms()])
    mol = Chem.RenumberAtoms(mol, [int(i) for i in order])
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(molecule.positions[0].astype(float))
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


@pytest.mark.parametrize("n", [1, 4])
def test_every_record_comes_back_in_order_with_geometries_or_a_reason(pools, device, n) -> None:
    done = on_device.embed_on_device(RECORDS, pools[n], "cpu")
    assert [m.record for m in done.molecules] == [0, 1, 2, 3, 4, 5, 6]
    assert [m.input_id for m in done.molecules] == ["a", None, "c", None, None, None, None]
    assert [m.reason for m in done.molecules] == [
        None, None, None, "invalid_smiles", "unsupported_element", None, None
    ]  # fmt: skip
    assert done.n_by_rdkit == 0
    for molecule in done.molecules:
        if molecule.status == "ok":
            assert 1 <= len(molecule.positions) <= n
            assert molecule.positions.shape[1:] == (len(molecule.numbers), 3)
            assert stereo_of(molecule) == molecule.smiles
        if isinstance(molecule, ConstrainedMolecule):
            assert molecule.constraints is None
    # Methane's one geometry, and the four of butene, are the same but for what they are turned by.
    assert len(done.molecules[6].positions) == 1


@pytest.mark.parametrize("n", [1, 4])
def test_the_first_geometry_decides_undefined_stereo(pools, device, n) -> None:
    chosen = on_device.embed_on_device(RECORDS, pools[n], "cpu").molecules[2]
    assert centres_of(OPEN) == 1
    assert centres_of(chosen.smiles) == 0
    assert chosen.message == "chose one isomer: 1 stereocentre had no stereo"
    assert chosen.inchikey == Chem.MolToInchiKey(Chem.MolFromSmiles(chosen.smiles))
    assert device.calls.count((OPEN, 1)) == 1
    assert device.calls.count((OPEN, 4)) == (n == 4)
    alone = on_device.embed_on_device(RECORDS, pools[1], "cpu").molecules[2]
    device.mirrored = {OPEN}
    mirrored = on_device.embed_on_device(RECORDS, pools[1], "cpu").molecules[2]
    assert {alone.smiles, mirrored.smiles} == {"CC[S@](C)=O", "CC[S@@](C)=O"}


def test_a_geometry_of_the_wrong_isomer_is_never_taken(pools, device) -> None:
    device.mirrored = {ALANINE}
    done = on_device.embed_on_device(RECORDS, pools[1], "cpu")
    alanine = done.molecules[1]
    assert alanine.status == "ok"
    assert stereo_of(alanine) == alanine.smiles == "C[C@H](N)C(=O)O"
    assert alanine.message == "embedded by RDKit: on the device given stereo was not kept"
    assert done.n_by_rdkit == 1


@pytest.mark.parametrize("n", [1, 4])
def test_what_the_device_cannot_embed_rdkit_embeds_and_the_row_says_so(pools, device, n) -> None:
    device.refused = {ETHANOL: Cause.FAR_DISTANCES, OPEN: Cause.OUT_OF_MEMORY}
    done = on_device.embed_on_device(RECORDS, pools[n], "cpu")
    ethanol, undecided = done.molecules[0], done.molecules[2]
    assert ethanol.message == "embedded by RDKit: on the device distances are out of bounds"
    assert undecided.message.endswith("on the device it does not fit into the device's memory")
    assert centres_of(undecided.smiles) == 0
    assert done.n_by_rdkit == 2
    assert {m.status for m in done.molecules if m.record in (0, 1, 2, 5, 6)} == {"ok"}


def test_chunks_do_not_change_what_comes_out(pools, device, monkeypatch) -> None:
    whole = on_device.embed_on_device(RECORDS, pools[1], "cpu").molecules
    monkeypatch.setattr(on_device, "CONFORMERS_AT_ONCE", 2)
    pieces = on_device.embed_on_device(RECORDS, pools[1], "cpu").molecules
    assert [m.smiles for m in pieces] == [m.smiles for m in whole]
    for a, b in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_variants_are_embedded_apart(device) -> None:
    settings = ChemistrySettings(expansion=Expansion("enumerate"))
    ended: list[PreparedMolecule] = []
    for smiles in ("C[C@@H](F)Cl", "C[C@H](F)Cl"):
        device.smiles[molecule_seed(settings.seed, smiles)] = smiles
    device.refused["C[C@H](F)Cl"] = Cause.CHIRALITY
    with EmbeddingPool(settings, 1, prepare=on_a_core) as pool:
        sources = expanded([(3, "x", "CC(F)Cl"), (4, None, "CCO")], pool, ended)
        done = on_device.embed_on_device(sources, pool, "cpu")
    assert not ended
    assert done.n_by_rdkit == 1
    assert [(m.record, m.variant, m.n_variants, m.status) for m in done.molecules] == [
        (3, 0, 2, "ok"), (3, 1, 2, "ok"), (4, 0, 1, "ok")
    ]  # fmt: skip
    for molecule in done.molecules[:2]:
        assert molecule.variant_kind == "stereoisomer"
        assert stereo_of(molecule) == molecule.smiles
    assert {m.smiles for m in done.molecules} == {"C[C@@H](F)Cl", "C[C@H](F)Cl", "CCO"}
    assert "embedded by RDKit" in str(done.molecules[1].message)


def test_the_last_resort_has_three_seconds_and_a_row_that_it_cannot_save_says_why(
    monkeypatch,
) -> None:
    asked: list[ChemistrySettings] = []

    def heard(record, input_id, smiles, settings) -> PreparedMolecule:
        asked.append(settings)
        return prepare(record, input_id, smiles, settings)

    monkeypatch.setattr(constrained, "prepare", heard)
    settings = ChemistrySettings(embed_timeout_s=20)
    impossible = "C[C@@]12CC[C@](C)(C1)C2"  # a small cage, one bridgehead inside out
    row = on_a_core(0, None, impossible, CoreStep.EMBED, None, None, settings)
    assert [s.embed_timeout_s for s in asked] == [1]
    assert row is not None
    assert row.status == "failed"
    assert row.reason in ("embedding_failed", "embedding_timeout")  # the same on a busy machine
    assert "give other stereo there, or none" in str(row.message)


def test_stragglers_may_be_left_for_later_and_come_out_the_same(
    device: Device, pools: dict[int, EmbeddingPool]
) -> None:
    device.refused[ETHANOL] = Cause.FAR_DISTANCES
    waited = on_device.embed_on_device(RECORDS, pools[1], "cpu")
    left: list[on_device.Straggler] = []
    others = on_device.embed_on_device(RECORDS, pools[1], "cpu", stragglers=left)
    assert [(s.record, s.input_id, s.source) for s in left] == [(0, "a", ETHANOL)]
    assert others.n_by_rdkit == 0
    assert [m.record for m in others.molecules] == [1, 2, 3, 4, 5, 6]
    (late,) = on_device.resort_to_rdkit(left, pools[1])
    assert "embedded by RDKit" in (late.message or "")
    assert late.message == waited.molecules[0].message
    np.testing.assert_array_equal(late.positions, waited.molecules[0].positions)
