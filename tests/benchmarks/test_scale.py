"""What a long library comes to, and that a simulated screen is a whole one."""

from pathlib import Path

import polars as pl
import pytest

import flows.compute
import flows.run
from benchmarks.scale import simulated
from benchmarks.scale.arithmetic import comes_to


def test_a_thousand_million_records_are_two_hundred_task_runs() -> None:
    found = comes_to(10**9, molecules_a_second=1000.0, bytes_a_molecule=900.0, bytes_a_record=100.0)
    assert found["task_runs"] == 200
    assert (found["shards"], found["files"]) == (100_000, 200_002)
    assert (found["tables_bytes"], found["records_bytes"]) == (9e11, 1e11)
    assert found["gpu_hours"] == pytest.approx(277.8, abs=0.1)
    assert found["days_on_100"] == pytest.approx(0.1157, abs=1e-4)
    assert found["dollars"] == pytest.approx(833.3, abs=0.1)
    assert (
        comes_to(10_001, molecules_a_second=1.0, bytes_a_molecule=1.0, bytes_a_record=1.0)["shards"]
        == 2
    )


def test_a_simulated_screen_is_proved_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((flows.compute, "stages"), (flows.run, "leave_report")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    monkeypatch.setattr(simulated, "SHARD_SIZE", 50)
    simulated.molecules.cache_clear()
    simulated.conformers.cache_clear()
    given = dict(folder=tmp_path, n_records=480, smiles="C", lanes=3, cost_s=0.0)
    whole = simulated.measured(**given, resume=False)
    assert (whole["records"], whole["ok"], whole["atoms"]) == (480, 480, 5)
    assert whole["task_runs"] == 10
    rows = pl.read_parquet(tmp_path / "out/molecules").sort("record")
    assert rows["record"].to_list() == list(range(480))
    assert rows["input_id"][479] == "Z000000479"
    again = simulated.resumed(**given)
    assert (again["shards_kept"], again["task_runs"]) == (9, 1)
    assert pl.read_parquet(tmp_path / "out/molecules").sort("record").equals(rows)
