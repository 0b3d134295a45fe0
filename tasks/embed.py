"""The step that turns a shard of records into molecules with conformers, on all cores."""

from pathlib import Path

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.library.records import read_records
from mlff_core.shard import ShardFiles, StepReport, embed_shard
from tasks.opened import Embedder, embedding_pool, embedding_processes
from tasks.progress import teller


def embed(
    shard: int,
    work_dir: str,
    chemistry: ChemistrySettings,
    workers: int | None,
    embedder: Embedder,
    device: str,
) -> StepReport:
    """Embed a shard; all shards of a run share the processes."""
    files = ShardFiles.of(Path(work_dir), shard)
    records = read_records(Path(work_dir), shard)
    progress = teller("embed", shard)
    if embedder == "card":
        processes = embedding_processes(work_dir, chemistry, workers, device)
        return processes.embed(records, files.embedded, progress)
    pool = embedding_pool(work_dir, chemistry, workers)
    return embed_shard(records, files.embedded, pool, progress=progress)
