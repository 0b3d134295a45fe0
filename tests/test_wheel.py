"""A wheel works where there is nothing else: in an empty folder, beside unlucky names."""

import json
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
        f"#!{sys.executable}\nimport sys\nfrom flows.start import main\nsys.exit(main())\n"
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
    extra = installed.parent / "extra/prefect/__init__.py"  # which the science does without
    extra.parent.mkdir(parents=True)
    extra.write_text("raise RuntimeError('nobody asked for a server')")
    monkeypatch.setenv("PYTHONPATH", f"{wheel}{os.pathsep}{extra.parents[1]}")
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


#: What makes a run of a story short; given last, they win.
SHORT = "--limit 3 --max-steps 5 --workers 1 --max-conformers 8 --model small --conformers 2"


def stories(language: str, title: str) -> list[str]:
    """The blocks of one story."""
    page = (ROOT / "docs/stories.md").read_text()
    (story,) = (part for part in page.split("\n## ") if part.startswith(title))
    return re.findall(rf"```{language}\n(.*?)```", story, re.DOTALL)


@pytest.fixture
def short_runs(installed: Path) -> Path:
    """The command takes three records and few steps."""
    program = installed.parent / "bin/mlff-screen"
    program.rename(program.with_name("real"))
    program.write_text(
        "#!/bin/sh\n"
        f'case "$1" in run) exec "{program.with_name("real")}" "$@" {SHORT};; '
        f'*) exec "{program.with_name("real")}" "$@";; esac\n'
    )
    program.chmod(0o755)
    return installed


@pytest.mark.timeout(600)
def test_the_story_of_the_chemist(short_runs: Path) -> None:
    Path("compounds.csv").write_text(
        "price,SMILES,name\n3,CC(=O)O,vinegar\n5,C[Xe],odd\n7,CCO,spirit\n"
    )
    for block in stories("sh", "A chemist"):
        said("bash", "-ec", block)
    best = {m.GetProp("_Name"): m for m in Chem.SDMolSupplier("best.sdf", removeHs=False)}
    assert {name: m.GetProp("price") for name, m in best.items()} == {"vinegar": "3", "spirit": "7"}
    assert Chem.GetFormalCharge(best["vinegar"]) == -1  # at pH 7.4
    assert Path("low.sdf.gz").stat().st_size > 0
    assert "odd" in Path("quick/report.html").read_text()
    assert "Lowest energies" in Path("quick/compared.html").read_text()


@pytest.mark.timeout(600)
def test_the_story_of_the_engineer(short_runs: Path) -> None:
    for block in stories("sh", "An engineer"):
        said("bash", "-ec", block)
    (block,) = stories("python", "An engineer")
    script = short_runs.parent / "bin/moved.py"  # whose folder is what Python puts first
    script.write_text(block)
    said(sys.executable, str(script))
    minima, moved = read_ase("minima.extxyz", ":"), read_ase("moved.extxyz", ":")
    assert len(moved) == 3 * len(minima) > 0
    for k, frame in enumerate(moved):
        assert frame.get_chemical_formula() == minima[k % len(minima)].get_chemical_formula()
        assert 0.1 < abs(frame.get_forces()).max() < 100.0


@pytest.mark.timeout(600)
def test_the_story_of_who_schedules(short_runs: Path) -> None:
    Path("library").mkdir()
    Path("library/a.smi").write_text("CCO spirit\nCC(=O)O vinegar\n")
    nightly, deployment, server = stories("sh", "Someone who")
    assert json.loads(said("bash", "-ec", nightly))["done"] == 2
    Path("library/a.smi").write_text("CCO spirit\nCC(=O)O vinegar\nCCN amine\n")
    assert json.loads(said("bash", "-ec", nightly))["done"] == 3  # what was gained, no more
    said("bash", "-ec", deployment)
    # A server, a worker and a run are those of tests/flows/test_deployment.py.
    program = (
        "import sys, yaml; from prefect.flows import load_flow_from_entrypoint; "
        "(d,) = yaml.safe_load(open('prefect.yaml'))['deployments']; "
        "flow = load_flow_from_entrypoint(d['entrypoint']); "
        "print(flow.name, d['name'], flow.validate_parameters(d['parameters'])['library'])"
    )
    assert said(sys.executable, "-c", program).split()[-3:] == ["screen", "nightly", "library"]
    for command in (
        "prefect server start --host 127.0.0.1", "prefect --no-prompt work-pool create screen",
        "prefect --no-prompt deploy --all", "prefect deployment run screen/nightly",
    ):  # fmt: skip
        assert command in server


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
