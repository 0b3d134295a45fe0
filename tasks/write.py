"""The step that turns a relaxed shard into its final tables."""

from pathlib import Path

from mlff_core.shard import ShardFiles, StepReport, write_shard


def write(shard: int, work_dir: str, out: str, metadata: dict[str, str]) -> StepReport:
    """Write the two final parts of a shard and remove its intermediate files."""
    files = ShardFiles.of(Path(work_dir), shard)
    report = write_shard(shard, files.embedded, files.relaxed, Path(out), metadata)
    files.remove()
    return report
