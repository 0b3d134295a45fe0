"""Our ways to energies and forces, on a CUDA device or a CPU, and how far they are from float64."""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from _harness import Clock, Molecules, NotCorrectError, fresh, reason, require_close, timing

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential
from mlff_core.models.stream import evaluate_stream
from mlff_core.ops.program import AnalyticEngine
from mlff_core.testing import AutogradEngine

if TYPE_CHECKING:
    from mlff_core.ops.triton.engine import TritonEngine

#: Batch sizes of the scaling rows and of those rows that only show a way.
SIZES = (1, 4, 16, 64, 256, 1024, 4096)
FEW_SIZES = (1, 16, 1024)
#: Largest errors in forces, eV/Å, at which a row still counts as right; that of `fast` is stated.
TOLERANCE = {"float32": 1e-3, "fast": 2e-3, "reduced": 0.2}
#: Largest batch that is compared with float64.
COMPARED = 64

Step = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
Way = tuple[Callable[[PaiNN, MolBatch], Step], str, tuple[int, ...]]


def bind(engine: object, batch: MolBatch) -> Step:
    """An engine as a function of the positions alone."""
    rest = (batch.mol_idx, batch.ptr, batch.charge)
    return lambda positions: engine.evaluate(batch.numbers, positions, *rest)


@functools.cache
def exact(model: PaiNN, batch: MolBatch) -> tuple[torch.Tensor, ...]:
    """Energy and forces in float64, and what else the model says."""
    copy = PaiNN(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(batch.positions.device).double().requires_grad_(False)
    return bind(AnalyticEngine(copy), batch)(batch.positions.double())


@functools.cache
def engine_of(model: PaiNN, precision: str) -> "TritonEngine":
    """One for all batches."""
    from mlff_core.ops.triton.engine import TritonEngine

    return TritonEngine(model, precision)


def eager(model: PaiNN, batch: MolBatch) -> Step:
    """Plain PyTorch, forces by automatic differentiation."""
    return bind(AutogradEngine(model), batch)


def analytic(model: PaiNN, batch: MolBatch) -> Step:
    """Hand-derived forces in plain PyTorch operators."""
    return bind(AnalyticEngine(model), batch)


def compiled_for_cpu(model: PaiNN, batch: MolBatch) -> Step:
    """Hand-derived forces in operators compiled by Numba."""
    from mlff_core.ops.numba.atoms import ATOM_OPS
    from mlff_core.ops.numba.message import MessageOps

    return bind(AnalyticEngine(model, MessageOps(model.config.cutoff).edge_ops, ATOM_OPS), batch)


def launched(model: PaiNN, batch: MolBatch) -> Step:
    """Our kernels, launched one by one."""
    engine = engine_of(model, "float32")
    rest = (batch.mol_idx, batch.ptr, batch.charge)
    return lambda positions: engine.step(batch.numbers, positions, *rest)


def recorded(precision: str) -> Callable[[PaiNN, MolBatch], Step]:
    """Our kernels, recorded as a CUDA graph of the whole step of one batch."""

    def make(model: PaiNN, batch: MolBatch) -> Step:
        from mlff_core.ops.triton.capture import recording

        engine = engine_of(model, precision)
        static = batch.positions.clone()
        rest = (batch.mol_idx, batch.ptr, batch.charge)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            engine.step(batch.numbers, static, *rest)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with recording(graph):
            out = engine.step(batch.numbers, static, *rest)

        def step(positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
            static.copy_(positions)
            graph.replay()
            return out

        return step

    return make


def called(precision: str) -> Callable[[PaiNN, MolBatch], Step]:
    """What `load_potential` gives: graphs for small batches, pieces for very large ones."""
    return lambda model, batch: bind(engine_of(model, precision), batch)


#: Row -> (how, which tolerance holds, batch sizes), the quickest to measure first.
WAYS: dict[str, dict[str, Way]] = {
    "cuda": {
        "triton, as called": (called("float32"), "float32", SIZES),
        "triton fast, as called": (called("fast"), "fast", SIZES),
        "triton, CUDA graph": (recorded("float32"), "float32", SIZES),
        "triton fast, CUDA graph": (recorded("fast"), "fast", SIZES),
        "triton, no graphs": (launched, "float32", FEW_SIZES),
        "analytic forces, no kernels": (analytic, "float32", FEW_SIZES),
        "eager PyTorch": (eager, "float32", FEW_SIZES),
    },
    "cpu": {
        "numba": (compiled_for_cpu, "float32", (1, 4, 16, 64)),
        "analytic forces, no kernels": (analytic, "float32", (1, 16)),
        "eager PyTorch": (eager, "float32", (1, 16)),
    },
}


def rows(model: PaiNN, molecules: Molecules, ways: dict[str, Way], clock: Clock) -> Iterator[dict]:
    """Every way at its batch sizes; one that is wrong, or cannot run here, says so."""
    device = molecules.device
    for name, (make, accuracy, sizes) in ways.items():
        for n_mols in sizes:
            record: dict = {"row": name, "n_mols": n_mols}
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                batch = molecules.batch(n_mols)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                step = make(model, batch)
                if n_mols <= COMPARED:
                    energy, forces, *_ = step(batch.positions)
                    true_energy, true_forces, *_ = exact(model, batch)
                    worst = TOLERANCE[accuracy]
                    record["force_error_ev_per_angstrom"] = require_close(
                        forces, true_forces, worst, "forces in eV/Å"
                    )
                    record["energy_error_ev"] = float((energy - true_energy).abs().max())
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                record |= timing(step, fresh(batch), device)
                record["us_per_molecule"] = record["us"] / n_mols
                if device.type == "cuda":
                    record["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            except NotCorrectError as error:
                record["failed"] = str(error)
            except Exception as error:  # a row that cannot run is a result too
                record["failed"] = reason(error)
            step = energy = forces = None  # Their memory is not the next row's.
            yield record


def stream_row(model: PaiNN, molecules: Molecules) -> dict:
    """Batches from host memory and back: one after the other, and with copies overlapped."""
    potential = Potential(model, device="cuda", backend="triton")
    hosts = [molecules.batch(1024).to("cpu") for _ in range(8)]
    hosts = [b.with_positions(b.positions + 0.03 * torch.randn_like(b.positions)) for b in hosts]

    def one_by_one(_: object) -> None:
        for host in hosts:
            out = potential(host)
            out.energy.cpu(), out.forces.cpu()

    def overlapped(_: object) -> None:
        for _out in evaluate_stream(potential, hosts):
            pass

    record: dict = {"row": "from host memory and back", "n_mols": 1024}
    for name, run in (("serial", one_by_one), ("overlapped", overlapped)):
        us = timing(run, iter(lambda: None, 0), molecules.device, 5)["us"]
        record[f"{name}_us_per_molecule"] = us / (len(hosts) * 1024)
    return record
