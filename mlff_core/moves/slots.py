"""Slots: where molecules stay on the device while they are relaxed or moved.

A slot is a row of every tensor, padded to the widest molecule, so that each sum over a molecule's
atoms is a sum along a row: its result does not depend on the other rows, and a molecule leaves or
enters by overwriting a row. The flat batch that a potential wants is gathered from the rows, and
its forces are put back, at every step; that costs two index operations.

What changes from step to step is a `State`, a dict of tensors whose first axis is n_slots, so that
a step is a function from state to state and a CUDA graph can hold it (`Stepper`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import ForceField, Outputs
from mlff_core.ops.triton.capture import no_collection

#: What changes while molecules move: tensors whose first axis is n_slots.
State = dict[str, Tensor]
#: Energies and forces of a batch, as `ForceField.bare_step`.
Compute = Callable[[MolBatch], Outputs]


@dataclass(frozen=True)
class Molecule:
    """One molecule on the host.

    Attributes:
        index: Its place in the caller's order.
        numbers: Atomic numbers, int64 [n_atoms].
        positions: Å [n_atoms, 3].
        charge: Total charge in e.
        free: Which atoms may move, bool [n_atoms]; None means all.
    """

    index: int
    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    free: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of atoms."""
        return len(self.numbers)


@dataclass(frozen=True)
class Rows:
    """Molecules side by side, one a row, padded to w atoms.

    Attributes:
        numbers: Atomic numbers, 0 beyond the molecule, int64 [n_rows, w].
        positions: Initial positions in Å, 0 beyond the molecule [n_rows, w, 3].
        free: Atoms that may move, False beyond the molecule, bool [n_rows, w].
        sizes: Number of atoms, 0 for an empty row, int64 [n_rows].
        charge: Total charges in e, int64 [n_rows].
    """

    numbers: Tensor
    positions: Tensor
    free: Tensor
    sizes: Tensor
    charge: Tensor

    @classmethod
    def pack(
        cls, molecules: Sequence[Molecule], width: int, device: torch.device, dtype: torch.dtype
    ) -> "Rows":
        """Molecules of at most `width` atoms, sent to the device; none gives no rows."""
        numbers = np.zeros((len(molecules), width), np.int64)
        positions = np.zeros((len(molecules), width, 3))
        free = np.zeros((len(molecules), width), bool)
        for row, molecule in enumerate(molecules):
            numbers[row, : molecule.size] = molecule.numbers
            positions[row, : molecule.size] = molecule.positions
            free[row, : molecule.size] = True if molecule.free is None else molecule.free
        sizes = np.array([molecule.size for molecule in molecules], np.int64)
        charge = np.array([molecule.charge for molecule in molecules], np.int64)
        return cls(
            numbers=to_device(numbers, device),
            positions=to_device(positions, device, dtype),
            free=to_device(free, device),
            sizes=to_device(sizes, device),
            charge=to_device(charge, device),
        )

    @classmethod
    def empty(cls, n_rows: int, width: int, device: torch.device, dtype: torch.dtype) -> "Rows":
        """Rows without molecules."""
        return cls(
            numbers=torch.zeros(n_rows, width, dtype=torch.int64, device=device),
            positions=torch.zeros(n_rows, width, 3, dtype=dtype, device=device),
            free=torch.zeros(n_rows, width, dtype=torch.bool, device=device),
            sizes=torch.zeros(n_rows, dtype=torch.int64, device=device),
            charge=torch.zeros(n_rows, dtype=torch.int64, device=device),
        )

    def take(self, index: Tensor) -> "Rows":
        """The rows of `index`, int64 [n]."""
        return Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def overwrite(self, index: Tensor, rows: "Rows") -> None:
        """Put other molecules into the rows of `index`, int64 [n], in place."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(rows, field.name)


def to_device(array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """An array on a device, without waiting for what the device is at."""
    tensor = torch.from_numpy(array).to(dtype)
    if device.type != "cuda":
        return tensor.to(device)
    # From memory that is not pinned the host would copy, and wait.
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfer:
    """A tensor on its way to the host, while the device goes on."""

    def __init__(self, tensor: Tensor):
        """Send a tensor as it is when the device gets here."""
        self._arrived = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = tensor.clone()

    def wait(self) -> Tensor:
        """The tensor, once it is here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


def where_row(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`torch.where` with one condition a row [n_rows]."""
    return torch.where(rows.view(-1, *[1] * (b.dim() - 1)), a, b)


def evaluate_rows(
    rows: Rows, positions: Tensor, active: Tensor, potential: ForceField
) -> tuple[Tensor, Tensor]:
    """Energies in eV, float64 [n_rows], and forces in eV/Å, type of the positions [n_rows, w, 3].

    The host waits for the device, to learn how many atoms there are.

    Args:
        rows: The molecules.
        positions: Where to compute them, Å [n_rows, w, 3]. If they are more precise than the
            potential, it sees coordinates about each molecule's centre, so that little is lost to
            where the molecule is.
        active: Which of them to compute, bool [n_rows]; the others get zeros.
        potential: What computes.
    """
    n_rows, width = rows.numbers.shape
    sizes = torch.where(active, rows.sizes, 0)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    here = torch.arange(width, device=positions.device) < sizes[:, None]  # [n_rows, w]
    mol_idx, within = here.nonzero(as_tuple=True)
    spread = torch.zeros_like(positions)
    if len(mol_idx) == 0:
        return positions.new_zeros(n_rows, dtype=torch.float64), spread
    if positions.dtype != potential.dtype:
        within_molecule = here[..., None]
        centre = torch.where(within_molecule, positions, 0.0).sum(1) / sizes.clamp(min=1)[:, None]
        positions = positions - centre[:, None]
    out = potential.evaluate(
        MolBatch(
            numbers=rows.numbers[mol_idx, within],
            positions=positions[mol_idx, within],
            mol_idx=mol_idx,
            ptr=ptr,
            charge=rows.charge,
        )
    )
    spread[mol_idx, within] = out.forces.to(spread.dtype)
    return out.energy, spread


class Stepper:
    """Runs a step over and over on the same tensors: as it stands, or from a CUDA graph.

    Attributes:
        state: The present state. Its tensors stay where they are, so the caller may overwrite rows
            in place between two runs.
    """

    def __init__(self, step: Callable[[State], State], state: State, *, graph: bool = False):
        """Hold a step.

        Args:
            step: From a state to what changed of it, and is not changed in place already; it must
                not wait for the device if it is to be captured.
            state: What to begin with; no two entries may share memory.
            graph: Capture steps and replay them.
        """
        self.step, self.state, self.graph = step, state, graph
        self._warm = False
        self._captured: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, n_steps: int, *, per_launch: int = 1) -> None:
        """Advance by a number of steps, of which a captured launch holds `per_launch`."""
        for held, n_launches in ((per_launch, n_steps // per_launch), (1, n_steps % per_launch)):
            for _ in range(n_launches):
                if self.graph and self._warm:
                    if held not in self._captured:
                        self._captured[held] = self._capture(held)
                    self._captured[held].replay()
                    continue
                # What compiles kernels and fills caches cannot be captured: the first steps are
                # taken as they stand.
                for _ in range(held):
                    self._advance()
                self._warm = True

    def _advance(self) -> None:
        for name, value in self.step(self.state).items():
            self.state[name].copy_(value)

    def _capture(self, n_steps: int) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with no_collection(), torch.cuda.stream(stream):
            # Not by `recording`, whose `torch.cuda.graph` collects garbage and gives cached memory
            # back first: that takes longer than all the rest. Other threads of the process may use
            # the device meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(n_steps):
                    self._advance()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        return graph
