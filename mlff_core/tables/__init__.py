"""The tables that a run leaves: schemas, whole files only, the proof that nothing is missing.

    DIR/molecules/part-000000.parquet     one row per input record, whatever happened to it
    DIR/conformers/part-000000.parquet    one row per conformer of an accepted molecule
    DIR/manifest.json                     what made them

A shard of the library gives one part of each table, under the shard's number. The part of
`conformers` is written first: a shard is finished when its part of `molecules` is there. What the
columns are is declared in `mlff_core.schema`, what they mean for a reader in docs/schema.md.

    rows        rows to Arrow tables, and what must hold of them
    parts       one shard's part of a table, written whole and found again
    manifest    what made the tables, and the folder that a run makes its own
    timeline    how busy a run's stages were over its time
    generations  what was added to tables later
    reconcile   the proof that nothing is missing
    progress    how far a run is, by its files
    reader      the tables again: Polars frames, RDKit molecules, ASE atoms
    export      SD files, extended XYZ and ASE databases from the tables
    strain_row  columns of `mlff-screen strain`
    document    docs/schema.md from the schema
    testing     small tables for tests
"""

from typing import TYPE_CHECKING, Any

from mlff_core.schema import SCHEMA_VERSION
from mlff_core.tables.manifest import (
    Manifest,
    check_output,
    earlier_choice,
    earlier_manifest,
    open_output,
    read_manifest,
)
from mlff_core.tables.parts import finished_shards, write_part
from mlff_core.tables.reconcile import Counts, reconcile
from mlff_core.tables.rows import (
    CONFORMERS_SCHEMA,
    MOLECULES_SCHEMA,
    conformers_table,
    molecules_table,
)

if TYPE_CHECKING:
    from mlff_core.tables.reader import Tables, read

__all__ = [
    "CONFORMERS_SCHEMA",
    "MOLECULES_SCHEMA",
    "SCHEMA_VERSION",
    "Counts",
    "Manifest",
    "Tables",
    "check_output",
    "conformers_table",
    "earlier_choice",
    "earlier_manifest",
    "finished_shards",
    "molecules_table",
    "open_output",
    "read",
    "read_manifest",
    "reconcile",
    "write_part",
]


def __getattr__(name: str) -> Any:
    # On first use: a run has no use for Polars, and its import takes its time.
    if name not in ("Tables", "read"):
        raise AttributeError(f"module 'mlff_core.tables' has no attribute {name!r}")
    from mlff_core.tables import reader

    return getattr(reader, name)
