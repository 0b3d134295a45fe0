"""Tables that are added to: each time is a generation, and readers see whole generations only.

A generation has records and shards of its own, numbered on from those before it. While it is under
way its entry in the manifest has no time of its end; the manifest is put in one piece, so a reader
that goes by it sees the tables either without the generation or with all of it.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mlff_core.errors import OutputError
from mlff_core.schema import ROWS
from mlff_core.store import Store
from mlff_core.tables.manifest import Manifest
from mlff_core.tables.parts import finished_shards, parts_in


@dataclass
class Generation:
    """What was added at one time.

    Attributes:
        run_key: Of its parts.
        first_record: Number of its first record.
        n_records: Records that it has.
        first_shard: Number of its first shard.
        shard_size: Records in every shard but the last.
        started: When, in ISO 8601.
        finished: When; None as long as it is not whole.
    """

    run_key: str
    first_record: int
    n_records: int
    first_shard: int
    shard_size: int
    started: str
    finished: str | None = None

    @property
    def shards(self) -> range:
        """Numbers of its shards."""
        return range(self.first_shard, self.first_shard - (-self.n_records // self.shard_size))


def generations_of(manifest: Manifest) -> list[Generation]:
    """The generations of tables; those of a plain run are one.

    Raises:
        OutputError: The manifest does not say.
    """
    try:
        if manifest.generations:
            return [Generation(**entry) for entry in manifest.generations]
        if manifest.finished is None:
            return []
        return [
            Generation(
                manifest.run_key,
                0,
                int(manifest.library["n_records"]),
                0,
                int(manifest.parameters["shard_size"]),
                manifest.started,
                manifest.finished,
            )
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise OutputError(f"the manifest does not say what was added when: {error!r}") from error


def entries_of(generations: list[Generation]) -> list[dict[str, Any]]:
    """As the manifest keeps them."""
    return [asdict(generation) for generation in generations]


def key_of(generations: list[Generation]) -> Callable[[int], str]:
    """The run key that the part of a shard must have."""
    first = [generation.first_shard for generation in generations]
    return lambda shard: generations[bisect_right(first, shard) - 1].run_key


def visible_shards(manifest: Manifest | None) -> range | None:
    """The shards that readers see; None: all that there are, as of a run that goes on."""
    if manifest is None or not manifest.generations:
        return None
    whole = [g for g in generations_of(manifest) if g.finished is not None]
    return range(whole[-1].shards.stop) if whole else None


def close_cut_off(out: Store, generations: list[Generation], now: str) -> list[Generation]:
    """End a generation that was cut off with what is whole of it, from its first shard on.

    What was computed behind a shard that is missing is removed: records are numbered without gaps.

    Returns:
        Generations that are all finished.
    """
    if not generations or generations[-1].finished is not None:
        return generations
    last = generations[-1]
    done = finished_shards(out, last.run_key, last.shards)
    whole = next((s for s in last.shards if s not in done), last.shards.stop) - last.first_shard
    remove_from(out, last.first_shard + whole)
    n_records = min(whole * last.shard_size, last.n_records)
    if n_records == 0:
        return generations[:-1]
    last.n_records, last.finished = n_records, now
    return generations


def remove_from(out: Store, shard: int) -> None:
    """Remove the parts of a shard and of all behind it, molecules first: they say what is there."""
    for table in sorted(ROWS, reverse=True):
        for number, name in parts_in(out, table).items():
            if number >= shard:
                out.delete(name)
