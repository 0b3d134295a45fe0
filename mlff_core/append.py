"""Which structures of a library are new: not in the tables, by what is written or what it means."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import standardise
from mlff_core.library import Library
from mlff_core.library.layout import Record
from mlff_core.library.records import RECORDS_SCHEMA, ShardWriter
from mlff_core.store import Store
from mlff_core.tables.parts import parts_in, read_columns

#: Columns of `molecules` that name its structures.
_NAMES: Final = ["input_smiles", "smiles", "standard_smiles"]
#: Of the two hashes by which a text is known. Together they are 128 bits: among 10^9 texts the odds
#: that one is taken for another are 10^-20.
_SEEDS: Final = (0x6D6C6666, 0x73637265)
#: Entries that are looked up at once.
_AT_ONCE: Final = 1 << 16


class Known:
    """Texts that were met before, as hashes: 16 bytes each."""

    def __init__(self, texts: Iterable[pa.ChunkedArray | pa.Array] = ()) -> None:
        hashes = [_hashed(text) for text in texts]
        every = np.concatenate(hashes) if hashes else np.empty((0, 2), np.uint64)
        self._hashes = every[np.lexsort((every[:, 1], every[:, 0]))]

    def has(self, texts: pa.Array) -> np.ndarray:
        """Which of some texts are known, bool [n]."""
        asked = _hashed(texts)
        first, second = np.ascontiguousarray(self._hashes[:, 0]), self._hashes[:, 1]
        at = np.searchsorted(first, asked[:, 0])
        found = np.zeros(len(asked), bool)
        # Equal first halves stand together, nearly always alone.
        going = np.arange(len(asked))
        while len(going := going[at[going] < len(first)]) and len(
            going := going[first[at[going]] == asked[going, 0]]
        ):
            found[going] |= second[at[going]] == asked[going, 1]
            going = going[~found[going]]
            at[going] += 1
        return found


def _hashed(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Two hashes of each text, uint64 [n, 2]."""
    series = pl.Series(texts)
    return np.stack([series.hash(seed).to_numpy() for seed in _SEEDS], axis=1)


def known_structures(out: Store, shards: range) -> Known:
    """The structures that some shards of the tables have, by all ways in which they are written."""
    parts = (name for shard, name in parts_in(out, "molecules").items() if shard in shards)
    tables = (read_columns(out, part, _NAMES) for part in parts)
    return Known(table[name].drop_null() for table in tables for name in _NAMES)


@dataclass(frozen=True)
class NewReport:
    """What came of looking for new structures.

    Attributes:
        n_read: Entries that the libraries have.
        n_new: Those that are new; they are in the shards.
        sha256: Of the new ones, in hexadecimal.
    """

    n_read: int
    n_new: int
    sha256: str


def write_new(
    libraries: Iterable[Library],
    known: Known,
    settings: ChemistrySettings,
    folder: Path,
    *,
    shard_size: int,
    first_record: int = 0,
    first_shard: int = 0,
    limit: int | None = None,
    workers: int | None = None,
) -> NewReport:
    """Write what is new in some libraries as shards of records, each structure once.

    An entry is known if its text is, or else if its structure is, once the salt is taken off and it
    is written canonically. What is no structure goes by its text alone.

    Args:
        libraries: One after the other.
        known: What the tables have.
        settings: What is accepted.
        folder: Of the shards; it must be there.
        shard_size: Records a shard.
        first_record: Number of the first new record.
        first_shard: Number of the first new shard.
        limit: Entries to read of each library at most.
        workers: Processes that standardise; one for each usable core if None.

    Raises:
        LibraryError: A library is damaged.
    """
    n_read = n_new = 0
    digest = hashlib.sha256()
    met: set[bytes] = set()
    waiting: list[Record] = []
    with ExitStack() as stack:
        writer = stack.enter_context(ShardWriter(folder, first_shard))
        pool = stack.enter_context(EmbeddingPool(settings, workers, prepare=standardise))
        for library in libraries:
            for records in _at_once(library, limit):
                n_read += len(records)
                for record in _new(records, known, met, pool):
                    record = record._replace(record=first_record + n_new)
                    digest.update(repr(tuple(record)).encode())
                    n_new += 1
                    waiting.append(record)
                    if len(waiting) == shard_size:
                        writer.write([_batch(waiting)])
                        waiting = []
        if waiting:
            writer.write([_batch(waiting)])
    return NewReport(n_read, n_new, digest.hexdigest())


def _at_once(library: Library, limit: int | None) -> Iterator[list[Record]]:
    """The entries of a library in lists that are looked up together."""
    records: list[Record] = []
    for record in library.records():
        if record.record == limit:
            break
        records.append(record)
        if len(records) == _AT_ONCE:
            yield records
            records = []
    if records:
        yield records


def _new(
    records: list[Record], known: Known, met: set[bytes], pool: EmbeddingPool
) -> Iterator[Record]:
    """Those of some entries that are neither in the tables nor were met on the way."""
    texts = [_text(record) for record in records]
    unknown = []
    for record, text, is_known in zip(
        records, texts, known.has(pa.array(texts, pa.string())), strict=True
    ):
        if not is_known and not _was_met(met, text):
            unknown.append(record)
    standard = pool.map((r.record, r.input_id, _text(r)) for r in unknown)
    named = [(r, m.smiles) for r, m in zip(unknown, standard, strict=True)]
    # What is no structure has its own text for a name, which is not known: that was looked up.
    structures = known.has(pa.array([s or _text(r) for r, s in named], pa.string()))
    for (record, smiles), is_known in zip(named, structures, strict=True):
        met_as_text = smiles is None or smiles == _text(record)
        if not is_known and (met_as_text or not _was_met(met, smiles or "")):
            yield record


def _text(record: Record) -> str:
    """What an entry is known by; one that cannot be read has no SMILES in the tables either."""
    return record.smiles or ""


def _was_met(met: set[bytes], text: str) -> bool:
    """Whether a text was met on the way; it is from now on."""
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    if key in met:
        return True
    met.add(key)
    return False


def _batch(records: list[Record]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([r._asdict() for r in records], schema=RECORDS_SCHEMA)
