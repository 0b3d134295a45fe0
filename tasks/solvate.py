"""The step that puts water around a shard's conformers, on all cores."""

from pathlib import Path

from mlff_core.additions import solvate_shard
from mlff_core.shard import ShardFiles, StepReport
from tasks.opened import solvation_pool
from tasks.progress import teller


def solvate(shard: int, work_dir: str, seconds: float, workers: int | None) -> StepReport:
    """Compute solvation energies of a shard; all shards of a run share the processes.

    Args:
        shard: Its number.
        work_dir: Of the run.
        seconds: That one conformer may take.
        workers: Processes; one a core if None.
    """
    files = ShardFiles.of(Path(work_dir), shard)
    pool = solvation_pool(work_dir, seconds, workers)
    return solvate_shard(files, pool, teller("solvate", shard))
