"""The proof that nothing is missing: every record once, its conformers as it counts them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from mlff_core.errors import OutputError
from mlff_core.schema import ROWS, SCHEMA_VERSION
from mlff_core.status import ConformerStatus, MoleculeStatus, Reason
from mlff_core.store import Location, Store, open_store
from mlff_core.tables.parts import parts_in, read_columns, read_footer
from mlff_core.tables.rows import CONFORMERS_SCHEMA

#: A record and a variant as one number: more than a record can have.
_VARIANTS: Final = 2**15


@dataclass(frozen=True)
class Counts:
    """How many rows have each word; every word that there is, also those that none has."""

    status: dict[str, int]
    reason: dict[str, int]
    conformer_status: dict[str, int]

    @property
    def n_molecules(self) -> int:
        """Rows of `molecules`: records, or where these have variants, more."""
        return sum(self.status.values())

    @property
    def n_conformers(self) -> int:
        """Rows of `conformers`."""
        return sum(self.conformer_status.values())

    def to_dict(self) -> dict[str, dict[str, int]]:
        """As the manifest keeps them."""
        return asdict(self)


#: The key that the part of a shard must have.
KeyOf = Callable[[int], str]


def reconcile(out: Store | Location, n_records: int, run_key: str | KeyOf | None = None) -> Counts:
    """Prove that the tables hold every record with all its variants once, and count their rows.

    Reads a few columns, one part at a time, so memory does not grow with the library.

    Args:
        out: Where the tables lie.
        n_records: Records that were to be processed; theirs are 0 to n_records - 1.
        run_key: If given, every part must be of this run, and stand under the number of its shard;
            a function where shards are of several runs.

    Raises:
        OutputError: If a record is missing, stands twice or does not belong to the library, if its
            variants or a molecule's conformers are not those that their rows count, or if the
            tables are of another version of the schema.
    """
    out = open_store(out)
    status, reason, conformer_status = Counter[str](), Counter[str](), Counter[str]()
    missing, twice, outside, other_variants, other = (_Examples() for _ in range(5))
    molecule_parts, conformer_parts = (parts_in(out, table) for table in ROWS)
    if orphans := sorted(conformer_parts.keys() - molecule_parts.keys()):
        raise OutputError(
            f"{out.url(conformer_parts[orphans[0]])}: has no counterpart in molecules"
        )
    for parts in (molecule_parts, conformer_parts):
        for shard, name in parts.items():
            _check_footer(out, name, shard, run_key(shard) if callable(run_key) else run_key)
    following = 0  # the lowest record that has not come yet
    for shard, name in molecule_parts.items():
        molecules = read_columns(
            out,
            name,
            ["record", "variant", "n_variants", "status", "reason", "n_conformers", "n_converged"],
        ).sort_by([("record", "ascending"), ("variant", "ascending")])
        status.update(_count(molecules["status"]))
        reason.update(_count(molecules["reason"]))
        conformers = CONFORMERS_SCHEMA.empty_table()
        if shard in conformer_parts:
            conformers = read_columns(
                out, conformer_parts[shard], ["record", "variant", "conformer", "status"]
            )
        conformer_status.update(_count(conformers["status"]))
        other.add(_with_other_conformers(molecules, conformers))
        doubled, incomplete = _with_other_variants(molecules)
        twice.add(doubled)
        other_variants.add(incomplete)

        records = np.unique(molecules["record"].to_numpy())
        beyond = (records < 0) | (records >= n_records)
        outside.add(records[beyond])
        records = records[~beyond]
        before = np.maximum(np.concatenate([[-1], records])[: len(records)], following - 1)
        twice.add(records[records <= before])
        for i in np.flatnonzero(records > before + 1):
            missing.add_range(before[i] + 1, records[i] - 1)
        following = max(following, int(records.max(initial=-1)) + 1)
    if following < n_records:
        missing.add_range(following, n_records - 1)
    wrong = {
        "missing": missing,
        "twice": twice,
        "not in the library": outside,
        "with other variants than their rows count": other_variants,
        "with other conformers than their rows count": other,
    }
    if any(examples.n for examples in wrong.values()):
        what_is_wrong = "; ".join(
            f"{examples} {what}" for what, examples in wrong.items() if examples.n
        )
        raise OutputError(
            f"{out.location}: the tables do not add up to {n_records} records: {what_is_wrong}"
        )
    return Counts(
        status={word.value: status[word] for word in MoleculeStatus},
        reason={word.value: reason[word] for word in Reason},
        conformer_status={word.value: conformer_status[word] for word in ConformerStatus},
    )


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {
        pair["values"]: pair["counts"] for pair in column.drop_null().value_counts().to_pylist()
    }


def _check_footer(out: Store, name: str, shard: int, run_key: str | None) -> None:
    footer = read_footer(out, name)
    version = footer.get("schema_version", SCHEMA_VERSION)  # torn: said where it is read
    if version != SCHEMA_VERSION:
        raise OutputError(
            f"{out.url(name)}: is of schema version {version}, and this release proves tables of "
            f"version {SCHEMA_VERSION}; mlff_core.tables.read reads it"
        )
    if run_key is not None and footer.get("run_key") != run_key:
        raise OutputError(
            f"{out.url(name)}: expected a part of run {run_key}, found {footer.get('run_key')}"
        )
    if run_key is not None and footer.get("shard") != str(shard):
        raise OutputError(
            f"{out.url(name)}: expected the part of shard {shard}, found {footer.get('shard')}"
        )


def _with_other_variants(molecules: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Records that have a variant twice, and those that lack one or count them wrongly.

    `molecules` is sorted by record and variant. A record's variants stand in one part.
    """
    records, variants, n_variants = (
        molecules[name].to_numpy().astype(np.int64) for name in ("record", "variant", "n_variants")
    )
    begins = np.concatenate([[True], records[1:] != records[:-1]])[: len(records)]
    doubled = records[1:][~begins[1:] & (variants[1:] == variants[:-1])]
    record_of = np.cumsum(begins) - 1
    rank = np.arange(len(records)) - np.flatnonzero(begins)[record_of]
    wrong = (variants != rank) | (n_variants != np.bincount(record_of)[record_of])
    return doubled, np.setdiff1d(records[wrong], doubled)


def _with_other_conformers(molecules: pa.Table, conformers: pa.Table) -> np.ndarray:
    """Return the records of a shard whose conformers are not those that `molecules` counts.

    `molecules` is sorted by record and variant.
    """
    keys, belongs_to = (
        table["record"].to_numpy().astype(np.int64) * _VARIANTS + table["variant"].to_numpy()
        for table in (molecules, conformers)
    )
    row = np.searchsorted(keys, belongs_to)
    known = np.isin(belongs_to, keys)
    converged = conformers["status"].to_numpy() == ConformerStatus.CONVERGED.value
    n_conformers = np.bincount(row[known], minlength=len(keys))
    n_converged = np.bincount(row[known & converged], minlength=len(keys))
    rejected = molecules["status"].to_numpy() == MoleculeStatus.REJECTED.value
    wrong = (
        (n_conformers != molecules["n_conformers"].to_numpy())
        | (n_converged != molecules["n_converged"].to_numpy())
        | (rejected & (n_conformers > 0))
    )
    each, n_times = np.unique(
        np.stack([belongs_to, conformers["conformer"].to_numpy()]), axis=1, return_counts=True
    )
    odd = np.concatenate([keys[wrong], belongs_to[~known], each[0, n_times > 1]])
    return np.unique(odd // _VARIANTS)


class _Examples:
    """Counts records and remembers the first few, for a message."""

    def __init__(self) -> None:
        self.n = 0
        self.ranges: list[tuple[int, int]] = []

    def add_range(self, first: int, last: int) -> None:
        self.n += int(last) - int(first) + 1
        if len(self.ranges) < 5:
            self.ranges.append((int(first), int(last)))

    def add(self, records: np.ndarray) -> None:
        for record in records[:5]:
            self.add_range(record, record)
        self.n += max(len(records) - 5, 0)

    def __str__(self) -> str:
        shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in self.ranges)
        more = self.n - sum(b - a + 1 for a, b in self.ranges)
        return f"{self.n} ({shown}{', ...' if more else ''})"
