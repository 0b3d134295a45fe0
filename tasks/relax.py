"""The step that relaxes a shard's conformers on the device; one at a time has the device."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mlff_core.moves.settings import RelaxSettings
from mlff_core.shard import ShardFiles, StepReport, relax_shard
from tasks.opened import potential
from tasks.progress import teller

if TYPE_CHECKING:
    import torch

    from mlff_core.models.potential import Backend, Device, Precision


def relax(
    shard: int,
    work_dir: str,
    model: str,
    sha256: str,
    device: "Device",
    backend: "Backend",
    precision: "Precision",
    options: RelaxSettings,
) -> StepReport:
    """Relax a shard; the model stays loaded for the whole run."""
    files = ShardFiles.of(Path(work_dir), shard)
    force_field = potential(work_dir, model, sha256, device, backend, precision)
    told = teller("relax", shard)
    with own_stream(force_field.device):
        return relax_shard(files.embedded, files.relaxed, force_field, options, told)


def own_stream(device: "torch.device") -> AbstractContextManager[object]:
    """On a card, a stream beside those on which other shards are relaxed."""
    if device.type != "cuda":
        return nullcontext()
    import torch  # takes seconds: molecules are embedded without it

    return torch.cuda.stream(torch.cuda.Stream(device))
