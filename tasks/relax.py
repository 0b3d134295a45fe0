"""The task that relaxes a shard's conformers on the device; one at a time has the device."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlff_core.models.potential import Potential
from mlff_core.shard import RelaxOptions, StepReport, relax_shard


@task(
    task_run_name="relax-{shard}",
    retries=1,
    retry_delay_seconds=5,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def relax(
    shard: int, embedded_file: Path, relaxed_file: Path, potential: Any, settings: RelaxOptions
) -> StepReport:
    """Relax a shard; `potential` is a `Potential` that stays loaded for the whole run."""
    assert isinstance(potential, Potential)
    return relax_shard(embedded_file, relaxed_file, potential, settings)
