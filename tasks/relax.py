"""The step that relaxes a shard's conformers on the device; few at a time have the device."""

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlff_core.cores import hand_over_quickly
from mlff_core.moves.settings import RelaxSettings
from mlff_core.shard import ShardFiles, StepReport, relax_shard
from tasks.opened import potential
from tasks.progress import teller

if TYPE_CHECKING:
    import torch

    from mlff_core.models.potential import Backend, Device, Precision


#: Shards that have the device at once. One leaves a card idle while it begins and while it waits
#: for its slowest molecules; on a CPU one has all cores, all the time.
AT_ONCE: Final = {"cuda": 2, "cpu": 1}

#: Held by those that have it. Others are read or written meanwhile.
_TURNS: Final = {kind: threading.Semaphore(n) for kind, n in AT_ONCE.items()}


def relax(
    shard: int,
    work_dir: str,
    model: str,
    sha256: str,
    device: "Device",
    backend: "Backend",
    precision: "Precision",
    options: RelaxSettings,
    pre_model: str | None = None,
    pre_sha256: str = "",
) -> StepReport:
    """Relax a shard; the models stay loaded for the whole run.

    Args:
        shard: Its number.
        work_dir: Of the run.
        model: Its tensors file.
        sha256: Of that.
        device: Where it computes; so do the next two say of both models.
        backend: See `load_potential`.
        precision: Likewise.
        options: What is asked for.
        pre_model: Tensors file of the cheaper model that is walked with first, if there is one.
        pre_sha256: Of that.
    """
    files = ShardFiles.of(Path(work_dir), shard)
    how = device, backend, precision
    force_field = potential(work_dir, model, sha256, *how)
    first = potential(work_dir, pre_model, pre_sha256, *how) if pre_model else None
    told = teller("relax", shard)
    if force_field.device.type == "cuda":
        hand_over_quickly()
    with own_stream(force_field.device):
        return relax_shard(
            files.embedded,
            files.relaxed,
            force_field,
            options,
            told,
            pre_relax=first,
            turn=_TURNS[force_field.device.type],
        )


#: The stream of each thread: what is kept of freed memory is of a stream.
_OWN: Final = threading.local()


def own_stream(device: "torch.device") -> AbstractContextManager[object]:
    """On a card, a stream beside those on which other shards are relaxed."""
    if device.type != "cuda":
        return nullcontext()
    import torch  # takes seconds: molecules are embedded without it

    streams = vars(_OWN).setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return torch.cuda.stream(streams[device])
