"""A screen with water and the teacher: their columns beside the vacuum's, resume, bad calls."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from flows.call import ScreenCall
from flows.cli import main
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.distill import teacher
from mlff_core.properties.water import solvation_kcal_mol
from mlff_core.units import EV_KCAL_MOL

# PyTorch would like TorchScript to go; the teacher comes in no other form.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

LIBRARY = "CC(=O)[O-] acetate\nnonsense b\nOCCO c\nNCC=O d\n"
ADDED = (
    "solvation_kcal_mol", "relative_energy_water_kcal_mol", "boltzmann_weight_water",
    "teacher_energy_ev", "teacher_spread_kcal_mol", "relative_energy_teacher_kcal_mol",
    "best_conformer_water", "min_energy_water_ev", "energy_above_teacher_kcal_mol",
)  # fmt: skip


class Member(torch.nn.Module):
    """Its energy is the sum of the squares of all coordinates, and something of its own."""

    def __init__(self, own: float):
        super().__init__()
        self.register_buffer("own", torch.tensor(own))

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = data["coord"]
        return {"energy": x.square().sum(-1).sum(-1) + self.own + data["charge"], "forces": -2 * x}


class Ensemble(torch.nn.Module):
    """Two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.models = torch.nn.ModuleList([Member(0.0), Member(0.2)])

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.models[0](data)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher where the real one would be, that is its own sha256."""
    folder = tmp_path / "cache" / "mlff-screen"
    folder.mkdir(parents=True)
    file = folder / teacher.ENSEMBLE_FILE
    torch.jit.script(Ensemble()).save(str(file))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(teacher, "ENSEMBLE_SHA256", sha256)


def screen(library: Path, out: Path, model: Path, **more: object) -> dict[str, pl.DataFrame]:
    options = dict(shard_size=2, max_steps=3, workers=1, device="cpu", conformers=4) | more
    call = ScreenCall(library=str(library), out=str(out), model=str(model), **options)
    run_screen(call, LocalEngine(), Watcher())
    return {t: pl.read_parquet(out / t) for t in ("molecules", "conformers")}


@pytest.mark.usefixtures("stand_in")
def test_water_and_teacher_are_columns_beside_the_vacuums_and_survive_a_lost_part(
    tmp_path: Path, small_model: Path
) -> None:
    library, out = tmp_path / "library.smi", tmp_path / "out"
    library.write_text(LIBRARY)
    plain = screen(library, tmp_path / "plain", small_model)
    asked: dict[str, object] = {"solvent": "water", "rescore": "teacher"}
    both = screen(library, out, small_model, **asked)
    for name, table in both.items():
        added = [c for c in ADDED if c in table.columns]
        assert added
        assert plain[name].drop(added).equals(table.drop(added))
        assert all(plain[name][column].null_count() == plain[name].height for column in added)
    molecules, conformers = both["molecules"], both["conformers"]
    assert molecules["record"].to_list() == [0, 1, 2, 3]
    inside = conformers.filter(pl.col("in_window") & pl.col("duplicate_of").is_null())
    assert inside.height >= 3
    assert inside["solvation_kcal_mol"].null_count() == 0
    acetate = inside.row(0, named=True)
    positions = np.array(acetate["positions_angstrom"]).reshape(-1, 3)
    exact = solvation_kcal_mol(np.array(acetate["atomic_numbers"]), positions, -1)
    assert acetate["solvation_kcal_mol"] == pytest.approx(exact, abs=1e-6)
    centred = positions - positions.mean(0)
    assert acetate["teacher_energy_ev"] == pytest.approx((centred**2).sum() - 1 + 0.1, rel=1e-5)
    assert acetate["teacher_spread_kcal_mol"] == pytest.approx(0.1 * EV_KCAL_MOL, rel=1e-4)
    row = molecules.row(0, named=True)
    own = inside.filter(record=0)
    in_water = own["energy_ev"] + own["solvation_kcal_mol"] / EV_KCAL_MOL
    assert row["min_energy_water_ev"] == pytest.approx(in_water.min(), abs=1e-9)
    assert row["best_conformer_water"] == own["conformer"][in_water.arg_min()]
    best = own.filter(conformer=row["best_conformer"]).row(0, named=True)
    above = (best["energy_ev"] - best["teacher_energy_ev"]) * EV_KCAL_MOL
    assert row["energy_above_teacher_kcal_mol"] == pytest.approx(above, abs=1e-6)

    (out / "molecules/part-000001.parquet").unlink()
    again = screen(library, out, small_model, resume=True, **asked)
    for name, table in both.items():
        assert again[name].equals(table)


def test_what_is_not_there_or_not_known_is_said_before_the_run(
    tmp_path: Path,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    library = tmp_path / "library.smi"
    library.write_text(LIBRARY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    run = ["run", str(library), "--out", str(tmp_path / "out"), "--model", str(small_model)]

    def refused(*more: str) -> str:
        with pytest.raises(SystemExit, match=r"^2$"):
            main([*run, *more])
        return capsys.readouterr().err

    assert "datasets/fetch_teacher.py gets it" in refused("--rescore", "teacher")
    assert "water" in refused("--solvent", "octanol")
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    assert 'pip install "mlff-screen[solvent]"' in refused("--solvent", "water")
    assert not (tmp_path / "out").exists()
