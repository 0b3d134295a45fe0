"""The command `mlff-screen export`: conformers of a run in a file for other programs."""

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlff_core.tables import Tables

#: Option -> what the name of its file may end in.
ENDINGS: Final = {
    "sdf": (".sdf", ".sdf.gz"),
    "xyz": (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz"),
    "db": (".db",),
}


def add_options(command: argparse.ArgumentParser) -> None:
    """What the command takes."""
    command.add_argument("dir", metavar="DIR", help="Folder of the tables")
    file = command.add_mutually_exclusive_group(required=True)
    file.add_argument("--sdf", metavar="FILE", help="SD file: bonds, charges, columns (.sdf.gz)")
    file.add_argument("--xyz", metavar="FILE", help="Extended XYZ: energies, forces (.extxyz, .gz)")
    file.add_argument("--db", metavar="FILE", help="Database of ASE")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--best", action="store_true", help="The best of each molecule (default)")
    which.add_argument("--all", action="store_true", help="All that are usable")
    command.add_argument(
        "--keep-columns",
        metavar="NAME,NAME",
        help="Columns of the library, or properties of its SD file, that come along",
    )
    command.add_argument(
        "--where",
        metavar="SQL",
        help="Only these, by columns of both tables, the molecule's status being molecule_status: "
        "'qed > 0.5 AND relative_energy_kcal_mol < 3'",
    )


def run(arguments: dict[str, Any]) -> str:
    """Write the file; returns what came of it, in one line.

    Raises:
        MlffError: There are no tables, or the file's name does not fit.
        ValueError: The condition cannot be read, or names a column that there is not.
        OSError: The file cannot be written.
    """
    # Polars, RDKit and ASE take their time to import; a wrong option does not wait for them.
    import polars as pl

    from mlff_core.errors import OutputError
    from mlff_core.tables import read
    from mlff_core.tables.export import export

    [(option, name)] = [(k, arguments[k]) for k in ENDINGS if arguments[k] is not None]
    if not name.lower().endswith(ENDINGS[option]):
        raise OutputError(f"{name}: --{option} takes a name in {', '.join(ENDINGS[option])}")
    tables = read(Path(arguments["dir"]).expanduser())
    try:
        where = None if arguments["where"] is None else pl.sql_expr(arguments["where"])
        n_written = export(
            tables,
            Path(name).expanduser(),
            which="all" if arguments["all"] else "best",
            where=where,
            keep=[name.strip() for name in (arguments["keep_columns"] or "").split(",") if name],
        )
    except pl.exceptions.PolarsError as error:
        said = str(error).splitlines()[0]
        if isinstance(error, pl.exceptions.ColumnNotFoundError) and where is not None:
            said = _no_column(where.meta.root_names(), tables)
        raise ValueError(f"--where {arguments['where']}: {said}") from error
    return f"{name}: {n_written:,} conformer{'' if n_written == 1 else 's'}"


def _no_column(asked: list[str], tables: "Tables") -> str:
    """What names of a condition no table has, and what may have been meant."""
    frames = tables.molecules, tables.conformers
    columns = {name for frame in frames for name in frame.collect_schema().names()}
    columns.add("molecule_status")  # the name of `status` beside that of the conformer
    said = []
    for name in (name for name in asked if name not in columns):
        near = get_close_matches(name, sorted(columns), 3)
        said.append(f"no column {name!r}" + (f" (near it: {', '.join(near)})" if near else ""))
    return f"{'; '.join(said)}; docs/schema.md lists all"
