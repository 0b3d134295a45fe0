"""The house keeps its shape: imports run one way, names mean what they say."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: package -> packages that it must not import
CLOSED = {"mlff_core": {"prefect", "tasks", "flows"}, "tasks": {"flows"}}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", CLOSED)
def test_imports_run_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported_modules(file) & CLOSED[package], file


def test_every_package_is_listed_for_the_wheel() -> None:
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for package in ("mlff_core", "tasks", "flows")
        for init in (ROOT / package).rglob("*.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) >= found


def test_datasets_is_not_a_package() -> None:
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def test_everything_exported_exists() -> None:
    module = importlib.import_module("mlff_core")
    for name in module.__all__:
        assert getattr(module, name).__name__ == name


def test_embedding_processes_do_not_pay_for_torch() -> None:
    program = (
        "import sys, mlff_core.chem.pool; print('torch' in sys.modules, 'prefect' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == ["False", "False"]


def test_flow_modules_keep_their_annotations() -> None:
    # Prefect resolves a flow's annotations at run time; postponed, they break served deployments.
    for file in (ROOT / "flows").glob("*.py"):
        assert "__future__" not in imported_modules(file), file
