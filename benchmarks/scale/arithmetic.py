"""What a library of any length comes to: shards, task runs, files, bytes, hours of a card, cost."""

from typing import Any

from flows.ranges import ranges

#: Dollars for an hour of a card; an assumption, to be replaced by what yours costs.
DOLLARS_AN_HOUR = 3.0
SHARD_SIZE = 10_000


def comes_to(
    n_records: int, *, molecules_a_second: float, bytes_a_molecule: float, bytes_a_record: float
) -> dict[str, Any]:
    """Multiply.

    Args:
        n_records: Of the library, a conformer each.
        molecules_a_second: Of a card, the whole way.
        bytes_a_molecule: In both tables, with one conformer.
        bytes_a_record: In the work folder, of the library as it was read.
    """
    n_shards = -(-n_records // SHARD_SIZE)
    hours = n_records / molecules_a_second / 3600
    return {
        "records": n_records,
        "shards": n_shards,
        "task_runs": len(ranges(range(n_shards))),
        "files": 2 * n_shards + 2,
        "tables_bytes": n_records * bytes_a_molecule,
        "records_bytes": n_records * bytes_a_record,
        "gpu_hours": hours,
        "days_on_100": hours / 24 / 100,
        "dollars": hours * DOLLARS_AN_HOUR,
    }
