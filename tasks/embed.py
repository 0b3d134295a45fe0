"""The task that turns a shard of records into molecules with conformers, on all cores."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlff_core.chem.pool import EmbeddingPool
from mlff_core.shard import StepReport, embed_shard


# Finished work is found by looking at the disk, so Prefect need not remember any result. A second
# try is for what passes, such as a full disk; bad molecules are rows, not exceptions.
@task(
    task_run_name="embed-{shard}",
    retries=1,
    retry_delay_seconds=2,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def embed(shard: int, records_file: Path, embedded_file: Path, pool: Any) -> StepReport:
    """Embed a shard; `pool` is an `EmbeddingPool` that all shards of a run share."""
    assert isinstance(pool, EmbeddingPool)
    return embed_shard(records_file, embedded_file, pool)
