"""Files for other programs hold the molecules that the tables hold."""

import gzip
from pathlib import Path

import ase.io
import numpy as np
import polars as pl
import pytest
from ase.db import connect
from rdkit import Chem

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.errors import LibraryError, OutputError
from mlff_core.status import ConformerStatus
from mlff_core.tables import Tables, read
from mlff_core.tables.export import export
from mlff_core.tables.testing import conformer, manifest, write_tables

SMILES = ("C[C@H](N)C(=O)O", "C[NH3+]", "C/C=C/[O-]", "nonsense", "CC=N")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Three conformers of each molecule; the second is the best, the third exploded."""
    molecules = [prepare(k, f"id {k}", s, ChemistrySettings()) for k, s in enumerate(SMILES)]
    rows = []
    for m in (m for m in molecules if m.status == "ok"):
        m.n_conformers, m.n_converged, m.best_conformer, m.min_energy_ev = 3, 2, 1, -101.0
        x = m.conformers()[0]
        rows += [
            conformer(m.record, c, atomic_numbers=m.numbers, positions_angstrom=x + c,
                      forces_ev_per_angstrom=x / 100, energy_ev=-100.0 - c,
                      relative_energy_kcal_mol=23.06 * (1 - c),
                      status=ConformerStatus.EXPLODED if c == 2 else ConformerStatus.CONVERGED)
            for c in range(3)
        ]  # fmt: skip
    write_tables(tmp_path / "run", 0, molecules, rows)
    return read(tmp_path / "run")


#: Names that would end an entry, begin another one, or say another energy.
HOSTILE = [
    "a\n$$$$\nforged\n     RDKit\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$",
    "$$$$",
    "a\n\n> <energy_ev>\n0\n",
    "a\r\n\r\n$$$$\r\n",
    'a" energy=0 b="\\',
    "1\nenergy=0\nH 0 0 0",
    "a\u2028$$$$\x0b\x0c\x1cb",
]


@pytest.mark.parametrize("name", ["a.sdf", "a.xyz"])
def test_names_of_others_begin_no_entry_and_change_no_number(name: str, tmp_path: Path) -> None:
    molecules = [prepare(k, text, "CCO", ChemistrySettings()) for k, text in enumerate(HOSTILE)]
    rows = []
    for m in molecules:
        m.n_conformers, m.n_converged, m.best_conformer, m.min_energy_ev = 1, 1, 0, -100.0
        x = m.conformers()[0]
        rows.append(
            conformer(m.record, 0, atomic_numbers=m.numbers, positions_angstrom=x,
                      forces_ev_per_angstrom=x / 100, energy_ev=-100.0,
                      relative_energy_kcal_mol=0.0, status=ConformerStatus.CONVERGED)
        )  # fmt: skip
    write_tables(tmp_path / "run", 0, molecules, rows)
    assert export(read(tmp_path / "run"), tmp_path / name) == len(HOSTILE)
    if name == "a.sdf":
        found = [*Chem.ForwardSDMolSupplier(str(tmp_path / name))]
        assert [Chem.MolToSmiles(mol) for mol in found] == ["CCO"] * len(HOSTILE)
        assert [float(mol.GetProp("energy_ev")) for mol in found] == [-100.0] * len(HOSTILE)
        names = [mol.GetProp("input_id") for mol in found]
        assert (tmp_path / name).read_text().splitlines().count("$$$$") == len(HOSTILE)
    else:
        frames = ase.io.read(tmp_path / name, ":")
        assert [len(atoms) for atoms in frames] == [9] * len(HOSTILE)
        assert [atoms.get_potential_energy() for atoms in frames] == [-100.0] * len(HOSTILE)
        names = [str(atoms.info["input_id"]) for atoms in frames]
    assert [n.strip() for n in names] == [" ".join(text.splitlines()).strip() for text in HOSTILE]


@pytest.mark.parametrize("name", ["best.sdf", "best.SDF.gz"])
def test_an_sd_file_is_read_as_the_same_molecules(name: str, tables: Tables, tmp_path: Path):
    assert export(tables, tmp_path / name) == 4
    opened = gzip.open if name.endswith("gz") else open
    with opened(tmp_path / name, "rb") as stream:
        found = list(Chem.ForwardSDMolSupplier(stream))
    expected = tables.molecules.filter(pl.col("status") == "ok").collect()
    # RDKit reads stereo from the coordinates of a 3D block.
    assert [Chem.MolToSmiles(mol) for mol in found] == expected["smiles"].to_list()
    assert [Chem.GetFormalCharge(mol) for mol in found] == [0, 1, -1, 0]
    for mol, row in zip(found, expected.iter_rows(named=True), strict=True):
        assert mol.GetProp("_Name") == row["input_id"]
        assert float(mol.GetProp("energy_ev")) == -101.0
        assert int(mol.GetProp("conformer")) == 1
        assert mol.GetProp("status") == "ok"
        assert mol.GetProp("conformer_status") == "converged"
        assert float(mol.GetProp("qed")) == pytest.approx(row["qed"])


def test_all_usable_conformers_or_those_that_are_asked_for(tables: Tables, tmp_path: Path):
    path = tmp_path / "x.sdf"
    assert export(tables, path, which="all") == 8
    assert export(tables, path, which="all", where=pl.col("charge") == 0) == 4
    assert export(tables, path, where=pl.sql_expr("qed > 2")) == 0
    assert path.read_bytes() == b""


def test_extended_xyz_holds_energy_forces_and_charge(tables: Tables, tmp_path: Path):
    assert export(tables, tmp_path / "x.extxyz") == 4
    found = ase.io.read(tmp_path / "x.extxyz", ":")
    for atoms, expected in zip(found, tables.atoms(pl.col("conformer") == 1), strict=True):
        assert atoms.get_potential_energy() == -101.0
        np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-7)
        assert atoms.info["charge"] == expected.info["charge"]
        assert atoms.info["smiles"] == expected.info["smiles"]


def test_an_ase_database_is_searched_by_numbers(tables: Tables, tmp_path: Path):
    assert export(tables, tmp_path / "x.db") == 4
    with connect(tmp_path / "x.db") as database:
        [row] = database.select("total_charge=1")
        assert row.data["smiles"] == "C[NH3+]"
        assert row.energy == -101.0


def test_an_unknown_format_is_said_and_a_failure_leaves_nothing(tables: Tables, tmp_path: Path):
    with pytest.raises(OutputError, match=r"x\.pdb: expected a name that ends in \.sdf"):
        export(tables, tmp_path / "x.pdb")
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        export(tables, tmp_path / "x.sdf", where=pl.col("no such column") > 0)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def library(tables: Tables, tmp_path: Path, name: str) -> Path:
    """The library of the tables in some format, with columns of its own, and a manifest beside."""
    path = tmp_path / name
    rows = [(s, f"id {k}", f"shelf {k}", "" if k == 1 else f"{k}.5") for k, s in enumerate(SMILES)]
    if name.endswith(".sdf"):
        blocks = []
        for smiles, title, shelf, status in rows:
            items = {"SMILES": smiles, "shelf": shelf, "status": status}
            data = "".join(f"> <{k}>\n{v}\n\n" for k, v in items.items())
            blocks.append(
                f"{title}\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n{data}$$$$\n"
            )
        path.write_text("".join(blocks))
    else:
        frame = pl.DataFrame(rows, schema=["SMILES", "name", "shelf", "status"], orient="row")
        frame.write_parquet(path) if name.endswith(".parquet") else frame.write_csv(path)
    about = {"location": str(path), "sha256": "aa", "n_records": len(SMILES)}
    manifest(library=about | {"smiles_column": "SMILES"}).write(tables.store)
    return path


@pytest.mark.parametrize("name", ["library.csv", "library.parquet", "library.sdf"])
def test_columns_of_the_library_come_along_by_record(name: str, tables: Tables, tmp_path: Path):
    library(tables, tmp_path, name)
    keep = ["shelf", "status"]
    assert export(tables, tmp_path / "x.sdf", which="all", keep=keep) == 8
    for mol in Chem.SDMolSupplier(str(tmp_path / "x.sdf")):
        record = int(mol.GetProp("record"))
        assert mol.GetProp("shelf") == f"shelf {record}"
        assert mol.GetProp("status") == "ok"  # the table's own keeps its name
        assert mol.HasProp("library_status") == (record != 1)  # where it was blank
        assert record == 1 or mol.GetProp("library_status") == f"{record}.5"
    assert export(tables, tmp_path / "x.extxyz", keep=["shelf"]) == 4
    found = ase.io.read(tmp_path / "x.extxyz", ":")
    assert [atoms.info["shelf"] for atoms in found] == ["shelf 0", "shelf 1", "shelf 2", "shelf 4"]
    export(tables, tmp_path / "x.db", keep=["shelf"])
    with connect(tmp_path / "x.db") as database:
        assert [row.data["shelf"] for row in database.select()][:2] == ["shelf 0", "shelf 1"]


def test_a_library_that_is_another_by_now_is_refused(tables: Tables, tmp_path: Path):
    path = library(tables, tmp_path, "library.csv")
    with pytest.raises(LibraryError, match="no column"):
        export(tables, tmp_path / "x.sdf", keep=["colour"])
    path.write_text(
        "".join(path.read_text().splitlines(keepends=True)[i] for i in (0, 2, 1, 3, 4, 5))
    )
    with pytest.raises(LibraryError, match="no longer the one that was screened: record 0 was C"):
        export(tables, tmp_path / "x.sdf", keep=["shelf"])
    path.unlink()
    with pytest.raises(LibraryError, match="no such file"):
        export(tables, tmp_path / "x.sdf", keep=["shelf"])
    assert not (tmp_path / "x.sdf").exists()
