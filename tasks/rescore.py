"""The step that asks the teacher about a shard's conformers, on the device."""

from pathlib import Path

from mlff_core.additions import rescore_shard
from mlff_core.shard import ShardFiles, StepReport
from tasks.opened import teacher
from tasks.progress import teller


def rescore(shard: int, work_dir: str, teacher_file: str, sha256: str, device: str) -> StepReport:
    """Ask the teacher about a shard; it stays loaded for the whole run.

    Raises:
        ModelFileError: The teacher is missing, or not the one expected.
    """
    files = ShardFiles.of(Path(work_dir), shard)
    asked = teacher(work_dir, teacher_file, sha256, device)
    return rescore_shard(files, asked, teller("rescore", shard))
