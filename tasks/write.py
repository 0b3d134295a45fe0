"""The step that turns a relaxed shard into its final tables."""

from pathlib import Path

from mlff_core.shard import ShardFiles, StepReport, write_shard
from mlff_core.store import open_store
from tasks.opened import table_writer


def write(
    shard: int, work_dir: str, out: str, metadata: dict[str, str], *, apart: bool = False
) -> StepReport:
    """Write the two final parts of a shard and remove its intermediate files.

    Args:
        shard: Its number.
        work_dir: Of the run.
        out: Where the tables lie.
        metadata: What the parts' footers say.
        apart: In a process of its own, so that the interpreter of this one is free for the thread
            that drives a card.
    """
    files = ShardFiles.of(Path(work_dir), shard)
    arguments = shard, files.embedded, files.relaxed, open_store(out), metadata
    report = table_writer(work_dir).run(*arguments) if apart else write_shard(*arguments)
    files.remove()
    return report
