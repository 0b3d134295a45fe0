"""The task that turns a relaxed shard into its final tables."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlff_core.shard import StepReport, write_shard


@task(
    task_run_name="write-{shard}",
    retries=2,
    retry_delay_seconds=2,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def write(
    shard: int,
    embedded_file: Path,
    relaxed_file: Path,
    out_dir: Path,
    metadata: dict[str, str],
) -> StepReport:
    """Write the two final parts of a shard and remove its intermediate files."""
    return write_shard(shard, embedded_file, relaxed_file, out_dir, metadata)
