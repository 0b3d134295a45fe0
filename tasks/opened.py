"""What stays open between the shards of a run: opened where it is used, once a process.

A run is named by its work folder. Who runs it in this process closes what it opened; in another
process it ends with the process.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.errors import ModelFileError
from tasks.processes import EmbeddingProcesses
from tasks.writer import TableWriter

if TYPE_CHECKING:
    from mlff_core.distill.teacher import Teacher
    from mlff_core.models.potential import Backend, Device, Potential, Precision

T = TypeVar("T")
#: Where starting geometries come from: RDKit on the cores, the card, or the library.
Embedder = Literal["rdkit", "card", "given"]


class Opened(Generic[T]):
    """Things of one kind that are open, by the run that they are open for."""

    def __init__(self, end: Callable[[T], None]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._open: dict[tuple[str, Hashable], T] = {}

    def get(self, run: str, how: Hashable, begin: Callable[[], T]) -> T:
        """What is open for a run; `begin` opens it the first time, and `how` tells two apart."""
        with self._lock:
            if (run, how) not in self._open:
                self._open[run, how] = begin()
            return self._open[run, how]

    def close(self, run: str) -> None:
        """End what is open for a run."""
        with self._lock:
            for key in [key for key in self._open if key[0] == run]:
                self._end(self._open.pop(key))


_POOLS = Opened[EmbeddingPool](EmbeddingPool.close)
_PROCESSES = Opened[EmbeddingProcesses](EmbeddingProcesses.close)
_WRITERS = Opened[TableWriter](TableWriter.close)
_TEACHERS = Opened["Teacher"](lambda teacher: None)
_POTENTIALS = Opened["Potential"](lambda potential: None)


def embedding_pool(run: str, settings: ChemistrySettings, workers: int | None) -> EmbeddingPool:
    """The processes that embed a run's molecules on the cores."""
    return _POOLS.get(run, (settings, workers), lambda: EmbeddingPool(settings, workers))


def embedding_processes(
    run: str, settings: ChemistrySettings, workers: int | None, device: str
) -> EmbeddingProcesses:
    """The processes that embed a run's molecules on a device."""
    if device.startswith("cuda"):
        from mlff_core.ops.triton.sharing import share

        # To these processes the one that relaxes is another on the card.
        share()
    return _PROCESSES.get(
        run, (settings, workers, device), lambda: EmbeddingProcesses(settings, device, workers)
    )


def solvation_pool(run: str, seconds: float, workers: int | None) -> EmbeddingPool:
    """The processes that put water around a run's conformers, one thread each.

    Args:
        run: Its work folder.
        seconds: That one conformer may take before its process is killed.
        workers: How many; one a core if None.
    """
    settings = ChemistrySettings(hard_timeout_s=seconds)
    return _POOLS.get(run, ("water", seconds, workers), lambda: EmbeddingPool(settings, workers))


def teacher(run: str, file: str, sha256: str, device: str) -> "Teacher":
    """The teacher of a run, on its device.

    Raises:
        ModelFileError: It is missing, or not the one expected.
    """

    def load() -> "Teacher":
        from mlff_core.distill.teacher import Teacher  # imports torch

        return Teacher(Path(file), device, sha256=sha256)

    return _TEACHERS.get(run, (file, sha256, device), load)


def table_writer(run: str) -> TableWriter:
    """The process that writes a run's tables."""
    return _WRITERS.get(run, None, TableWriter)


def compile_kernels(
    models: Sequence[str], device: "Device", backend: "Backend", precision: "Precision"
) -> float:
    """Compile what a screen launches on a card, once a host; returns the seconds it took.

    Raises:
        ModelFileError: A checkpoint is missing or damaged.
        OSError: Triton's cache cannot be written.
    """
    if device != "cuda" or backend not in ("auto", "triton") or precision == "float64":
        return 0.0
    try:
        from mlff_core import kernels
    except ImportError:  # Triton is an extra
        return 0.0
    return kernels.compile_kernels(*map(Path, models), precision=precision)


def potential(
    run: str,
    model: str,
    sha256: str,
    device: "Device",
    backend: "Backend",
    precision: "Precision",
    *,
    charges: bool = False,
) -> "Potential":
    """The model of a run, on its device; with what reads its charges, if that is asked for.

    Raises:
        ModelFileError: The checkpoint is missing, damaged, or no longer the one that was meant.
        DeviceError: The device or the backend is not available here.
    """

    def load() -> "Potential":
        # Torch takes seconds to import: molecules are embedded without it.
        from mlff_core.models.potential import load_potential

        compile_kernels([model], device, backend, precision)
        loaded = load_potential(
            Path(model), device=device, backend=backend, precision=precision, charges=charges
        )
        if loaded.sha256 != sha256:
            raise ModelFileError(
                f"{model}: was replaced: expected sha256 {sha256}, found {loaded.sha256}"
            )
        return loaded

    return _POTENTIALS.get(run, (model, sha256, device, backend, precision, charges), load)


def close(run: str) -> None:
    """End the processes of a run and let go of its model."""
    _POOLS.close(run)
    _PROCESSES.close(run)
    _WRITERS.close(run)
    _TEACHERS.close(run)
    _POTENTIALS.close(run)
