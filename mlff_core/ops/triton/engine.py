"""The Triton engine: energy and forces of a batch from our own kernels, forward and backward.

A step of few atoms costs the card less than its launches cost the host, and one of many begins
with kernels that do, so the step is recorded as a CUDA graph once for each capacity and replayed;
capacities are rungs of a geometric ladder, and what a batch leaves free is padding.
"""

import logging
import math
from bisect import bisect_right
from collections import OrderedDict
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from mlff_core.ops.program import AnalyticEngine, forward_and_back
from mlff_core.ops.triton import fill as filling
from mlff_core.ops.triton import (
    first_message,
    first_message_bwd,
    launch,
    linear,
    linear_warpgroups,
    message,
    message_bwd,
    readout,
    update,
    update_bwd,
    update_bwd_warpgroups,
)
from mlff_core.ops.triton import pairs as pairing
from mlff_core.ops.triton.capture import recording
from mlff_core.ops.triton.charge_step import KernelChargeStep
from mlff_core.ops.triton.charges import Spans
from mlff_core.ops.triton.compiling import settle_keys
from mlff_core.ops.triton.fill import Filling, Inputs
from mlff_core.ops.triton.pairs import pairs
from mlff_core.ops.triton.readout import molecules
from mlff_core.ops.triton.sharing import tell_of_others
from mlff_core.ops.triton.steps import PRODUCT_PRECISION, KernelSteps, Weights
from mlff_core.ops.triton.tiles import load as load_tiles

if TYPE_CHECKING:
    from mlff_core.models.painn import PaiNN

log = logging.getLogger(__name__)

settle_keys(
    launch, linear, linear_warpgroups, message, update, update_bwd, update_bwd_warpgroups,
    message_bwd, first_message, first_message_bwd, pairing, readout, filling,
)  # fmt: skip

#: Batches of more atoms are worked through in pieces, which bounds the memory of what is saved for
#: the backward pass; a larger piece is hardly faster.
PIECE_MAX_ATOMS = 45056
#: Graphs that are kept; the one not used for longest makes room.
MAX_GRAPHS = 32

#: Atoms and molecules that a graph has room for, and the type of its positions.
GraphKey = tuple[int, int, torch.dtype]
#: A graph's first replay may differ from its eager step by so much, eV and eV/Å: the tiles of the
#: matrix products may differ with the capacity.
REPLAY_TOLERANCE = 2e-3


class CapturedStep(NamedTuple):
    """A recorded step and the buffers that it reads and writes.

    Attributes:
        graph: The recording.
        fill: Copies a batch into the buffers of numbers, positions, mol_idx, ptr and charge, which
            have the capacity of the graph.
        energy: float64 [n_mols at capacity].
        forces: [n_atoms at capacity, 3].
        charges: [n_atoms at capacity]; None where the model has none.
    """

    graph: torch.cuda.CUDAGraph
    fill: Filling
    energy: Tensor
    forces: Tensor
    charges: Tensor | None = None


@cache
def rung(n: int) -> int:
    """The least capacity that holds n: powers of 2^(1/4), from 256 on of 2^(1/8), rounded up to
    multiples of 4. Padding costs what atoms cost, and a graph for each rung costs memory."""
    steps = 4 if n <= 256 else 8
    power = math.ceil(steps * math.log2(max(n, 1)) - 1e-9)
    return -(-math.ceil(2 ** (power / steps) - 1e-9) // 4) * 4


class TritonEngine:
    """PaiNN in Triton kernels; forces by the hand-derived backward pass, no autograd graph."""

    def __init__(
        self,
        model: "PaiNN",
        precision: str = "float32",
        *,
        products: tuple[str, str] | None = None,
        check: bool = True,
    ):
        """Lay the weights out; later changes to the model are not seen.

        Args:
            model: What is computed.
            precision: "float32" or "fast".
            products: How products of matrices are computed, forward and backward; None takes
                what the precision says.
            check: Compare with the plain operators on a small molecule first.

        Raises:
            ValueError: The precision or the model's width is not one that the kernels have.
            RuntimeError: There is no CUDA device (nor Triton's interpreter), Triton cannot compile
                here, or its answer on a small molecule is wrong.
        """
        if precision not in PRODUCT_PRECISION:
            raise ValueError(f"precision: expected float32 or fast, found {precision!r}")
        config = model.config
        n_features = config.n_features
        if n_features < 32 or n_features & (n_features - 1):
            raise ValueError(
                f"n_features: expected a power of two of at least 32, found {n_features}"
            )
        self.cutoff = config.cutoff
        with torch.no_grad():
            self.weights = Weights.lay_out(model, precision, products)
        self.reference_energy = model.reference_energy
        self.partial_charges = deepcopy(model.partial_charges)
        self.charges_after = config.charges_after
        self.graphs: OrderedDict[GraphKey, CapturedStep | None] = OrderedDict()
        self.seen: set[GraphKey] = set()
        #: Memory that all recorded steps work in, one at a time, and the stream of the last one.
        self.pool: Any = None
        self.stream: torch.cuda.Stream | None = None
        device = self.reference_energy.device
        #: Where the sizes of the kernels' tiles come from.
        self.tiles = "shipped"
        if device.type == "cuda":
            if load_tiles(torch.cuda.get_device_name(device)):
                self.tiles = "measured on this card"
            if check:
                tell_of_others(device)
                self._check_against_plain(model, device)
        elif not triton.knobs.runtime.interpret:
            raise RuntimeError(
                f"expected a CUDA device, found {device.type}; "
                "on a CPU set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter"
            )

    def _check_against_plain(self, model: "PaiNN", device: torch.device) -> None:
        """Two atoms of the model's first element through the kernels and the plain operators."""
        step = (
            torch.full((2,), model.config.elements[0], device=device),
            torch.tensor([[0.0, 0.1, 0.0], [0.4, 0.5, 0.9]], device=device),
            torch.zeros(2, dtype=torch.int64, device=device),
            torch.tensor([0, 2], device=device),
            torch.full((1,), model.config.min_charge, device=device),
        )
        energy, forces = self.step(*step)[:2]
        plain_energy, plain_forces = AnalyticEngine(model).evaluate(*step)[:2]
        scale = 1.0 + plain_forces.abs().max()
        error = torch.maximum(
            (energy - plain_energy).abs().max(), (forces - plain_forces).abs().max()
        )
        if not error <= 0.02 * scale:
            raise RuntimeError(f"the kernels are off by {error:.2g} eV on a molecule of two atoms")

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]; and charges in e
        [n_atoms] where the model has some.

        Atoms from ptr[-1] on are padding and get forces of zero; a molecule without atoms gets
        energy zero; an atom with more than pairs.MAX_NEIGHBORS neighbours turns its molecule into
        NaN. Can be captured in a CUDA graph; outside of one, never waits for the device but at the
        first call with a new capacity and with more than PIECE_MAX_ATOMS atoms.
        """
        n_atoms, n_mols = numbers.shape[0], charge.shape[0]
        if n_atoms == 0 or n_mols == 0:
            nothing = torch.zeros_like(charge, dtype=torch.float64), torch.zeros_like(positions)
            return (
                nothing
                if self.partial_charges is None
                else (*nothing, positions.new_zeros(n_atoms))
            )
        batch = numbers, positions, mol_idx, ptr, charge
        key = (rung(n_atoms), rung(n_mols), positions.dtype)
        # First, since the card waits for what the host does before it replays.
        captured = self.graphs.get(key)
        if captured is not None and not torch.cuda.is_current_stream_capturing():
            return self._replay(key, captured, batch)
        if positions.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return self.step(*batch)
        if n_atoms > PIECE_MAX_ATOMS:
            return self._in_pieces(*batch)
        # What comes once is not recorded; and whoever captures a step of this size next must find
        # its kernels compiled.
        if key not in self.seen:
            self.seen.add(key)
            return self.step(*batch)
        if key not in self.graphs:
            if len(self.graphs) == MAX_GRAPHS:
                self.graphs.popitem(last=False)
            self.graphs[key] = self._capture(key, batch)
        captured = self.graphs[key]
        return self.step(*batch) if captured is None else self._replay(key, captured, batch)

    def _replay(self, key: GraphKey, captured: CapturedStep, batch: Inputs) -> tuple[Tensor, ...]:
        """What a recorded step gives for a batch that it has room for."""
        self._after_the_last()
        captured.fill(batch)
        captured.graph.replay()
        self.graphs.move_to_end(key)
        n_atoms, n_mols = batch[0].shape[0], batch[4].shape[0]
        found = captured.energy[:n_mols].clone(), captured.forces[:n_atoms].clone()
        if captured.charges is None:
            return found
        return *found, captured.charges[:n_atoms].clone()

    def _after_the_last(self) -> None:
        """Wait for the last replay, on whatever stream it was: all work in the same memory."""
        # The handle alone, since the stream itself takes eight microseconds.
        card: Any = driver.active
        handle = card.get_current_stream(self.reference_energy.device.index)
        if self.stream is None or handle != self.stream.cuda_stream:
            stream = torch.cuda.current_stream()
            if self.stream is not None:
                stream.wait_stream(self.stream)
            self.stream = stream

    def _in_pieces(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """As many molecules at a time as have PIECE_MAX_ATOMS atoms, one at the least."""
        energy = torch.empty(len(charge), dtype=torch.float64, device=positions.device)
        forces = torch.zeros_like(positions)
        out: tuple[Tensor, ...] = energy, forces
        if self.partial_charges is not None:
            out = *out, forces.new_zeros(len(positions), dtype=torch.float32)
        starts = ptr.tolist()
        first = 0
        while first < len(charge):
            end = max(bisect_right(starts, starts[first] + PIECE_MAX_ATOMS) - 1, first + 1)
            a, b = starts[first], starts[end]
            if b > a:
                # One molecule may be larger than a piece.
                compute = self.step if b - a > PIECE_MAX_ATOMS else self.evaluate
                energy[first:end], *of_atoms = compute(
                    numbers[a:b],
                    positions[a:b],
                    mol_idx[a:b] - first,
                    ptr[first : end + 1] - a,
                    charge[first:end],
                )
                for whole, piece in zip(out[1:], of_atoms, strict=True):
                    whole[a:b] = piece
            else:
                energy[first:end] = 0.0
            first = end
        return out

    def _capture(self, key: GraphKey, inputs: Inputs) -> CapturedStep | None:
        """Record a step at a capacity; None if its first replay is not what eager gives."""
        numbers, positions, mol_idx, ptr, charge = inputs
        n_atoms, n_mols = len(numbers), len(charge)
        atoms, mols, _ = key
        buffers = (
            numbers.new_zeros(atoms),
            positions.new_zeros(atoms, 3),
            mol_idx.new_zeros(atoms),
            ptr.new_zeros(mols + 1),
            charge.new_zeros(mols),
        )
        expected_energy, expected_forces = self.step(*inputs)[:2]
        # Compiles what this capacity needs, which a recording must not.
        self.step(*buffers)
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        self._after_the_last()
        graph = torch.cuda.CUDAGraph()
        with recording(graph, self.pool):
            energy, forces, *charges = self.step(*buffers)
        captured = CapturedStep(graph, Filling(buffers), energy, forces, *charges)
        captured.fill(inputs)
        graph.replay()
        same = (
            torch.isclose(
                energy[:n_mols], expected_energy, rtol=0, atol=REPLAY_TOLERANCE, equal_nan=True
            ).all()
            & torch.isclose(
                forces[:n_atoms], expected_forces, rtol=1e-4, atol=REPLAY_TOLERANCE, equal_nan=True
            ).all()
        )
        if not same:
            log.warning(
                "a CUDA graph for %d atoms in %d molecules does not repeat the eager step; "
                "such batches run without it",
                atoms,
                mols,
            )
            return None
        return captured

    def step(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """What `evaluate` means, kernel by kernel: the same launches whatever the values are."""
        positions = positions.detach().contiguous()
        rows, q, repulsion, gradient = pairs(
            numbers, positions, mol_idx, ptr, charge, self.weights.tables, self.cutoff
        )
        steps = KernelSteps(self.weights, rows, repulsion)
        read = None
        if self.partial_charges is not None:
            read = KernelChargeStep(
                self.partial_charges, self.charges_after, positions, charge, Spans(ptr, mol_idx),
                rows.end, repulsion, gradient,
            )  # fmt: skip
        forward_and_back(steps, len(self.weights.blocks), q, read)
        atomic = steps.atomic
        if read is not None:
            atomic, gradient = read.added(atomic, gradient)
        energy, forces = molecules(
            atomic,
            numbers,
            positions,
            mol_idx,
            ptr,
            self.weights.tables.atom_index,
            self.reference_energy,
            gradient,
            rows,
            steps.pull,
        )
        if read is None:
            return energy, forces
        return energy, forces, read.known(energy, mol_idx)
