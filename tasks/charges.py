"""The step that reads partial charges of a shard's relaxed conformers, on the device."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlff_core.additions import charge_shard
from mlff_core.shard import ShardFiles, StepReport
from tasks.opened import potential
from tasks.progress import teller
from tasks.relax import own_stream

if TYPE_CHECKING:
    from mlff_core.models.potential import Backend, Device, Precision


def charges(
    shard: int,
    work_dir: str,
    model: str,
    sha256: str,
    device: "Device",
    backend: "Backend",
    precision: "Precision",
) -> StepReport:
    """Charges of a shard, by the model of the relaxation and what reads its charges."""
    force_field = potential(work_dir, model, sha256, device, backend, precision, charges=True)
    with own_stream(force_field.device):
        return charge_shard(
            ShardFiles.of(Path(work_dir), shard), force_field, teller("charges", shard)
        )
