"""A wheel works where there is nothing else: in an empty folder, beside unlucky names."""

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from ase.io import read as read_ase
from rdkit import Chem

from flows.call import ScreenCall

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what git knows or would, built and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "flows", "tasks",
         "mlff_core", "datasets", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in listed:
        if (ROOT / name).exists():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(folder / "source")],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as working directory, with the wheel and its command installed."""
    program = tmp_path / "bin/mlff-screen"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom flows.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(wheel))
    monkeypatch.setenv(
        "PATH", f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_the_wheel_holds_what_is_needed_and_says_who_it_is(wheel: Path) -> None:
    for name in (
        "mlff_core/py.typed", "mlff_core/weights/painn-aimnet2.safetensors",
        "mlff_core/shipped/druglike/druglike.csv", "mlff_core/shipped/recipes/student.toml",
        "flows/report/3Dmol-min.js", "flows/report/report.css",
    ):  # fmt: skip
        assert (wheel / name).stat().st_size >= 0, name
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    about = message_from_bytes(metadata.read_bytes())
    assert "Topic :: Scientific/Engineering :: Chemistry" in about.get_all("Classifier", [])
    assert not (wheel / "datasets").exists()
    assert not (wheel / "tests").exists()


def test_a_first_screen_runs_in_an_empty_folder_from_the_wheel(
    installed: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path
) -> None:
    for package in ("flows", "tasks", "mlff_core"):  # of someone else, in the working directory
        (installed / package).mkdir()
        (installed / package / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.setenv("MLFF_SCREEN_ARGS", "--limit 3 --max-steps 20 --workers 1")
    told = said("sh", str(ROOT / "examples/first_screen.sh"))
    assert "3 records: 3 ok" in told
    assert str(wheel / "mlff_core/shipped/quick/quick.smi") in told
    assert len([m for m in Chem.SDMolSupplier("first/best.sdf") if m is not None]) == 3
    assert "In space" in Path("first/report.html").read_text()

    # Not with this folder's packages: a script's own folder is what Python puts first.
    script = installed.parent / "bin/labelled.py"
    script.write_text((ROOT / "examples/labelled_geometries.py").read_text())
    told = said(
        sys.executable, str(script), "first", "x.extxyz", "--frames", "1", "--model", "small"
    )
    n = int(re.findall(r"(\d+) geometries", told)[0])
    systems = read_ase("x.extxyz", ":")
    assert len(systems) == n >= 6
    minima, moved = systems[: n // 2], systems[n // 2 :]
    for minimum, frame in zip(minima, moved, strict=True):
        assert minimum.get_chemical_formula() == frame.get_chemical_formula()
        assert frame.get_potential_energy() > minimum.get_potential_energy()
        assert abs(frame.get_forces()).max() > abs(minimum.get_forces()).max() > 0


def test_distill_finds_its_recipe_and_a_shipped_table(installed: Path) -> None:
    ended = subprocess.run(
        ["mlff-screen", "distill", "druglike", "--teacher", "none.jpt"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "none.jpt: no teacher there" in ended.stderr


def test_the_nightly_deployment_of_the_examples_is_one_that_the_flow_takes() -> None:
    text = (ROOT / "examples/nightly/prefect.yaml").read_text()
    (deployment,) = yaml.safe_load(text)["deployments"]
    call = ScreenCall.model_validate(deployment["parameters"])
    assert call.library == "quick"
    module, _, flow = deployment["entrypoint"].rpartition(".")
    assert (module, flow) == ("flows.screen", "screen")
