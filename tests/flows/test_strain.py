"""`mlff-screen strain`: every pose is a row, and the table and the sheet say the same."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from flows.cli import main
from flows.strain import _groups
from mlff_core import MolBatch, load_potential
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.units import EV_KCAL_MOL


@pytest.fixture
def poses(tmp_path: Path) -> Path:
    """Two poses of propanol, an anion, a drawing, a block that cannot be read."""
    path = tmp_path / "poses.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for name, smiles, seed in (("a", "CCCO", 1), ("salt", "CC(=O)[O-]", 1), ("b", "CCCO", 2)):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            rdDistGeom.EmbedMolecule(mol, randomSeed=seed)
            mol.SetProp("_Name", name)
            writer.write(mol)
        drawing = Chem.MolFromSmiles("CCCO")
        rdDepictor.Compute2DCoords(drawing)
        drawing.SetProp("_Name", "drawing")
        writer.write(drawing)
    path.write_text(path.read_text() + "broken\nnot\na\nmol block\nM  END\n$$$$\n")
    return path


def test_every_pose_is_a_row(
    poses: Path, tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["strain", str(poses), "--out", str(out), "--csv", "--model", str(small_model)]
    call += ["--device", "cpu", "--conformers", "2", "--max-steps", "5", "--workers", "1"]
    assert main(call) == 0
    said = capsys.readouterr().out
    table = pl.read_parquet(out / "strain.parquet")
    assert table["record"].to_list() == [0, 1, 2, 3, 4]
    assert table["input_id"].to_list() == ["a", "salt", "b", "drawing", "broken"]
    reasons = table["reason"].to_list()
    assert reasons[1] == "charged_in_vacuum"
    assert reasons[3:] == ["not_3d", "invalid_smiles"]
    assert table["status"].to_list()[3:] == ["rejected", "rejected"]
    assert "5 poses" in said
    assert "charged_in_vacuum" in said
    sheet = pl.read_csv(out / "strain.csv")
    assert sheet["record"].to_list() == [0, 1, 2, 3, 4]
    assert "positions_local_angstrom" not in sheet.columns
    assert sheet["strain_restrained_kcal_mol"].to_list() == pytest.approx(
        table["strain_restrained_kcal_mol"].to_list(), nan_ok=True
    )
    with pytest.raises(SystemExit) as refused:
        main(call)
    assert refused.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite", "--json", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["n_poses"] == 1


def test_water_is_asked_in_processes_of_its_own(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tblite")
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(=O)[O-]"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    (tmp_path / "poses.sdf").write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    call = ["strain", str(tmp_path / "poses.sdf"), "--out", str(tmp_path), "--solvent", "water"]
    call += ["--model", "small", "--device", "cpu", "--conformers", "1", "--workers", "1"]
    assert main([*call, "--quiet"]) == 0
    [row] = pl.read_parquet(tmp_path / "strain.parquet").to_dicts()
    row["positions_global_angstrom"] = np.reshape(row["positions_global_angstrom"], (-1, 3))
    assert (row["status"], row["solvent"]) == ("ok", "water")
    assert row["strain_local_kcal_mol"] == pytest.approx(0.0, abs=0.2)
    # Hydration of acetate: -77.6 kcal/mol (Kelly, Cramer and Truhlar 2006).
    vacuum = load_potential("small", device="cpu")(
        MolBatch.from_arrays([(row["atomic_numbers"], row["positions_global_angstrom"], -1)])
    )
    hydration = (row["global_energy_ev"] - vacuum.energy.item()) * EV_KCAL_MOL
    assert hydration == pytest.approx(-77.6, abs=12.0)


def test_a_file_without_geometries_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "library.smi"
    library.write_text("CCO\n")
    with pytest.raises(SystemExit) as refused:
        main(["strain", str(library), "--out", str(tmp_path / "out")])
    assert refused.value.code == 2
    assert "no 3D structures" in capsys.readouterr().err


def test_poses_of_a_molecule_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.strain.POSES_AT_ONCE", 3)
    names = ["a", "b", "a", "c", "b", "a", "c", "c", "c"]
    poses = [PreparedMolecule(k, None, "", smiles=name) for k, name in enumerate(names)]
    groups = [[one.record for one in group] for group in _groups(poses)]
    assert groups == [[0, 2, 5], [1, 4], [3, 6, 7, 8]]
