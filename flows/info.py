"""`mlff-screen info`: versions, device, backend, model card, what is missing and how to get it."""

import platform
from importlib import metadata as packages
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table

from mlff_core.cores import usable_cores
from mlff_core.elements import symbols
from mlff_core.errors import MlffError
from mlff_core.models.potential import load_potential

VERSIONS = (
    "mlff-screen", "torch", "triton", "rdkit", "ase", "prefect", "pyarrow", "polars", "numba",
)  # fmt: skip

#: What a missing module would give, and the command that brings it.
OPTIONAL = {
    "triton": ("the Triton engine, used on a CUDA device", 'pip install "mlff-screen[triton]"'),
    "numba": ("the fast edge kernels of the CPU engine", 'pip install "mlff-screen[cpu]"'),
    "duckdb": ("DuckDB over the tables (docs/schema.md)", 'pip install "mlff-screen[recipes]"'),
    "pandas": ("pandas over the tables (docs/schema.md)", 'pip install "mlff-screen[recipes]"'),
}


def print_info() -> int:
    """Print it; 0 if the default model loads, else 1."""
    console = Console()
    table = Table("what", "found", title="mlff-screen")
    table.add_row("python", platform.python_version())
    for name in VERSIONS:
        try:
            table.add_row(name, packages.version(name))
        except packages.PackageNotFoundError:
            table.add_row(name, "-")
    table.add_row("cores usable", str(usable_cores()))
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        table.add_row("device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    else:
        table.add_row("device", "cpu (PyTorch finds no CUDA device)")
    status = 0
    try:
        potential = load_potential("default")
    except MlffError as error:
        table.add_row("model", f"not usable: {error}")
        status = 1
    else:
        config = potential.config
        table.add_row("backend", potential.backend)
        table.add_row("model", f"{potential.name} (sha256 {potential.sha256[:16]}…)")
        table.add_row("elements", symbols(config.elements))
        table.add_row("total charge", f"{config.min_charge:+d} to {config.max_charge:+d}")
        for name, value in potential.errors.items():
            table.add_row(name, value)
    for module, (gives, command) in OPTIONAL.items():
        if find_spec(module) is None:
            table.add_row(f"missing: {module}", f"{gives}; {command}")
    console.print(table)
    return status
