"""A screen of given geometries: same tables, atoms that may not move do not, resume."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.errors import LibraryError
from mlff_core.tables import Manifest

SMILES = "N[C@@H](C)C(=O)NCCO"


def screened(library: Path, out: Path, model: Path, from_3d: str, **more: object) -> Manifest:
    options = dict(shard_size=2, max_steps=5, workers=1, device="cpu") | more
    one = ScreenCall(
        library=str(library), out=str(out), model=str(model), from_3d=from_3d, **options
    )
    return run_screen(one, LocalEngine(), Watcher())


@pytest.fixture
def poses(tmp_path: Path) -> Path:
    """Three poses of a molecule, the last without hydrogens; a drawing; a block without bonds."""
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=11)
    path = tmp_path / "poses.sdf"
    with Chem.SDWriter(str(path)) as writer:
        mol.SetProp("FROZEN_ATOMS", "1-3 8")
        for k in range(3):
            mol.SetProp("_Name", f"pose {k}")
            writer.write(Chem.RemoveHs(mol) if k == 2 else mol, confId=0 if k == 2 else k)
            mol.ClearProp("FROZEN_ATOMS") if k == 1 else None
        drawing = Chem.MolFromSmiles(SMILES)
        rdDepictor.Compute2DCoords(drawing)
        writer.write(drawing)
        bare = Chem.RWMol(mol)
        for bond in list(bare.GetBonds()):
            bare.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        writer.write(bare)
    return path


def coordinates(row: dict) -> np.ndarray:
    return np.array(row["positions_angstrom"]).reshape(-1, 3)


def test_given_geometries_are_records_of_their_own(
    poses: Path, tmp_path: Path, small_model: Path
) -> None:
    out = tmp_path / "out"
    screened(poses, out, small_model, "hydrogens")
    molecules, conformers = (pl.read_parquet(out / t) for t in ("molecules", "conformers"))
    assert molecules["record"].to_list() == [0, 1, 2, 3, 4]
    assert molecules["status"].to_list() == ["ok"] * 3 + ["rejected"] * 2
    assert molecules["reason"].to_list() == [None] * 3 + ["not_3d", "invalid_smiles"]
    assert molecules["flags"].to_list()[:3] == [[], [], ["hydrogens_added"]]
    assert molecules["n_conformers"].to_list() == [1, 1, 1, 0, 0]
    assert molecules["smiles"].n_unique() == 2  # null is the other
    supplier = list(Chem.SDMolSupplier(str(poses), removeHs=False))
    for row in conformers.iter_rows(named=True):
        heavy = np.array(row["atomic_numbers"]) > 1
        mol = supplier[row["record"]]
        kept = {
            tuple(x)
            for atom, x in zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True)
            if atom.GetAtomicNum() > 1
            for x in [np.float32(x).tolist()]
        }
        assert {tuple(x) for x in coordinates(row)[heavy].tolist()} == kept
        assert row["n_steps"] == 5
        assert row["rmsd_to_initial_angstrom"] > 0
    before = {t: pl.read_parquet(out / t) for t in ("molecules", "conformers")}
    (out / "molecules/part-000001.parquet").unlink()
    screened(poses, out, small_model, "hydrogens", resume=True)
    for table, whole in before.items():
        assert pl.read_parquet(out / table).equals(whole)


def test_frozen_atoms_stay_and_others_move(poses: Path, tmp_path: Path, small_model: Path) -> None:
    screened(poses, tmp_path / "out", small_model, "frozen", limit=3)
    screened(poses, tmp_path / "all", small_model, "all", limit=3)
    frozen, free = (pl.read_parquet(tmp_path / name / "conformers") for name in ("out", "all"))
    given = [
        np.float32(mol.GetConformer().GetPositions())
        for mol in Chem.SDMolSupplier(str(poses), removeHs=False)
        if mol is not None
    ]
    for k in (0, 1):
        ends = {tuple(x) for x in coordinates(frozen.row(k, named=True)).tolist()}
        stayed = [i for i, x in enumerate(given[k].tolist()) if tuple(x) in ends]
        assert stayed == [0, 1, 2, 7]
    for row in free.iter_rows(named=True):
        ends = {tuple(x) for x in coordinates(row).tolist()}
        assert not ends & {tuple(x) for x in given[row["record"]].tolist()}
    assert frozen.row(2, named=True)["energy_ev"] == free.row(2, named=True)["energy_ev"]
    told = pl.read_parquet(tmp_path / "out/molecules")["message"].to_list()[2]
    assert "no frozen atoms are named" in told


def test_calls_that_contradict_given_geometries_are_refused(
    poses: Path, tmp_path: Path, small_model: Path
) -> None:
    for more in ({"stereo": "enumerate"}, {"ph": 7.4}, {"tautomers": True}, {"append": True}):
        with pytest.raises(ValidationError, match="as they are given"):
            ScreenCall(from_3d="all", **more)
    smiles = tmp_path / "library.smi"
    smiles.write_text("CCO\n")
    with pytest.raises(LibraryError, match="no 3D structures"):
        screened(smiles, tmp_path / "out", small_model, "all")
    with pytest.raises(LibraryError, match="no property FIXED"):
        screened(poses, tmp_path / "out", small_model, "frozen", frozen_property="FIXED")
    with pytest.raises(LibraryError, match="cannot say another structure"):
        screened(poses, tmp_path / "out", small_model, "all", smiles_column="SMILES")
    assert not (tmp_path / "out/manifest.json").exists()
