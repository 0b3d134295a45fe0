"""Rows to the two tables, and what must hold of them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from mlff_core.arrow import schema_of, table_of
from mlff_core.schema import Column, ConformerRow, MoleculeRow, columns_of
from mlff_core.status import MoleculeStatus

#: One row per input record and variant.
MOLECULES_SCHEMA: Final = schema_of(MoleculeRow)
#: One row per conformer of an accepted molecule.
CONFORMERS_SCHEMA: Final = schema_of(ConformerRow)
SCHEMAS: Final = {"molecules": MOLECULES_SCHEMA, "conformers": CONFORMERS_SCHEMA}


def molecules_table(rows: Sequence[MoleculeRow]) -> pa.Table:
    """Make the table `molecules`.

    Raises:
        ValueError: If a required value is missing, a status, reason, kind of variant or flag is not
            one of those known, or status and reason contradict each other.
    """
    table = _checked(table_of(rows, MoleculeRow), MoleculeRow)
    for index, row in enumerate(rows):
        if (row.status == MoleculeStatus.OK) != (row.reason is None):
            raise ValueError(
                f"molecules: row {index}: expected a reason exactly where the status is not ok, "
                f"found {row.status}, {row.reason}"
            )
    return table


def conformers_table(rows: Sequence[ConformerRow]) -> pa.Table:
    """Make the table `conformers`; numbers that are not finite become null, except in lists.

    Raises:
        ValueError: If a required value is missing, a status is not one of those known, or the lists
            of a row are not n, 3n and 3n long.
    """
    for index, row in enumerate(rows):
        for name in ("atomic_numbers", "positions_angstrom", "forces_ev_per_angstrom"):
            if getattr(row, name) is None:
                raise ValueError(f"conformers: {name} of row {index} is missing")
    table = _checked(table_of(rows, ConformerRow), ConformerRow)
    n_atoms = _lengths(table["atomic_numbers"])
    for name in ("positions_angstrom", "forces_ev_per_angstrom"):
        n_numbers = _lengths(table[name])
        for wrong in np.flatnonzero(n_numbers != 3 * n_atoms).tolist():
            raise ValueError(
                f"conformers: {name} of row {wrong}: expected 3 numbers for each of "
                f"{n_atoms[wrong]} atoms, found {n_numbers[wrong]}"
            )
    return table


def _checked(table: pa.Table, row_type: type[MoleculeRow] | type[ConformerRow]) -> pa.Table:
    what = row_type.TABLE
    for name, about in columns_of(row_type).items():
        if about.required and table[name].null_count:
            index = np.flatnonzero(table[name].is_null().to_numpy())[0]
            raise ValueError(f"{what}: {name} of row {index} is missing")
        if about.words is not None and (unknown := _unknown(table[name], about)):
            raise ValueError(f"{what}: {name}: not one of those known: {sorted(unknown)}")
    return table


def _unknown(values: pa.ChunkedArray, about: Column) -> set[str]:
    assert about.words is not None
    if pa.types.is_list(values.type):
        values = values.combine_chunks().flatten()
    found = set(values.unique().to_pylist()) - {None}
    if about.joined:
        found = {word for joined in found for word in joined.split("+")}
    return found - {word.value for word in about.words}


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of each list."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks)]
    )
