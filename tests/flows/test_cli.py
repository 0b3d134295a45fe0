"""The command line: its options are the flow's parameters, its errors one line."""

import inspect
import json
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from flows.info import OPTIONAL
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
        (["--conformers", "0"], "greater than or equal to 1 or 'auto'"),
        (
            ["--conformers", "many"],
            "a valid integer, unable to parse string as an integer or 'auto'",
        ),
        (["--conformers", "1.5"], "--conformers '1.5'"),
        (["--max-steps", "-1"], "--max-steps"),
        (["--shard-size", "0"], "--shard-size"),
        (["--optimizer", "bfgs"], "'lbfgs' or 'fire'"),
        (["--ph", "30"], "--ph '30'"),
        (["--max-variants", "0"], "--max-variants '0'"),
        (["--stereo", "all"], "'one', 'enumerate' or 'diastereomers'"),
        (["--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (["--overwrite", "--resume"], "choose one"),
        (["--colour", "red"], "--colour"),
        (["--conformer", "3"], "unrecognized arguments: --conformer 3 (near it: --conformers)"),
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
    options = ["--out", str(tmp_path / "file/out"), "--model", str(small_model)]
    for more in ([], ["--overwrite"], ["--resume"]):
        line = refused(capsys, "run", str(ROOT / "datasets/quick"), *options, *more)
        assert "is not a writable folder" in line


def imported_after(*argv: str) -> set[str]:
    """The packages that a process has imported when the command line has answered."""
    program = (
        "import sys\nfrom flows.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(ended.stdout.splitlines()[-1].split())


#: What takes its time to import: a third of a second and more, each.
SLOW = {"torch", "prefect", "rdkit", "polars", "pyarrow", "numpy"}


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["run", "--help"], ["distill", "--help"], ["run", "x", "--fmax=0"]],
    ids=" ".join,
)
def test_help_and_a_wrong_option_are_answered_without_any_slow_import(argv: list[str]) -> None:
    assert not imported_after(*argv) & SLOW


def test_ctrl_c_during_the_start_is_one_line_and_130() -> None:
    program = (
        "import os, signal, sys\nfrom flows import start\n"
        "class Now:\n"
        "    def find_spec(name, *rest):\n"
        "        if name == 'pydantic': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Now)\nsys.argv = ['mlff-screen', '--help']\nstart.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "\nmlff-screen: stopped\n"
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry == {"mlff-screen": "flows.start:main"}


def test_a_name_that_nothing_has_is_told_without_any_slow_import(tmp_path: Path) -> None:
    for argv in (["nothing.smi"], [str(ROOT / "datasets/quick"), "--model", "nothing"]):
        imported = imported_after("run", *argv, "--out", str(tmp_path / "out"))
        assert "flows" in imported
        assert not imported & SLOW


def test_a_library_without_smiles_is_told_without_torch_and_prefect(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,weight\nwater,18\n")
    imported = imported_after("run", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out"))
    assert "pyarrow" in imported
    assert not imported & {"torch", "prefect", "polars"}


def test_a_wrong_model_is_told_which_there_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(
        capsys,
        "run",
        str(ROOT / "datasets/quick"),
        "--model",
        "large",
        "--out",
        str(tmp_path / "o"),
    )
    assert "default, small" in line


def test_what_was_guessed_is_told_at_once_and_kept_in_the_manifest(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_model: Path,
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    library, out = tmp_path / "library.csv", tmp_path / "out"
    library.write_text("Structure SMILES;Name\nCCO;ethanol\nC(;broken\n")
    arguments = [
        "run", str(library), "--out", str(out), "--model", str(small_model), "--max-steps", "1",
        "--workers", "1", "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    captured = capsys.readouterr()
    told = captured.err.splitlines()
    assert told[0].startswith("mlff-screen ")
    for expected in (str(library), "'Structure SMILES' is taken for the SMILES", "'Name'", "';'"):
        assert any(expected in line for line in told), expected
    for expected in ("model: random", f"output: {out}", "device: cpu", "geometries: rdkit"):
        assert any(expected in line for line in told), expected
    assert "invalid_smiles  1: broken" in captured.out
    notes = json.loads((out / "manifest.json").read_text())["notes"]
    assert any("'Structure SMILES' is taken" in note for note in notes)

    assert main([*arguments, "--overwrite", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert found["out"] == str(out)
    assert found["counts"]["status"] == {"ok": 1, "rejected": 1, "failed": 0}
    assert found["notes"] == notes

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*arguments, "--overwrite", "--quiet", "--backend", "torch"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlff-screen: warning: backend 'torch' has its true name now: 'numba'")
    assert main([*arguments, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.timeout(300)
def test_a_run_ends_0_with_a_summary_and_a_second_one_is_refused(
    tmp_path: Path, small_model: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [
        sys.executable, "-m", "flows.cli", "run", "datasets/quick", "--out", str(tmp_path / "out"),
        "--model", str(small_model), "--limit", "5", "--max-steps", "2", "--verbose",
    ]  # fmt: skip
    first = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stderr
    assert "5 records" in first.stdout
    assert "INFO mlff_core" in first.stderr
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


def test_info_names_the_model_and_what_it_knows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # as on macOS and Windows
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for expected in ("painn-aimnet2", "sha256", "Br", "+", "torch", "cores usable"):
        assert expected in text
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["elements"].split()[:3] == ["H", "B", "C"]
    assert found["cores usable"] >= 1


def test_info_names_extras_that_there_are_and_that_bring_what_is_missing() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for module, (_, extra) in OPTIONAL.items():
        assert any(requirement.startswith(module) for requirement in extras[extra]), module
