"""The command `status`: what the files of a run say of it."""

import json
import os
import platform
from pathlib import Path

import pytest

from flows.cli import main
from flows.status import duration
from mlff_core.store import FolderStore
from mlff_core.tables.testing import conformer, manifest, molecule, write_tables


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three of five shards of two records, written two seconds apart after a night's pause."""
    parameters = {"shard_size": 2}
    manifest(parameters=parameters, library={"n_records": 9}).write(tmp_path)
    for shard, when in enumerate((1_000_000, 1_040_000, 1_040_002, 1_040_004)):
        status = {"status": "failed", "reason": "embedding_failed"} if shard == 1 else {}
        rows = [molecule(2 * shard, 0, **status), molecule(2 * shard + 1)]
        if shard == 2:  # two structures of one record
            rows[0].n_variants = 2
            rows.append(molecule(4, 0, variant=1, n_variants=2))
        write_tables(tmp_path, shard, rows, [conformer(2 * shard + 1)])
        os.utime(tmp_path / f"molecules/part-00000{shard}.parquet", (when, when))
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["status", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_run_that_was_cut_off_says_what_is_done_and_what_is_left(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(asked(capsys, run, "--json"))
    assert told == {
        "out": str(run), "state": "stopped", "holder": None, "n_records": 9, "done": 8, "left": 1,
        "status": {"ok": 8, "rejected": 0, "failed": 1}, "n_shards": 5, "shards_done": 4,
        "rate": 1.0, "seconds_left": None, "damaged": None,
    }  # fmt: skip
    assert asked(capsys, run).splitlines() == [
        "stopped; --resume goes on from here",
        "8 of 9 records are in the tables, 88.9 %; 1 left",
        "molecules: 8 ok, 1 failed",
        "shards: 4 of 5, 1.0 records/s of late",
    ]


def test_a_run_at_work_says_who_and_how_long_yet(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FolderStore(run).lock("run"):
        told = json.loads(asked(capsys, run, "--json"))
        assert (told["state"], told["seconds_left"]) == ("running", 1.0)
        assert told["holder"] == f"process {os.getpid()} on {platform.node()}"
        assert asked(capsys, run).splitlines()[-1].endswith(", 1 s left")
    # Clocks that were set back, or a copy that has all its times alike, tell no rate.
    for part in (run / "molecules").iterdir():
        os.utime(part, (5, 5))
    manifest(finished="2026-01-01", parameters={"shard_size": 2}, library={"n_records": 8}).write(
        run
    )
    told = json.loads(asked(capsys, run, "--json"))
    assert (told["state"], told["rate"], told["seconds_left"]) == ("finished", None, None)


def test_damaged_parts_are_named_when_every_byte_is_read(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(capsys, run, "--check").splitlines()[-1] == "damaged parts: none"
    part = run / "conformers/part-000002.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    assert json.loads(asked(capsys, run, "--check", "--json"))["damaged"] == [
        "conformers/part-000002.parquet"
    ]


def test_where_no_run_is_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (None, "{", '{"run_key": 3}'):
        if content is not None:
            (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(SystemExit, match="2"):
            main(["status", str(tmp_path)])
        assert capsys.readouterr().err.count("\n") == 1
    manifest(parameters={"shard_size": 0}).write(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["status", str(tmp_path)])
    assert "does not say how many records" in capsys.readouterr().err


def test_times_are_said_as_people_say_them() -> None:
    assert [duration(s) for s in (4, 89, 600, 9000, 400_000)] == [
        "4 s", "89 s", "10 min", "2 h", "5 days",
    ]  # fmt: skip
