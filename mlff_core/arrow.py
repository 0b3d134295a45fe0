"""Rows as Arrow tables and back, and the Arrow files between the steps of a shard."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from mlff_core.schema import Column, columns_of

Row = TypeVar("Row")

_KINDS: Final = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


def schema_of(row_type: type) -> pa.Schema:
    """The Arrow schema of a kind of row; units and meanings stand in the fields' metadata."""
    return pa.schema([_field(name, about) for name, about in columns_of(row_type).items()])


def _field(name: str, about: Column) -> pa.Field:
    told = {"description": about.meaning} | ({"unit": about.unit} if about.unit else {})
    return pa.field(name, _type(about.kind), nullable=not about.required, metadata=told)


def _type(kind: str) -> pa.DataType:
    if not kind.startswith("list<"):
        return _KINDS[kind]
    element = _KINDS[kind.removeprefix("list<").removesuffix(">")]
    return pa.list_(pa.field("element", element, nullable=False))


def table_of(rows: Sequence[Any], row_type: type) -> pa.Table:
    """Lay rows out in columns; numbers that are not finite become null, except in lists.

    Args:
        rows: Of `row_type` or a kind of it. Lists of numbers may be arrays of any shape; they are
            copied as blocks, never number by number.

    Raises:
        ValueError: Numbers do not fit the type of their column, or there are too many.
    """
    schema = schema_of(row_type)
    columns = []
    for kind in schema:
        values = [getattr(row, kind.name) for row in rows]
        if pa.types.is_list(kind.type) and not pa.types.is_string(kind.type.value_type):
            columns.append(_lists(values, kind.type))
        elif pa.types.is_floating(kind.type):
            numbers = np.array([np.nan if v is None else v for v in values], np.float64)
            columns.append(pa.array(numbers, kind.type, mask=~np.isfinite(numbers)))
        else:
            columns.append(pa.array(values, kind.type))
    return pa.table(columns, schema=schema)


def _lists(arrays: Sequence[Any], kind: pa.ListType) -> pa.ListArray:
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


def rows_of(table: pa.Table, row_type: type[Row]) -> list[Row]:
    """The rows of a table that `table_of` made; lists of numbers are views where Arrow allows."""
    values: dict[str, Iterable[Any]] = {}
    for name, about in columns_of(row_type).items():
        kind = table.schema.field(name).type
        if pa.types.is_list(kind) and not pa.types.is_string(kind.value_type):
            values[name] = arrays(table, name, about.width)
        elif about.words is not None and pa.types.is_string(kind) and not about.joined:
            word = about.words
            values[name] = [None if v is None else word(v) for v in table[name].to_pylist()]
        else:
            values[name] = table[name].to_pylist()
    return [
        row_type(**dict(zip(values, row, strict=True)))
        for row in zip(*values.values(), strict=True)
    ]


def arrays(table: pa.Table, name: str, width: int | None = None) -> list[np.ndarray]:
    """The arrays of a list column, [n] or [n, width]; views where Arrow allows."""
    shape = (-1,) if width is None else (-1, width)
    return [
        numbers[a:b].reshape(shape)
        for chunk in table[name].chunks
        for numbers in (chunk.values.to_numpy(zero_copy_only=False),)
        for a, b in pairwise(chunk.offsets.to_numpy())
    ]


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write a table as an Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path) -> pa.Table:
    """Map a table that `write_arrow` wrote into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
