"""The way back: what was screened comes out of the tables as the molecule that it was."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from mlff_core.chem.allenes import may_have_allenes
from mlff_core.chem.changing import TETRAHEDRAL, undefined_stereo
from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.stereo import centres, double_bonds, forget_side, has_given_stereo
from mlff_core.errors import OutputError
from mlff_core.library import open_library
from mlff_core.models.potential import load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.outcome import final_rows
from mlff_core.schema import MoleculeRow
from mlff_core.shard import relaxed_row
from mlff_core.tables import read
from mlff_core.tables.testing import conformer, write_tables

ROOT = Path(__file__).parents[3]
SETTINGS = ChemistrySettings(n_conformers=3)


def perceived(mol: Chem.Mol, conformer: int) -> str:
    """Canonical SMILES with the stereo that the coordinates alone show."""
    seen = Chem.Mol(mol)
    for atom in seen.GetAtoms():
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in seen.GetBonds():
        bond.SetStereo(Chem.BondStereo.STEREONONE)
    Chem.AssignStereochemistryFrom3D(seen, conformer, replaceExistingTags=True)
    # Of what a proton makes, or turns by itself, any geometry has one of two.
    for kind, index in undefined_stereo(mol).changing:
        if kind == TETRAHEDRAL:
            seen.GetAtomWithIdx(index).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        elif seen.GetBondWithIdx(index).GetStereo() != Chem.BondStereo.STEREONONE:
            forget_side(seen.GetBondWithIdx(index))
    return Chem.MolToSmiles(Chem.RemoveHs(seen))


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library `quick`, three conformers a molecule, after some steps of the small model."""
    out = tmp_path_factory.mktemp("screened")
    molecules = [
        prepare(r.record, r.input_id, r.smiles, SETTINGS)
        for r in open_library(ROOT / "datasets/quick").records()
    ]
    owners = [(m, c, x) for m in molecules for c, x in enumerate(m.conformers())]
    ended = relax_conformers(
        [(m.numbers, x, m.charge or 0) for m, _, x in owners],
        load_potential("small", device="cpu"),
        RelaxSettings(max_steps=3),
    )
    rows = [relaxed_row(m, c, r) for (m, c, _), r in zip(owners, ended, strict=True)]
    write_tables(out, 0, molecules, final_rows(molecules, rows))
    return out


def test_every_molecule_is_again_what_its_smiles_says(screened: Path) -> None:
    tables = read(screened)
    expected = tables.molecules.filter(pl.col("status") == "ok").collect()
    found = {mol.GetIntProp("record"): mol for mol in tables.mols()}
    assert set(found) == set(expected["record"])
    assert len(found) >= 15
    for row in expected.iter_rows(named=True):
        mol = found[row["record"]]
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == row["smiles"]
        assert Chem.GetFormalCharge(mol) == row["charge"]
        assert mol.GetNumConformers() == row["n_conformers"]
        for geometry in mol.GetConformers():
            assert perceived(mol, geometry.GetId()) == row["smiles"]


def test_rows_are_properties_and_conformers_stand_by_their_number(screened: Path) -> None:
    tables = read(screened)
    conformers = {
        (row["record"], row["conformer"]): row
        for row in tables.conformers.collect().iter_rows(named=True)
    }
    n_seen = 0
    for mol in tables.mols(pl.col("n_conformers") > 1):
        assert mol.GetProp("_Name") == mol.GetProp("input_id")
        assert mol.GetDoubleProp("min_energy_ev") < 0
        assert not mol.HasProp("reason")
        for geometry in mol.GetConformers():
            row = conformers[mol.GetIntProp("record"), geometry.GetId()]
            assert geometry.GetDoubleProp("energy_ev") == row["energy_ev"]
            np.testing.assert_array_equal(
                geometry.GetPositions().ravel(), row["positions_angstrom"]
            )
            n_seen += 1
    assert n_seen > 4


def test_ase_atoms_hold_energy_forces_and_charge(screened: Path) -> None:
    tables = read(screened)
    best = pl.col("conformer") == pl.col("best_conformer")
    every = list(tables.atoms(best))
    assert len(every) >= 15
    rows = (
        tables.conformers.join(tables.molecules, on=["record", "variant"], suffix="_of_molecule")
        .filter(best)
        .sort("record")
        .collect()
        .rows(named=True)
    )
    charges = dict(tables.molecules.select("record", "charge").collect().iter_rows())
    for atoms, row in zip(every, rows, strict=True):
        assert atoms.get_potential_energy() == row["energy_ev"]
        np.testing.assert_array_equal(atoms.get_forces().ravel(), row["forces_ev_per_angstrom"])
        assert atoms.info["charge"] == charges[row["record"]]
        assert atoms.numbers.tolist() == row["atomic_numbers"]


def variants() -> Iterator[PreparedMolecule]:
    """Two enantiomers of one record."""
    for k, smiles in enumerate(("C[C@H](F)Cl", "C[C@@H](F)Cl")):
        yield dataclasses.replace(prepare(0, "both", smiles, SETTINGS), variant=k, n_variants=2)


def test_variants_of_a_record_keep_their_own_geometries(tmp_path: Path) -> None:
    molecules = list(variants())
    rows = [
        conformer(0, 0, variant=m.variant, atomic_numbers=m.numbers,
                  positions_angstrom=m.conformers()[0], forces_ev_per_angstrom=m.conformers()[0])
        for m in molecules
    ]  # fmt: skip
    for m in molecules:
        m.n_conformers = m.n_converged = 1
    write_tables(tmp_path, 0, molecules, rows)
    found = list(read(tmp_path).mols())
    assert [m.GetIntProp("variant") for m in found] == [0, 1]
    assert [perceived(m, 0) for m in found] == [m.smiles for m in molecules]
    assert found[0].GetProp("inchikey") != found[1].GetProp("inchikey")


def test_every_druglike_molecule_has_its_way_back() -> None:
    records = open_library(ROOT / "datasets/druglike").records()
    molecules = [prepare(r.record, r.input_id, r.smiles, ChemistrySettings()) for r in records]
    accepted = [m for m in molecules if m.status == "ok"]
    assert len(accepted) > 185
    for m in accepted:
        mol = molecule_of(m.mapped_smiles, m.numbers, dict(enumerate(m.conformers())))
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == m.smiles
        assert perceived(mol, 0) == m.smiles


def test_tables_of_version_1_are_read_and_an_order_that_cannot_be_told_is_refused(
    tmp_path: Path,
) -> None:
    smiles = ("CCO", "CC1(C)C2CCC1(C)C(=O)C2", "CC=N", "CC(O)F")
    molecules = [prepare(k, s, s, ChemistrySettings()) for k, s in enumerate(smiles)]
    # So version 1 left camphor and the imine: their stereo was chosen after their atoms had been
    # put in order, and the SMILES of what was chosen has another one.
    for m in molecules[1:3]:
        m.numbers, m.positions = old_order(m)
    molecules[3].positions = molecules[3].positions[:, ::-1]
    molecules[3].numbers = molecules[3].numbers[::-1]
    for m in molecules:
        m.n_conformers = m.n_converged = 1
    rows = [
        conformer(m.record, 0, atomic_numbers=m.numbers, positions_angstrom=m.conformers()[0],
                  forces_ev_per_angstrom=m.conformers()[0])
        for m in molecules
    ]  # fmt: skip
    write_tables(tmp_path, 0, molecules, rows)
    later = {"variant", "variant_kind", "variant_weight", "n_variants", "mapped_smiles", "flags"}
    later.add("duplicate_of")
    for name in ("molecules", "conformers"):
        path = tmp_path / name / "part-000000.parquet"
        whole = pq.read_table(path)
        pq.write_table(
            whole.drop_columns([*({*later, "duplicate_of"} & {*whole.schema.names})]), path
        )
    tables = read(tmp_path)
    frame = tables.molecules.collect()
    assert frame.columns == [f.name for f in dataclasses.fields(MoleculeRow)]
    assert frame["variant_kind"].to_list() == ["as_given"] * 4
    assert frame["flags"].to_list() == [[]] * 4
    found = list(tables.mols(pl.col("record") < 3))
    for mol, expected in zip(found, molecules[:3], strict=True):
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == perceived(mol, 0) == expected.smiles
    with pytest.raises(ValueError, match="in which order its atoms stand cannot be told"):
        list(tables.mols(pl.col("record") == 3))
    assert len(list(tables.atoms())) == 4


def old_order(molecule: PreparedMolecule) -> tuple[np.ndarray, np.ndarray]:
    """Elements and geometries in the order of the SMILES before stereo was chosen."""
    mol = molecule_of(molecule.mapped_smiles, molecule.numbers, {0: molecule.conformers()[0]})
    plain = Chem.AddHs(Chem.MolFromSmiles(Chem.CanonSmiles(molecule.input_smiles)))
    order = list(mol.GetSubstructMatch(plain))
    assert sorted(order) == list(range(mol.GetNumAtoms()))
    return molecule.numbers[order], molecule.conformers()[:, order]


def test_a_folder_without_tables_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no tables of a run"):
        read(tmp_path)


def test_a_mapped_smiles_of_other_atoms_is_refused() -> None:
    numbers, nowhere = np.array([8, 1, 1]), np.zeros((3, 3))
    with pytest.raises(ValueError, match="expected atom map numbers 1 to 3, each once"):
        molecule_of("[OH:1][H:2]", numbers, {0: nowhere})
    with pytest.raises(ValueError, match="its atoms are not those of the geometry"):
        molecule_of("[S:1]([H:2])[H:3]", numbers, {0: nowhere})
    with pytest.raises(ValueError, match="is not a SMILES"):
        molecule_of("[O:1", numbers, {0: nowhere})
    mol = molecule_of("[H:3][O:1][H:2]", numbers, {4: nowhere})
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == [8, 1, 1]
    assert mol.GetConformer(4).GetNumAtoms() == 3


ATROPISOMERS = [f"Cc1cccc(Cl)c1-c1c(C)cccc1Br |wU:7.{k}|" for k in (6, 7)]


def cases() -> Iterator[tuple[str, str]]:
    """Molecules that were once lost on the way, with the file that they stand in."""
    for file in sorted((ROOT / "tests/cases").glob("*.smi")):
        yield from ((file.name, r.smiles) for r in open_library(file).records())
    yield from (("atropisomers", smiles) for smiles in ATROPISOMERS)


def canonical(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES, with the stereo of axes behind it."""
    axes = Chem.CXSmilesFields.CX_BOND_ATROPISOMER
    return Chem.MolToCXSmiles(Chem.RemoveHs(mol), Chem.SmilesWriteParams(), axes)


def test_every_hard_case_has_its_way_back() -> None:
    n_ok = 0
    for file, text in cases():
        m = prepare(0, file, text, ChemistrySettings())
        if m.status == "ok":
            n_ok += 1
            mol = molecule_of(m.mapped_smiles, m.numbers, dict(enumerate(m.conformers())))
            smiles = m.smiles or ""
            if may_have_allenes(smiles):  # their hand is in the coordinates; RDKit knows no mark
                smiles = canonical(Chem.MolFromSmiles(smiles))
            assert canonical(mol) == smiles, file
            bonds_alone = Chem.Mol(mol)
            bonds_alone.RemoveAllConformers()
            assert Chem.MolToInchiKey(bonds_alone) == m.inchikey, file
            # P(III) and axes, which RDKit does not read from coordinates, are among these.
            assert has_given_stereo(m.conformers(), centres(mol), double_bonds(mol)).all(), file
            mirrored = m.conformers() * np.float32([1, 1, -1])
            assert not (len(centres(mol)) and has_given_stereo(mirrored, centres(mol), []).any())
    assert n_ok >= 18
