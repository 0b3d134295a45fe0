"""A screen of a few molecules: tables, statuses, resume, being killed, and the flow of Prefect."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq
import pytest

from flows.call import ScreenCall
from flows.cli import main
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.errors import LibraryError, OutputError
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.store import open_store
from mlff_core.tables import Manifest, read_manifest
from mlff_core.testing import random_model

ROOT = Path(__file__).parents[2]

LIBRARY = [
    ("CCO", "ethanol"),
    ("C1CCCCC1O", "cyclohexanol"),
    ("CC(=O)[O-].[Na+]", "sodium acetate"),
    ("not a molecule", 'garbage, with "quotes" and <b>tags</b>'),
    ("[Pt](Cl)(Cl)(N)N", "a metal"),
    ("C[CH2]", "a radical"),
    ("", "nothing"),
    ("CCO", "ethanol"),
    ("[NH3+]CC(=O)[O-]", "glycine"),
    ("C" * 120, "too large"),
]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "library.csv"
    pl.DataFrame(LIBRARY, schema=["smiles", "name"], orient="row").write_csv(path)
    return path


def call(library: Path, out: Path, model: Path, **more: object) -> Manifest:
    """Run the pipeline in this process, as the command does where there is no server."""
    options = dict(shard_size=4, max_steps=3, workers=2, device="cpu") | more
    one = ScreenCall(library=str(library), out=str(out), model=str(model), **options)
    return run_screen(one, LocalEngine(), Watcher())


def test_every_record_is_in_the_tables_once_with_its_reason(
    library: Path, tmp_path: Path, small_model: Path
) -> None:
    out = tmp_path / "out"
    returned = call(library, out, small_model, conformers=2)
    molecules = pl.read_parquet(out / "molecules").sort("record")
    assert molecules["record"].to_list() == list(range(len(LIBRARY)))
    assert molecules["input_id"].to_list() == [name for _, name in LIBRARY]
    assert [(s, r) for s, r in molecules.select("status", "reason").iter_rows()] == [
        ("ok", None), ("ok", None), ("ok", None),
        ("rejected", "invalid_smiles"), ("rejected", "unsupported_element"),
        ("rejected", "radical"), ("rejected", "empty"),
        ("ok", None), ("ok", None), ("rejected", "too_large"),
    ]  # fmt: skip
    assert "Na" in molecules["message"][2]
    assert molecules["charge"].to_list()[:3] == [0, 0, -1]

    conformers = pl.read_parquet(out / "conformers")
    rows = conformers.group_by("record").len().sort("record")
    assert dict(rows.iter_rows()) == dict(
        molecules.filter(pl.col("n_conformers") > 0).select("record", "n_conformers").iter_rows()
    )
    # The same molecule twice in the library: the same structure, so the same energy.
    first, second = (molecules.filter(record=r)["min_energy_ev"].item() for r in (0, 7))
    assert first == pytest.approx(second, abs=1e-4)
    best = conformers.filter(record=0, conformer=molecules["best_conformer"][0])
    assert best["energy_ev"].item() == first
    assert len(best["positions_angstrom"].item()) == 3 * len(best["atomic_numbers"].item()) == 27

    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.finished is not None
    assert (
        manifest.counts["status"]
        == returned.counts["status"]
        == {"ok": 5, "rejected": 5, "failed": 0}
    )
    (ran,) = manifest.ran
    assert ran["batch_sizes"].keys() <= {"small", "medium", "large"}
    assert ran["batch_sizes"]["small"] >= 1
    del ran["batch_sizes"]
    assert ran == {
        "device": "cpu", "backend": "numba", "precision": "float32", "tiles": None,
        "why": "auto, on cpu in float32",
    }  # fmt: skip
    assert not (out / ".mlff-screen").exists()


def test_a_folder_with_results_is_refused_until_told_otherwise(
    library: Path, tmp_path: Path, small_model: Path
) -> None:
    out = tmp_path / "out"
    call(library, out, small_model, limit=2)
    with pytest.raises(OutputError, match="--overwrite"):
        call(library, out, small_model, limit=2)
    with pytest.raises(OutputError, match="n_records was 2, is 3"):
        call(library, out, small_model, limit=3, resume=True)
    call(library, out, small_model, limit=3, overwrite=True)
    assert len(pl.read_parquet(out / "molecules")) == 3


def test_a_folder_that_another_run_writes_into_is_left_to_it(
    library: Path, tmp_path: Path, small_model: Path
) -> None:
    work = tmp_path / "out" / ".mlff-screen" / "000000.records.arrow"
    work.parent.mkdir(parents=True)
    work.write_text("of the other run")
    with (
        open_store(tmp_path / "out").lock("run"),
        pytest.raises(OutputError, match="another run is at work here"),
    ):
        call(library, tmp_path / "out", small_model, overwrite=True)
    assert work.read_text() == "of the other run"


def test_the_models_errors_stand_in_the_manifest_and_in_every_footer(tmp_path: Path) -> None:
    library, model, out = tmp_path / "library.smi", tmp_path / "m.safetensors", tmp_path / "out"
    library.write_text("CCO\n")
    errors = {"minima": "0.1 Å from the teacher's"}
    save_checkpoint(random_model(1, n_features=32), model, {"headline": errors})
    call(library, out, model)
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.model["errors"] == errors
    for part in out.glob("*/part-*.parquet"):
        footer = pq.ParquetFile(part).metadata.metadata
        assert json.loads(footer[b"mlff_screen.model_errors"]) == errors


def test_resume_computes_only_what_is_missing(
    library: Path, tmp_path: Path, small_model: Path
) -> None:
    out = tmp_path / "out"
    call(library, out, small_model)
    before = {p.name: p.stat().st_mtime_ns for p in (out / "molecules").iterdir()}
    (out / "molecules/part-000001.parquet").unlink()
    # The shard size is the first run's, although the default differs.
    call(library, out, small_model, resume=True, shard_size=None)
    after = {p.name: p.stat().st_mtime_ns for p in (out / "molecules").iterdir()}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"part-000001.parquet"}
    assert sorted(pl.read_parquet(out / "molecules")["record"]) == list(range(len(LIBRARY)))


@pytest.mark.parametrize("where", ["head", "body", "end", "manifest"])
def test_what_is_damaged_is_made_anew_and_the_same(
    where: str, library: Path, tmp_path: Path, small_model: Path
) -> None:
    out = tmp_path / "out"
    call(library, out, small_model)
    before = {t: pl.read_parquet(out / t).sort("record") for t in ("molecules", "conformers")}
    times = {p.name: p.stat().st_mtime_ns for p in (out / "molecules").iterdir()}
    name = "manifest.json" if where == "manifest" else "conformers/part-000000.parquet"
    data = bytearray((out / name).read_bytes())
    at = {"head": 3, "body": len(data) // 2, "end": len(data) - 30, "manifest": 40}[where]
    data[at] ^= 1
    (out / name).write_bytes(data if where != "manifest" else data[:at])
    call(library, out, small_model, resume=True, shard_size=None)
    for table, rows in before.items():
        assert pl.read_parquet(out / table).sort("record").equals(rows)
    changed = {
        p.name for p in (out / "molecules").iterdir() if p.stat().st_mtime_ns != times[p.name]
    }
    assert changed == (set() if where == "manifest" else {"part-000000.parquet"})


def test_library_and_tables_may_lie_in_a_bucket(
    library: Path, tmp_path: Path, small_model: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    source, out = f"{bucket}/libraries/library.csv", f"{bucket}/tables"
    with open_store(f"{bucket}/libraries").put("library.csv") as stream:
        stream.write(library.read_bytes())
    call(library, tmp_path / "out", small_model)
    command = [
        "run", source, "--out", out, "--model", str(small_model), "--shard-size", "4",
        "--max-steps", "3", "--workers", "2", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    assert main(command) == 0
    store = open_store(out)
    for table in ("molecules", "conformers"):
        parts = [store.open(name) for name in store.list(table)]
        rows = pl.concat([pl.read_parquet(part) for part in parts]).sort("record")
        assert rows.equals(pl.read_parquet(tmp_path / "out" / table).sort("record"))
    times = {name: store.modified(name) for name in store.list("molecules")}
    store.delete("molecules/part-000001.parquet")
    assert main([*command, "--resume"]) == 0
    assert store.modified("molecules/part-000000.parquet") == times["molecules/part-000000.parquet"]
    assert len(store.list("molecules")) == 3
    assert main([*command, "--append"]) == 0
    assert store.holder("run") is None
    assert list((tmp_path / "cache" / "mlff-screen").iterdir()) == []


def test_garbage_alone_is_a_table_of_rejections(tmp_path: Path, small_model: Path) -> None:
    library = tmp_path / "garbage.smi"
    library.write_bytes(b"C\xe9 latin\nCC\x00O nul\n" + b"C(" * 5000 + b"\n?? name\n")
    call(library, tmp_path / "out", small_model)
    molecules = pl.read_parquet(tmp_path / "out/molecules")
    assert molecules["status"].to_list() == ["rejected"] * 4
    assert len(pl.read_parquet(tmp_path / "out/conformers")) == 0


def test_a_missing_library_fails_the_run_before_it_touches_the_folder(
    tmp_path: Path, small_model: Path
) -> None:
    with pytest.raises(LibraryError, match="no such file"):
        call(tmp_path / "missing.smi", tmp_path / "out", small_model)
    assert not (tmp_path / "out").exists()


def stop_in_its_middle(
    number: signal.Signals, library: Path, out: Path, model: Path, **environment: str
) -> tuple[int, str]:
    """Status and last words of a command that got a signal when three shards were written."""
    library.write_text("".join(f"{'C' * (3 + n % 8)}O m{n}\n" for n in range(24)))
    command = [
        sys.executable, str(Path(__file__).with_name("run_until_third_part.py")), "run",
        str(library), "--out", str(out), "--model", str(model), "--shard-size", "3",
        "--max-steps", "3", "--device", "cpu",
    ]  # fmt: skip
    inherited = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    inherited |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=inherited | environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while len(list((out / "molecules").glob("part-*"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_run_stopped_in_its_middle_leaves_whole_files_and_resume_finishes_it(
    number: signal.Signals, tmp_path: Path, small_model: Path
) -> None:
    library, out = tmp_path / "library.smi", tmp_path / "out"
    molecules = out / "molecules"
    status, errors = stop_in_its_middle(number, library, out, small_model)
    if number == signal.SIGINT:
        assert status == 130
        assert errors.strip().endswith(
            f"stopped; 3 finished shards are kept in {out}; --resume goes on from here"
        )
        assert "Traceback" not in errors
    parts = sorted(molecules.glob("part-*"))
    records = pl.read_parquet(parts)["record"]  # whole files only, or this raises
    assert len(parts) == 3
    assert len(records) == len(set(records)) == 9
    assert json.loads((out / "manifest.json").read_text())["finished"] is None

    before = {part: part.stat().st_mtime_ns for part in parts}
    call(library, out, small_model, resume=True, shard_size=None, workers=None)
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    assert sorted(pl.read_parquet(molecules)["record"]) == list(range(24))
    assert pl.read_parquet(out / "conformers")["record"].n_unique() == 24


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_and_the_command_give_the_same_tables(
    library: Path, tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.settings import PREFECT_API_URL

    from flows.cli import main
    from flows.screen import screen

    options = ["--model", str(small_model), "--shard-size", "4", "--max-steps", "3", "--workers"]
    options += ["2", "--device", "cpu", "--conformers", "2", "--quiet"]
    with get_client(sync_client=True) as client:
        before = len(client.read_flow_runs())
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        assert main(["run", str(library), "--out", str(tmp_path / "plain"), *options]) == 0
        assert len(client.read_flow_runs()) == before
        monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        monkeypatch.setattr("flows.ranges.MOST_RANGES", 2)
        assert main(["run", str(library), "--out", str(tmp_path / "flow"), *options]) == 0
        runs = client.read_flow_runs()
        assert len(runs) == before + 1
        (this,) = [run for run in runs if run.parameters["out"] == str(tmp_path / "flow")]
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[this.id]))
        )
        assert {run.name for run in tasks} == {"shards 0 to 1", "shard 2"}
        assert len(tasks) == 2
    for table in ("molecules", "conformers"):
        plain, flow = (
            pl.read_parquet(tmp_path / way / table).sort("record") for way in ("plain", "flow")
        )
        assert plain.height > 5
        assert plain.equals(flow)
    # Tried again by Prefect, the run ends what it began, although it was told to replace results.
    monkeypatch.setattr(
        "flows.screen.flow_run", SimpleNamespace(run_count=2, id=uuid4(), parameters={})
    )
    part = tmp_path / "flow/molecules/part-000000.parquet"
    before = part.stat().st_mtime_ns
    (tmp_path / "flow/molecules/part-000001.parquet").unlink()
    parameters = read_manifest(tmp_path / "flow").parameters
    screen(**parameters | {"overwrite": True})
    assert part.stat().st_mtime_ns == before
    assert pl.read_parquet(tmp_path / "flow/molecules").height == len(LIBRARY)
    manifests = [read_manifest(tmp_path / way) for way in ("plain", "flow")]
    assert manifests[0].counts == manifests[1].counts
    assert manifests[0].run_key == manifests[1].run_key


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_run_that_ctrl_c_stopped_is_cancelled_on_its_server(
    tmp_path: Path, small_model: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    library, out = tmp_path / "library.smi", tmp_path / "out"
    url = PREFECT_API_URL.value()
    status, errors = stop_in_its_middle(
        signal.SIGINT, library, out, small_model, PREFECT_API_URL=url
    )
    assert status == 130
    assert "3 finished shards are kept" in errors
    with get_client(sync_client=True) as client:
        (run,) = [r for r in client.read_flow_runs() if r.parameters["out"] == str(out)]
    assert run.state_name == "Cancelled"
