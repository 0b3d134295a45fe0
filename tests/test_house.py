"""The house keeps its shape: imports run one way, names mean what they say."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: package -> packages that it must not import
CLOSED = {"mlff_core": {"prefect", "tasks", "flows"}, "tasks": {"flows"}}

#: The rooms of mlff_core: each may import from those in lines above its own, and from itself.
ORDER = (
    "units errors elements status shipped interrupts cores weights",
    "store schema",
    "arrow",
    "chem library",
    "tables",
    "charge",
    "arrays",
    "batch",
    "neighbors buckets",
    "embedding",
    "ops",
    "models",
    "moves calculator tune",
    "kernels",
    "properties",
    "outcome",
    "shard append",
    "additions",
    "distill",
    "screening",
    "testing",
)

#: A file has at most so many lines ...
MAX_LINES = 400
#: ... but for these, each for a reason.
LONG_FILES = {
    "benchmarks/model_card.py": "one document, written from top to bottom",
    "benchmarks/relaxation.py": "every way to relax, side by side in one process",
    "tests/mlff_core/moves/test_relax.py": "one door, seen from all sides",
    "tests/mlff_core/library/test_library.py": "five formats, one contract",
}


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


def run_time_imports(path: Path, package: str = "mlff_core") -> set[str]:
    """Modules of a package that a file imports, at its top or within a function."""
    names = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return {name for name in names if name.startswith(f"{package}.")}


def test_imports_inside_mlff_core_run_one_way_too() -> None:
    level = {room: k for k, line in enumerate(ORDER) for room in line.split()}
    met = set()
    for file in (ROOT / "mlff_core").rglob("*.py"):
        room = file.relative_to(ROOT / "mlff_core").parts[0].removesuffix(".py")
        if room == "__init__":
            continue  # Names of the package are resolved on first use.
        assert room in level, f"ORDER does not say where {room} stands"
        met.add(room)
        for name in run_time_imports(file):
            other = name.split(".")[1]
            if other in level and other != room:
                assert level[other] < level[room], f"{file} imports {name}"
    assert met == set(level)


@pytest.mark.parametrize("package", ["mlff_core", "tasks", "flows"])
def test_no_two_files_need_each_other(package: str) -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in (ROOT / package).rglob("*.py")
        if file.stem != "__init__"  # of mlff_core: its names are resolved on first use
    }
    assert files
    needs = {
        name: {
            other
            for imported in run_time_imports(file, package)
            for other in (imported, imported.rpartition(".")[0])
            if other in files and other != name
        }
        for name, file in files.items()
    }
    assert len(list(TopologicalSorter(needs).static_order())) == len(files)


def test_no_benchmark_imports_by_a_name_that_prefect_gives_to_a_flow() -> None:
    """Prefect keeps the file of a deployed flow in `sys.modules` under its bare name."""
    deployed = re.findall(r"entrypoint: flows/(\w+)\.py:", (ROOT / "prefect.yaml").read_text())
    assert "screen" in deployed
    for file in (ROOT / "benchmarks").rglob("*.py"):
        assert not imported_modules(file) & set(deployed), file


def test_every_table_of_contents_is_complete() -> None:
    for init in (ROOT / "mlff_core").rglob("__init__.py"):
        here = init.parent
        rooms = {p.parent.name for p in here.glob("*/__init__.py")} - {"weights"}
        files = {p.stem for p in here.glob("*.py")} - {"__init__"}
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        for name in rooms | files:
            # An entry, not a sentence that begins with the word.
            entries = re.findall(rf"^ *{name}(?:\.py |/ |  )", text, re.MULTILINE)
            assert len(entries) == 1, f"{init}: {name} is not there exactly once"


def test_only_the_named_files_are_long() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in listed}
    assert lengths
    assert {name for name, n in lengths.items() if n > MAX_LINES} == set(LONG_FILES)


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
