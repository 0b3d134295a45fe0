"""The table of what changed between two screens counts every change once, under its cause."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[2]


def screen(folder: Path, rows: list[tuple]) -> Path:
    names = ["record", "smiles", "status", "reason", "min_energy_ev", "message"]
    molecules = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        pl.col("smiles").alias("input_smiles"), pl.col("reason").cast(pl.String)
    )
    conformers = molecules.select(
        "record", pl.lit(0).alias("conformer"), pl.col("min_energy_ev").alias("initial_energy_ev")
    )
    for name, frame in (("molecules", molecules), ("conformers", conformers)):
        (folder / name).mkdir(parents=True)
        frame.write_parquet(folder / name / "part-0.parquet")
    return folder


def test_every_change_is_counted_once_and_has_its_cause(tmp_path: Path) -> None:
    before = [
        (0, "C", "ok", None, -1.0, None),
        (1, "CC", "ok", None, -2.0, None),
        (2, "N.[Pt]", "ok", None, -3.0, None),
        (3, "CN", "failed", "all_conformers_failed", None, "bond N1-H2 broken"),
        (4, "CO", "ok", None, -4.0, None),
    ]
    after = [
        (0, "C", "ok", None, -1.01, None),
        (1, "CC", "ok", None, -2.1, None),
        (2, "N.[Pt]", "rejected", "unsupported_element", None, "a metal complex written in pieces"),
        (3, "CN", "ok", None, -5.0, "its bond was held in 1 of 1 conformers"),
        (4, "CO", "ok", None, -3.9, None),
    ]
    folders = [screen(tmp_path / "before", before), screen(tmp_path / "after", after)]
    program = [sys.executable, ROOT / "benchmarks/changes.py", *folders, "--out", tmp_path / "out"]
    subprocess.run([*map(str, program)], check=True, capture_output=True)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["records"] == 5
    assert {(r["changed"], r["cause"], r["records"]) for r in found["changes"]} == {
        ("energy lower", "another start", 1),
        ("energy higher", "another start", 1),
        ("ok -> unsupported_element", "metal complexes in pieces are rejected", 1),
        ("all_conformers_failed -> ok", "protons of charged groups are held", 1),
    }
    # Record 0 is 0.23 kcal/mol lower: less than what counts.
    assert found["status"]["after"] == {"ok": 4, "rejected": 1}
    assert (tmp_path / "out.md").read_text().count("\n| ") == 5  # four rows and their heading
