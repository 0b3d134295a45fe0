"""Slots: where molecules stay on the device while they are relaxed or moved.

A slot is a row of every tensor, padded to the widest molecule, so that each sum over a molecule's
atoms is a sum along a row: its result does not depend on the other rows, and a molecule leaves or
enters by overwriting a row. The flat batch that a potential wants is gathered from the rows, and
its forces are put back, at every step; that costs two index operations.

What changes from step to step is a `State`, a dict of tensors whose first axis is n_slots, so that
a step is a function from state to state and a CUDA graph can hold it (`Stepper`).
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mlff_core.potential import Potential

#: What changes while molecules move: tensors whose first axis is n_slots.
State = dict[str, Tensor]


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
            numbers=torch.from_numpy(numbers).to(device),
            positions=torch.from_numpy(positions).to(dtype).to(device),
            free=torch.from_numpy(free).to(device),
            sizes=torch.from_numpy(sizes).to(device),
            charge=torch.from_numpy(charge).to(device),
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

    def overwrite(self, index: Tensor, rows: "Rows") -> None:
        """Put other molecules into the rows of `index`, int64 [n], in place."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(rows, field.name)


def where_row(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`torch.where` with one condition a row [n_rows]."""
    return torch.where(rows.view(-1, *[1] * (b.dim() - 1)), a, b)


def evaluate_rows(
    rows: Rows, positions: Tensor, active: Tensor, potential: Potential, capacity: int | None
) -> tuple[Tensor, Tensor]:
    """Energies in eV, float64 [n_rows], and forces in eV/Å [n_rows, w, 3].

    Args:
        rows: The molecules.
        positions: Where to compute them, Å [n_rows, w, 3].
        active: Which of them to compute, bool [n_rows]; the others get zeros.
        potential: What computes.
        capacity: Number of atoms of the flat batch that the potential is given, the surplus padded
            as `Potential.evaluate` allows; None fits the batch to the atoms, for which the host
            waits for the device.
    """
    n_rows, width = rows.numbers.shape
    device = positions.device
    sizes = torch.where(active, rows.sizes, 0)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    column = torch.arange(width, device=device)
    here = column < sizes[:, None]  # [n_rows, w]
    if capacity is None:
        mol_idx, within = here.nonzero(as_tuple=True)
        numbers, flat = rows.numbers[mol_idx, within], positions[mol_idx, within]
    else:
        atom = torch.arange(capacity, device=device)
        mol_idx = torch.searchsorted(ptr[1:], atom, right=True).clamp(max=n_rows - 1)
        within = (atom - ptr[mol_idx]).clamp(max=width - 1)
        real = atom < ptr[-1]
        numbers = torch.where(real, rows.numbers[mol_idx, within], 0)
        flat = torch.where(real[:, None], positions[mol_idx, within], 0.0)
    if len(numbers) == 0:
        return positions.new_zeros(n_rows, dtype=torch.float64), torch.zeros_like(positions)
    compute = potential.evaluate
    if capacity is not None and potential.backend == "triton":
        # The engine's bare step: a graph of its own inside of ours would help nobody, and what
        # warms up for a capture has to be exactly what is captured.
        compute = potential.engine.step  # type: ignore[attr-defined]
    energy, forces = compute(numbers, flat, mol_idx, ptr, rows.charge)
    atom_of = (ptr[:-1, None] + column).clamp(max=len(numbers) - 1)  # [n_rows, w]
    return energy, torch.where(here[..., None], forces[atom_of], 0.0)


class Stepper:
    """Runs a step over and over on the same tensors: as it stands, or from a CUDA graph.

    Attributes:
        state: The present state. Its tensors stay where they are, so the caller may overwrite rows
            in place between two runs.
    """

    def __init__(self, step: Callable[[State], State], state: State, *, graph: bool):
        """Hold a step.

        Args:
            step: From a state to the next; tensor code that does not wait for the device if it is
                to be captured.
            state: What to begin with; no two entries may share memory.
            graph: Capture steps and replay them.
        """
        self.step, self.state, self.graph = step, state, graph
        self._captured: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, n_steps: int, *, per_launch: int = 1) -> None:
        """Advance by a number of steps, of which a captured launch holds `per_launch`."""
        if not self.graph:
            for _ in range(n_steps):
                self._advance()
            return
        for held, n_launches in ((per_launch, n_steps // per_launch), (1, n_steps % per_launch)):
            if n_launches and held not in self._captured:
                self._captured[held] = self._capture(held)
            for _ in range(n_launches):
                self._captured[held].replay()

    def _advance(self) -> None:
        for name, value in self.step(self.state).items():
            self.state[name].copy_(value)

    def _capture(self, n_steps: int) -> torch.cuda.CUDAGraph:
        # Warming up compiles kernels and fills caches, which a capture must not; it runs on a side
        # stream, as capturing does, and leaves no trace in the state.
        saved = {name: value.clone() for name, value in self.state.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        for name, value in saved.items():
            self.state[name].copy_(value)
        graph = torch.cuda.CUDAGraph()
        # A graph that the garbage collector finds now would be destroyed now, which ends the
        # capture with an error.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            # Other threads of the process may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for _ in range(n_steps):
                    self._advance()
        finally:
            if collects:
                gc.enable()
        return graph
