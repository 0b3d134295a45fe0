"""The step that adds thermochemistry to a shard whose conformers are relaxed."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlff_core.shard import ShardFiles, StepReport
from tasks.opened import potential
from tasks.relax import own_stream

if TYPE_CHECKING:
    from mlff_core.models.potential import Backend, Device, Precision
    from mlff_core.moves.settings import RelaxSettings


def thermo(
    shard: int,
    work_dir: str,
    model: str,
    sha256: str,
    device: "Device",
    backend: "Backend",
    precision: "Precision",
    relaxation: "RelaxSettings",
    temperature_k: float,
    pressure_pa: float,
) -> StepReport:
    """Fill in the columns of a shard; the model is that of the relaxation."""
    from mlff_core.properties.thermo import ThermoSettings
    from mlff_core.properties.thermo_columns import add_thermochemistry

    started = time.monotonic()
    files = ShardFiles.of(Path(work_dir), shard)
    force_field = potential(work_dir, model, sha256, device, backend, precision)
    with own_stream(force_field.device):
        add_thermochemistry(
            files.embedded, files.relaxed, force_field, ThermoSettings(temperature_k, pressure_pa),
            relaxation,
        )  # fmt: skip
    return StepReport(0, {"thermo": time.monotonic() - started})
