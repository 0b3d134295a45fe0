"""`mlff-screen info`: versions, device, backend, model card, what is missing and how to get it."""

import platform
from importlib import metadata as packages
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.text import json_line
from mlff_core.cores import usable_cores
from mlff_core.elements import symbols
from mlff_core.errors import MlffError
from mlff_core.models.potential import load_potential

VERSIONS = (
    "mlff-screen", "torch", "triton", "rdkit", "ase", "prefect", "pyarrow", "polars", "numba",
)  # fmt: skip

#: What a missing module would give, and the extra that brings it.
OPTIONAL = {
    "prefect": ("schedules, retries and a page to watch (docs/operations.md)", "prefect"),
    "triton": ("the triton backend, for a CUDA device", "triton"),
    "tblite": ("solvation energies in water (--solvent water)", "solvent"),
    "aiohttp": ("libraries behind http and https", "http"),
    "duckdb": ("DuckDB over the tables (docs/schema.md)", "recipes"),
    "pandas": ("pandas over the tables (docs/schema.md)", "recipes"),
}


def print_info(*, as_json: bool = False) -> int:
    """Print it; 0 if the default model loads, else 1."""
    found, status = gather()
    if as_json:
        print(json_line(found))
        return status
    table = Table("what", "found", title="mlff-screen")
    for what, value in found.items():
        table.add_row(escape(what), escape(str(value)))
    Console().print(table)
    return status


def gather() -> tuple[dict[str, str | int], int]:
    """What was found, by what it is; 1 beside it if the default model does not load, else 0."""
    found: dict[str, str | int] = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = packages.version(name)
        except packages.PackageNotFoundError:
            found[name] = "-"
    found["cores usable"] = usable_cores()
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        found["device"] = f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
    else:
        found["device"] = "cpu (PyTorch finds no CUDA device)"
    status = 0
    try:
        potential = load_potential("default")
    except MlffError as error:
        found["model"] = f"not usable: {error}"
        status = 1
    else:
        config = potential.config
        found["backend"] = potential.backend
        found["model"] = f"{potential.name} (sha256 {potential.sha256[:16]}…)"
        found["elements"] = symbols(config.elements)
        found["total charge"] = f"{config.min_charge:+d} to {config.max_charge:+d}"
        found |= potential.errors
    for module, (gives, extra) in OPTIONAL.items():
        if find_spec(module) is None:
            found[f"missing: {module}"] = f'{gives}; pip install "mlff-screen[{extra}]"'
    return found, status
