"""The flow `distill` from a table to a package, its command line, and its deployment."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

import tasks.distill
from flows import student
from flows.cli import main
from flows.distill import distill
from mlff_core.distill.training_log import read_training_log, write_training_log
from mlff_core.models.potential import load_potential
from mlff_core.testing import SpringTeacher

ROOT = Path(__file__).parents[2]

RECIPE = """
name = "small"
[molecules]
held_out_share = 0.3
salt = "a"
[student]
n_features = 16
n_interactions = 1
[stage]
seconds = 0.1
n_processes = 1
capacity = 32
first_molecules = 2
n_stages = 2
averaged_stages = 2
[sampling]
relax_steps = 2
hot_steps = 2
[training]
n_mols = 4
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Table and options of a distillation that takes seconds."""
    table = tmp_path / "table.csv"
    smiles = ["CCO", "CC(=O)[O-]", "C[NH3+]", "CCN", "COC", "CC=O", "CCC", "garbage", "CC.O"]
    pl.DataFrame({"id": range(len(smiles)), "SMILES": smiles}).write_csv(table)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    return [str(table), "--recipe", str(recipe), "--device", "cpu", "--out", str(tmp_path / "out")]


class FreeTeacher(SpringTeacher):
    """A teacher without a file."""

    def __init__(self, path: Path, device: object) -> None:
        super().__init__(device)

    @staticmethod
    def check(path: Path) -> str:
        return "0" * 64


@pytest.mark.usefixtures("prefect_server")
def test_a_student_is_made_and_a_second_run_finds_it_finished(
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for opens in (student, tasks.distill):
        monkeypatch.setattr(opens, "Teacher", FreeTeacher)
    assert main(["distill", *files]) == 0
    captured = capsys.readouterr()
    assert "stage 2 of 2: " in captured.err
    text = captured.out
    packaged = tmp_path / "out/package/small.safetensors"
    assert "weights:" in text
    assert "1 invalid smiles" in text
    assert load_potential(packaged, device="cpu").name == "small"
    card = json.loads(packaged.with_suffix(".json").read_text())
    assert card["averaged_stages"] == 2
    assert "stages" not in card
    assert len(read_training_log(packaged)) == 2
    assert card["teacher_sha256"] == "0" * 64
    # Stages of an earlier time did not count all that is counted now.
    log = read_training_log(packaged)
    counts = log[0].pop("labelling")
    write_training_log(packaged, log)
    assert f"{counts['labels']:,} labels |\n| 2 " not in student.report(packaged)
    assert "| none |\n| 2 " in student.report(packaged)

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*stage-*")}
    assert len(made) == 9
    table, _, recipe, _, device, _, out = files
    found = distill(table=table, recipe=recipe, device=device, out=out)
    assert found["weights"] == str(packaged)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["distill", *argv])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_wrong_call_is_refused_in_one_line(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "teacher.jpt"
    damaged.write_bytes(b"half")
    recipe = tmp_path / "other.toml"
    recipe.write_text("[stage]\nsecond = 1.0\n")
    for options, expected in (
        (["--teacher", str(damaged)], "expected sha256 e34e147e"),
        (["--teacher", str(tmp_path / "none.jpt")], "datasets/fetch_teacher.py gets it"),
        (["--recipe", str(recipe)], "no such key: stage.second"),
        (["--recipe", str(tmp_path / "none.toml")], "none.toml"),
        (["--stages", "0"], "--stages"),
        (["--start", "nothing"], "no model 'nothing'"),
        (["--start", "default"], "cannot grow into"),
        (["--gpus", "64", "--device", "auto"], "gpus: 64 asked for"),
        (["--colour", "red"], "--colour"),
    ):
        assert expected in refused(capsys, *files, *options)
    assert "no such file" in refused(capsys, str(tmp_path / "none.smi"), *files[1:])
    assert not (tmp_path / "out").exists()


def test_the_deployment_names_the_flow_and_parameters_that_it_accepts() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    student = next(d for d in deployments if d["name"] == "student")
    flow = load_flow_from_entrypoint(str(ROOT / student["entrypoint"]))
    assert flow.name == "distill"
    parameters = flow.validate_parameters(student["parameters"])
    assert Path(ROOT / parameters["recipe"]).exists()
    assert student["concurrency_limit"]["limit"] == 1
    assert "schedules" not in student
