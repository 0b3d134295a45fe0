"""How far a run is, told by its files alone: whoever makes them, wherever, alive or dead."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mlff_core.cores import usable_cores
from mlff_core.errors import OutputError
from mlff_core.schema import ROWS
from mlff_core.status import MoleculeStatus
from mlff_core.store import Location, Store, open_store
from mlff_core.tables.generations import generations_of
from mlff_core.tables.manifest import Manifest, read_manifest
from mlff_core.tables.parts import is_whole, parts_in, read_columns

#: Parts, the newest, that the rate is taken from.
_NEWEST: Final = 50
#: A pause so many times longer than the median one between parts is no work: the run stood still.
_STANDSTILL: Final = 20.0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        state: `running`, `stopped` (not finished, and nobody is at work), or `finished`.
        holder: Who is at work, in words.
        n_records: Records of the library.
        done: Records that are in the tables.
        status: Rows of `molecules` by status.
        n_shards: Shards of the library.
        shards_done: Those whose parts are there.
        rate: Records/s of late; None where too few parts tell.
        seconds_left: Until the rest is done at this rate; None if nobody is at work.
        damaged: Names of parts that are not as they were written; None if nobody looked.
    """

    state: Literal["running", "stopped", "finished"]
    holder: str | None
    n_records: int
    done: int
    status: dict[str, int]
    n_shards: int
    shards_done: int
    rate: float | None
    seconds_left: float | None
    damaged: tuple[str, ...] | None

    @property
    def left(self) -> int:
        """Records that are not done."""
        return self.n_records - self.done


def progress(out: Store | Location, *, check: bool = False) -> Progress:
    """Look at the tables of a run.

    Args:
        out: Where the tables lie.
        check: Read every byte of every part, and say which are damaged.

    Raises:
        OutputError: There is no run, or its manifest or a part cannot be read.
    """
    out = open_store(out)
    manifest = read_manifest(out)
    if manifest is None:
        raise OutputError(f"{out.location}: holds no run")
    parts = {table: parts_in(out, table) for table in ROWS}
    molecules = parts["molecules"]
    with ThreadPoolExecutor(max(4, usable_cores())) as threads:
        found = list(threads.map(lambda name: _records(out, name), molecules.values()))
        damaged = None
        if check:
            names = [name for own in parts.values() for name in own.values()]
            whole = threads.map(lambda name: is_whole(out, name), names)
            damaged = tuple(name for name, yes in zip(names, whole, strict=True) if not yes)
    sizes = dict(zip(molecules, (n for n, _ in found), strict=True))
    status = sum((words for _, words in found), Counter[str]())
    n_records, n_shards = _shape(out, manifest)
    done = sum(sizes.values())
    holder = out.holder("run")
    rate = _rate(out, molecules, sizes)
    finished = manifest.finished is not None and holder is None
    running = holder is not None
    return Progress(
        state="finished" if finished else "running" if running else "stopped",
        holder=holder,
        n_records=n_records,
        done=done,
        status={word.value: status[word] for word in MoleculeStatus},
        n_shards=n_shards,
        shards_done=len(molecules),
        rate=rate,
        seconds_left=(n_records - done) / rate if running and rate else None,
        damaged=damaged,
    )


def _shape(out: Store, manifest: Manifest) -> tuple[int, int]:
    """Records and shards that there will be."""
    if manifest.generations:
        last = generations_of(manifest)[-1]
        return last.first_record + last.n_records, last.shards.stop
    n_records, size = manifest.library.get("n_records"), manifest.parameters.get("shard_size")
    if not (isinstance(n_records, int) and isinstance(size, int) and size > 0 <= n_records):
        raise OutputError(f"{out.location}: its manifest does not say how many records there are")
    return n_records, -(-n_records // size)


def _records(out: Store, name: str) -> tuple[int, Counter[str]]:
    rows = read_columns(out, name, ["record", "status"])
    return len(np.unique(rows["record"].to_numpy())), Counter(rows["status"].to_pylist())


def _rate(out: Store, parts: dict[int, str], sizes: dict[int, int]) -> float | None:
    """Records/s since the last time that the run stood still, by the newest parts."""
    times = sorted((out.modified(name), shard) for shard, name in parts.items())[-_NEWEST:]
    begun = _since_standstill([time for time, _ in times])
    times = times[begun:]
    if len(times) < 2:
        return None
    seconds = times[-1][0] - times[0][0]
    return sum(sizes[shard] for _, shard in times[1:]) / seconds if seconds > 0 else None


def _since_standstill(times: Sequence[float]) -> int:
    """Index of the first of some times after which no pause was out of proportion."""
    pauses = np.diff(times)
    if not len(pauses):
        return 0
    long = np.flatnonzero(pauses > _STANDSTILL * max(float(np.median(pauses)), 1e-3))
    return int(long[-1]) + 1 if len(long) else 0
