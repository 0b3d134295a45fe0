"""Small tables that tests of this project share: rows, whole shards, and a manifest."""

from pathlib import Path
from typing import Any

import numpy as np

from mlff_core.schema import ConformerRow, MoleculeRow
from mlff_core.status import ConformerStatus
from mlff_core.tables.manifest import Manifest
from mlff_core.tables.parts import write_part
from mlff_core.tables.rows import conformers_table, molecules_table

KEY = "0123456789abcdef"
METADATA = {"run_key": KEY, "model_name": "tiny", "model_sha256": "ab" * 32}


def molecule(record: int, n_conformers: int = 1, **changes: Any) -> MoleculeRow:
    """A row of `molecules`, ethanol and all of it converged if nothing else is said."""
    row: dict[str, Any] = {
        "record": record,
        "input_id": f"m{record}",
        "input_smiles": "CCO",
        "smiles": "CCO",
        "n_conformers": n_conformers,
        "n_converged": n_conformers,
    }
    return MoleculeRow(**(row | changes))


def conformer(record: int, index: int = 0, n_atoms: int = 3, **changes: Any) -> ConformerRow:
    """A row of `conformers` with random elements, positions and forces; always the same ones."""
    rng = np.random.default_rng([abs(record), index])
    row: dict[str, Any] = {
        "record": record,
        "conformer": index,
        "status": ConformerStatus.CONVERGED,
        "energy_ev": -100.0 - record,
        "atomic_numbers": rng.integers(1, 54, n_atoms),
        "positions_angstrom": rng.normal(size=(n_atoms, 3)).astype(np.float32),
        "forces_ev_per_angstrom": rng.normal(size=(n_atoms, 3)).astype(np.float32),
    }
    return ConformerRow(**(row | changes))


def write_tables(
    out: Path,
    shard: int,
    molecules: list[MoleculeRow],
    conformers: list[ConformerRow],
    **metadata: str,
) -> None:
    """Write both parts of a shard."""
    footer = METADATA | metadata
    write_part(conformers_table(conformers), out, shard, footer)
    write_part(molecules_table(molecules), out, shard, footer)


def write_run(out: Path, shards: int = 3, size: int = 4) -> int:
    """Write all shards of a run, a conformer a molecule; returns how many records there are."""
    for shard in range(shards):
        records = range(shard * size, (shard + 1) * size)
        write_tables(out, shard, [molecule(r) for r in records], [conformer(r) for r in records])
    return shards * size


def manifest(run_key: str = KEY, **changes: Any) -> Manifest:
    """The manifest of a run under way."""
    settings: dict[str, Any] = {
        "run_id": "first",
        "run_key": run_key,
        "parameters": {"fmax": 0.05, "conformers": 1, "out": "here"},
        "library": {"location": "lib.smi", "sha256": "aa", "n_records": 12},
        "model": {"name": "tiny", "sha256": "bb"},
        "versions": {"rdkit": "1"},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Manifest(**(settings | changes))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
