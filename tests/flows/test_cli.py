"""The command line: its options are the flow's parameters, its errors one line."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from flows.screen import screen

ROOT = Path(__file__).parents[2]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a wrong call is refused."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_every_parameter_of_the_flow_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in inspect.signature(screen.fn).parameters:
        assert ("LIBRARY" if name == "library" else f"--{name.replace('_', '-')} ") in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--fmax", "0"], "--fmax"),
        (["--fmax", "nan"], "--fmax"),
        (["--fmax", "soft"], "--fmax 'soft'"),
        (["--conformers", "0"], "greater than or equal to 1"),
        (["--conformers", "1.5"], "--conformers '1.5'"),
        (["--max-steps", "-1"], "--max-steps"),
        (["--shard-size", "0"], "--shard-size"),
        (["--optimizer", "bfgs"], "'lbfgs' or 'fire'"),
        (["--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (["--overwrite", "--resume"], "choose one"),
        (["--colour", "red"], "--colour"),
        (["--model", "no/such/model.safetensors"], "no model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_refused_in_one_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    small_model: Path,
) -> None:
    options = ["--out", str(tmp_path / "out"), *arguments]
    if "--model" not in arguments:
        options += ["--model", str(small_model)]
    assert expected in refused(capsys, "run", str(ROOT / "datasets/quick"), *options)
    assert not (tmp_path / "out").exists()


def test_a_library_that_is_none_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_model: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("name,weight\nwater,18\n")
    (tmp_path / "empty").mkdir()
    for library, expected in (
        (tmp_path / "missing.smi", "no such file"),
        (table, "name, weight"),
        (tmp_path / "empty", "is a folder"),
    ):
        line = refused(
            capsys, "run", str(library), "--out", str(tmp_path / "out"), "--model", str(small_model)
        )
        assert expected in line


def test_a_damaged_model_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_model: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    data = bytearray(small_model.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    copy.with_suffix(".json").write_bytes(small_model.with_suffix(".json").read_bytes())
    line = refused(capsys, "run", "datasets/quick", "--model", str(copy))
    assert "damaged" in line


def test_an_output_that_cannot_be_written_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_model: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refused(
        capsys, "run", str(ROOT / "datasets/quick"), "--out", str(tmp_path / "file/out"),
        "--model", str(small_model),
    )  # fmt: skip
    assert "file" in line


@pytest.mark.timeout(300)
def test_a_run_ends_0_with_a_summary_and_a_second_one_is_refused(
    tmp_path: Path, small_model: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "flows.cli", "run", "datasets/quick", "--out", str(tmp_path / "out"),
        "--model", str(small_model), "--limit", "5", "--max-steps", "2",
    ]  # fmt: skip
    first = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stderr
    assert "5 records" in first.stdout
    assert str(tmp_path / "out" / "molecules") in first.stdout
    assert "Traceback" not in first.stderr
    assert len(pl.read_parquet(tmp_path / "out/molecules")) == 5

    second = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert "--overwrite" in second.stderr
    assert second.stderr.count("\n") == 1


def test_cuda_where_there_is_none_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small_model: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused(
        capsys, "run", str(ROOT / "datasets/quick"), "--device", "cuda", "--model", str(small_model)
    )
    assert "no CUDA device" in line


def test_info_names_the_model_and_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for expected in ("painn-aimnet2", "sha256", "Br", "+", "torch", "cores usable"):
        assert expected in text
