"""`--thermo`: columns of the best conformer, at the temperature and pressure asked for."""

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.units import EV_KCAL_MOL

LIBRARY = "O water\nCCO ethanol\nnonsense x\nCO methanol\n"
COLUMNS = [
    "lowest_wavenumber_per_cm", "n_imaginary", "symmetry_number", "zero_point_energy_ev",
    "enthalpy_ev", "entropy_cal_mol_k", "gibbs_energy_ev",
]  # fmt: skip


def screened(tmp_path: Path, name: str, **more: object) -> pl.DataFrame:
    library = tmp_path / "library.smi"
    library.write_text(LIBRARY)
    options = {"model": "small", "workers": 1, "device": "cpu", "thermo": True} | more
    call = ScreenCall(library=str(library), out=str(tmp_path / name), **options)
    run_screen(call, LocalEngine(), Watcher())
    return pl.read_parquet(tmp_path / name / "molecules")


def test_gases_have_their_entropies(tmp_path: Path) -> None:
    rows = screened(tmp_path, "out", shard_size=3, pressure_pa=1e5)
    assert rows["status"].to_list() == ["ok", "ok", "rejected", "ok"]
    assert rows["symmetry_number"].to_list() == [2, 1, None, 1]
    assert rows["n_imaginary"].to_list() == [0, 0, None, 0]
    assert [len(w) for w in rows["wavenumbers_per_cm"].to_list()] == [3, 21, 0, 12]
    # NIST: 188.8, 281.6 and 239.9 J/mol/K; that of ethanol is of three rotamers: less R ln 3.
    for k, measured, off in ((0, 45.1, 0.3), (1, 65.1, 1.0), (3, 57.3, 1.0)):
        assert rows["entropy_cal_mol_k"][k] == pytest.approx(measured, abs=off)
    for row in rows.filter(status="ok").iter_rows(named=True):
        spent = row["enthalpy_ev"] - row["gibbs_energy_ev"]
        assert spent * EV_KCAL_MOL == pytest.approx(
            298.15 * row["entropy_cal_mol_k"] / 1000, abs=1e-6
        )
        assert row["enthalpy_ev"] > row["min_energy_ev"] + row["zero_point_energy_ev"]
        assert row["lowest_wavenumber_per_cm"] == pytest.approx(row["wavenumbers_per_cm"][0])
    conformers = pl.read_parquet(tmp_path / "out/conformers")
    assert conformers["max_force_ev_per_angstrom"].max() < 0.01
    part = pq.ParquetFile(tmp_path / "out/molecules/part-000000.parquet")
    about = part.metadata.metadata[b"mlff_screen.thermo"].decode()
    assert about.startswith("298.15 K, 100000 Pa")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["timings_s"]["thermo"] > 0
    assert manifest["versions"]["ase"]


def test_what_is_no_minimum_has_none_and_says_so(tmp_path: Path) -> None:
    rows = screened(tmp_path, "short", max_steps=1, limit=2)
    assert rows["gibbs_energy_ev"].to_list() == [None, None]
    for message in rows["message"].to_list():
        assert "no thermochemistry: no conformer converged" in message
    plain = screened(tmp_path, "plain", thermo=False, limit=2)
    for name in COLUMNS:
        assert plain[name].null_count() == 2
    assert "message" in plain.columns
    assert not any("thermochemistry" in (m or "") for m in plain["message"].to_list())
