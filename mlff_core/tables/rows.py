"""Rows to Arrow tables that keep the schema."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mlff_core.status import MoleculeStatus
from mlff_core.tables.schema import CONFORMERS_SCHEMA, MOLECULES_SCHEMA, VALUES


def molecules_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make the table `molecules`; a column that a row does not name is null, or 0 if it counts.

    Raises:
        ValueError: If a row names an unknown column, a required value is missing, a status or
            reason is not one of those known, or they contradict each other.
    """
    rows = [{"n_conformers": 0, "n_converged": 0} | dict(row) for row in rows]
    table = _table(rows, MOLECULES_SCHEMA, "molecules")
    for index, row in enumerate(rows):
        if (row["status"] == MoleculeStatus.OK) != (row.get("reason") is None):
            raise ValueError(
                f"molecules: row {index}: expected a reason exactly where the status is not ok, "
                f"found {row['status']}, {row.get('reason')}"
            )
    return table


def conformers_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make the table `conformers`; numbers that are not finite become null, except in lists.

    Args:
        rows: Columns by name. Lists may be arrays of any shape, [n_atoms] and [n_atoms, 3]; they
            are copied as blocks, never number by number.

    Raises:
        ValueError: If a row names an unknown column, a required value is missing, a status is not
            one of those known, or the lists of a row are not n, 3n and 3n long.
    """
    table = _table(rows, CONFORMERS_SCHEMA, "conformers")
    n_atoms = _lengths(table["atomic_numbers"])
    for name in ("positions_angstrom", "forces_ev_per_angstrom"):
        n_numbers = _lengths(table[name])
        for index in np.flatnonzero(n_numbers != 3 * n_atoms):
            raise ValueError(
                f"conformers: {name} of row {index}: expected 3 numbers for each of "
                f"{n_atoms[index]} atoms, found {n_numbers[index]}"
            )
    return table


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, what: str) -> pa.Table:
    unknown = sorted({name for row in rows for name in row} - set(schema.names))
    if unknown:
        raise ValueError(f"{what}: unknown columns: {', '.join(unknown)}")
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if not column.nullable:
            for index, value in enumerate(values):
                if value is None:
                    raise ValueError(f"{what}: {column.name} of row {index} is missing")
        if pa.types.is_list(column.type):
            columns.append(_list_array(values, column.type))
            continue
        if pa.types.is_floating(column.type):
            numbers = np.array([np.nan if v is None else v for v in values], np.float64)
            columns.append(pa.array(numbers, column.type, mask=~np.isfinite(numbers)))
        else:
            columns.append(pa.array(values, column.type))
    for name, known in VALUES[what].items():
        found = set(columns[schema.get_field_index(name)].unique().to_pylist()) - {None}
        if not found <= known:
            raise ValueError(f"{what}: {name}: not one of those known: {sorted(found - known)}")
    return pa.table(columns, schema=schema)


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of each list."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks)]
    )


def _list_array(arrays: Sequence[Any], kind: pa.ListType) -> pa.ListArray:
    """Lay arrays of any shape end to end as one list column."""
    dtype = kind.value_type.to_pandas_dtype()
    flat = [np.asarray(a).reshape(-1) for a in arrays]
    offsets = np.zeros(len(flat) + 1, np.int64)
    np.cumsum([len(a) for a in flat], out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"a part holds at most 2^31 - 1 numbers a column, found {offsets[-1]}")
    values = np.concatenate(flat) if flat else np.empty(0)
    if np.issubdtype(dtype, np.integer) and len(values):
        low, high = values.min(), values.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ValueError(f"expected numbers that fit {np.dtype(dtype)}, found {low} to {high}")
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values.astype(dtype, copy=False)), type=kind
    )
