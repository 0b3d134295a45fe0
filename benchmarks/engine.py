"""Energies and forces of 40-atom drug-like molecules: every way to compute them, side by side.

    python benchmarks/engine.py --out engine.json            the whole table, on a CUDA device
    python benchmarks/engine.py --out engine.json --only triton,kernels --rounds 10
    python benchmarks/engine.py --plot engine.json engine.png

Every timed call includes the neighbour search and gets coordinates that it has not seen. Each row
is checked against a float64 reference before it is timed; a row that is wrong, or that cannot run
here, says so instead of a time. Times are medians of CUDA events, spreads are the distance from
the first to the third quartile.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlff_core.batch import MolBatch
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import find_model
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.program import AnalyticEngine, filter_matrix, mlp_weights
from mlff_core.testing import AutogradEngine, random_model

#: Batch sizes of the scaling rows and of those rows that only show a way.
SIZES = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
FEW_SIZES = (1, 16, 1024)
#: Size for rows that show one operator.
KERNEL_SIZE = 1024
#: Most times that a step is measured.
ROUNDS = 50
#: Largest errors in forces, eV/Å, at which a row still counts as right.
TOLERANCE = {"float32": 1e-3, "reduced": 0.2}

Step = Callable[[torch.Tensor], object]


class Molecules:
    """The 256 benchmark molecules, and batches of them with fresh coordinates."""

    def __init__(self) -> None:
        data = np.load(Path(__file__).with_name("molecules.npz"))
        spans = zip(data["ptr"][:-1], data["ptr"][1:], data["charge"], strict=True)
        self.all = [
            (data["numbers"][a:b].astype(np.int64), data["positions"][a:b], int(q))
            for a, b, q in spans
        ]
        # One molecule alone must be as large as the average one.
        self.typical = next(m for m in self.all if len(m[0]) == 40)

    @functools.cache  # noqa: B019 (there is one, for as long as the process lives)
    def batch(self, n_mols: int) -> MolBatch:
        """n_mols molecules on the GPU."""
        many = [self.all[k % len(self.all)] for k in range(n_mols)]
        return MolBatch.from_arrays([self.typical] if n_mols == 1 else many, device="cuda")


def fresh(batch: MolBatch, repeats: int) -> Iterator[torch.Tensor]:
    """Coordinates displaced anew by 0.03 Å for every call."""
    for _ in range(repeats):
        yield batch.positions + 0.03 * torch.randn_like(batch.positions)


def reason(error: Exception) -> str:
    """Why a row failed: the last line of the message, where TorchScript names the cause."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:160]}"


def time_step(step: Step, batch: MolBatch, repeats: int | None = None) -> tuple[float, float]:
    """Median and spread of one step in µs."""
    for positions in fresh(batch, 3):
        step(positions)
    if repeats is None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step(batch.positions)
        end.record()
        torch.cuda.synchronize()
        repeats = int(min(ROUNDS, max(7, 400 / max(begin.elapsed_time(end), 1e-3))))
    times = []
    for positions in fresh(batch, repeats):
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step(positions)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    quartiles = statistics.quantiles(times, n=4)
    return statistics.median(times), quartiles[2] - quartiles[0]


def bind(engine: object, batch: MolBatch) -> Step:
    """An engine as a function of the positions alone."""
    rest = (batch.mol_idx, batch.ptr, batch.charge)
    return lambda positions: engine.evaluate(batch.numbers, positions, *rest)


@functools.cache
def reference_result(model: PaiNN, batch: MolBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces in float64."""
    engine = AnalyticEngine(clone(model).double())
    return bind(engine, batch)(batch.positions.double())


def clone(model: PaiNN) -> PaiNN:
    """A copy whose type can be changed."""
    copy = PaiNN(model.config).cuda()
    copy.load_state_dict(model.state_dict())
    copy.reference_energy = copy.reference_energy.double()
    return copy.requires_grad_(False)


def eager(model: PaiNN, batch: MolBatch) -> Step:
    """Plain PyTorch, forces by automatic differentiation."""
    return bind(AutogradEngine(model), batch)


def scripted(model: PaiNN, batch: MolBatch) -> Step:
    """The energy through torch.jit.trace, forces by automatic differentiation."""
    cutoff = model.config.cutoff
    i, j = neighbor_pairs(batch.positions, batch.ptr, cutoff)
    example = (batch.numbers, batch.positions, batch.mol_idx, batch.charge, i, j)
    traced = torch.jit.trace(model, example, check_trace=False)

    def step(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = positions.detach().requires_grad_(True)
        i, j = neighbor_pairs(x.detach(), batch.ptr, cutoff)
        # The profiling executor loses the device of a gradient that is not needed, and fails with
        # "tensor does not have a device"; the executor before it works, and is what is timed.
        profiling = torch._C._jit_set_profiling_mode(False)
        try:
            energy = traced(batch.numbers, x, batch.mol_idx, batch.charge, i, j)
            return energy.detach(), -torch.autograd.grad(energy.sum(), x)[0]
        finally:
            torch._C._jit_set_profiling_mode(profiling)

    return step


@functools.cache
def compile_once(model: PaiNN) -> Callable:
    """One compiled model for all batch sizes."""
    return torch.compile(model, dynamic=True)


def compiled(model: PaiNN, batch: MolBatch) -> Step:
    """The energy through torch.compile, forces by automatic differentiation."""
    fast_model = compile_once(model)
    cutoff = model.config.cutoff

    def step(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = positions.detach().requires_grad_(True)
        i, j = neighbor_pairs(x.detach(), batch.ptr, cutoff)
        energy = fast_model(batch.numbers, x, batch.mol_idx, batch.charge, i, j)
        return energy.detach(), -torch.autograd.grad(energy.sum(), x)[0]

    return step


def autocast(dtype: torch.dtype) -> Callable[[PaiNN, MolBatch], Step]:
    """Plain PyTorch under autocast."""

    def make(model: PaiNN, batch: MolBatch) -> Step:
        inner = eager(model, batch)

        def step(positions: torch.Tensor) -> object:
            with torch.autocast("cuda", dtype):
                return inner(positions)

        return step

    return make


def analytic(model: PaiNN, batch: MolBatch) -> Step:
    """Hand-derived forces in plain PyTorch operators."""
    return bind(AnalyticEngine(model), batch)


def triton_kernels(precision: str, *, graphs: bool) -> Callable[[PaiNN, MolBatch], Step]:
    """Our kernels, launched one by one or recorded as a CUDA graph of the whole step."""

    def make(model: PaiNN, batch: MolBatch) -> Step:
        from mlff_core.ops.triton.capture import recording
        from mlff_core.ops.triton.engine import TritonEngine

        engine = TritonEngine(model, precision)
        static = batch.positions.clone()
        rest = (batch.mol_idx, batch.ptr, batch.charge)
        if not graphs:
            return lambda positions: engine.step(batch.numbers, positions, *rest)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            engine.step(batch.numbers, static, *rest)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with recording(graph):
            out = engine.step(batch.numbers, static, *rest)

        def step(positions: torch.Tensor) -> object:
            static.copy_(positions)
            graph.replay()
            return out

        return step

    return make


def triton_engine(precision: str) -> Callable[[PaiNN, MolBatch], Step]:
    """What `load_potential` gives: graphs for small batches, pieces for very large ones."""

    def make(model: PaiNN, batch: MolBatch) -> Step:
        from mlff_core.ops.triton.engine import TritonEngine

        return bind(TritonEngine(model, precision), batch)

    return make


#: Row -> (how, whether its numbers are those of float32, batch sizes).
ROWS: dict[str, tuple[Callable[[PaiNN, MolBatch], Step], str, tuple[int, ...]]] = {
    "torch.compile": (compiled, "float32", FEW_SIZES),
    "eager PyTorch": (eager, "float32", SIZES),
    "TorchScript": (scripted, "float32", FEW_SIZES),
    "autocast fp16": (autocast(torch.float16), "reduced", FEW_SIZES),
    "autocast bf16": (autocast(torch.bfloat16), "reduced", FEW_SIZES),
    "analytic forces, no kernels": (analytic, "float32", FEW_SIZES),
    "triton, no graphs": (triton_kernels("float32", graphs=False), "float32", FEW_SIZES),
    "triton, CUDA graph": (triton_kernels("float32", graphs=True), "float32", SIZES),
    "triton fast, CUDA graph": (triton_kernels("fast", graphs=True), "reduced", SIZES),
    "triton, as called": (triton_engine("float32"), "float32", SIZES),
    "triton fast, as called": (triton_engine("fast"), "reduced", SIZES),
}


def engine_rows(
    model: PaiNN, molecules: Molecules, wanted: Callable[[str], bool]
) -> Iterator[dict]:
    """Every way at its batch sizes, the quickest to measure first."""
    for name, (make, accuracy, sizes) in reversed(ROWS.items()):
        if not wanted(name):
            continue
        for n_mols in sizes:
            record = {"row": name, "n_mols": n_mols}
            try:
                batch = molecules.batch(n_mols)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                step = make(model, batch)
                if n_mols <= 64:
                    energy, forces = step(batch.positions)
                    expected_energy, expected = reference_result(model, batch)
                    record["energy_error_ev"] = (energy - expected_energy).abs().max().item()
                    record["force_error_ev_per_angstrom"] = (forces - expected).abs().max().item()
                    if not record["force_error_ev_per_angstrom"] <= TOLERANCE[accuracy]:
                        raise ArithmeticError(f"forces are off by {record}")
                    torch.cuda.reset_peak_memory_stats()
                record["us"], record["spread_us"] = time_step(step, batch)
                record["us_per_molecule"] = record["us"] / n_mols
                record["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            except Exception as error:  # a row that cannot run is a result too
                record["failed"] = reason(error)
            step = energy = forces = None
            yield record


def stream_row(molecules: Molecules) -> dict:
    """Batches from host memory and back: one after the other, and with copies overlapped."""
    from mlff_core.models.potential import Potential
    from mlff_core.models.stream import evaluate_stream

    potential = Potential(random_model(1), device="cuda", backend="triton")
    hosts = [molecules.batch(1024).to("cpu") for _ in range(8)]
    hosts = [b.with_positions(b.positions + 0.03 * torch.randn_like(b.positions)) for b in hosts]

    def one_by_one() -> None:
        for host in hosts:
            out = potential(host)
            out.energy.cpu(), out.forces.cpu()

    def overlapped() -> None:
        for _ in evaluate_stream(potential, hosts):
            pass

    record: dict = {"row": "two streams", "n_mols": 1024}
    for name, run in (("serial", one_by_one), ("overlapped", overlapped)):
        run()
        times = []
        for _ in range(5):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / (len(hosts) * 1024))
        record[f"{name}_us_per_molecule"] = statistics.median(times)
    return record


def padded_teacher(model: torch.jit.ScriptModule, batch: MolBatch) -> Step:
    """The teacher as a function of flat positions; it takes molecules padded to the longest."""
    n_mols, longest = batch.n_mols, int(batch.sizes.max())
    place = batch.mol_idx, torch.arange(batch.n_atoms, device="cuda") - batch.ptr[batch.mol_idx]
    numbers = torch.zeros(n_mols, longest, dtype=torch.int64, device="cuda")
    numbers[place] = batch.numbers

    def step(positions: torch.Tensor) -> object:
        x = torch.zeros(n_mols, longest, 3, device="cuda")
        x[place] = positions
        x.requires_grad_(True)
        out = model({"coord": x, "numbers": numbers, "charge": batch.charge.float()})
        if "forces" in out:
            return out["forces"]
        return torch.autograd.grad(out["energy"].sum(), x)

    return step


def teacher_row(molecules: Molecules, teacher: Path | None) -> dict:
    """The teacher's TorchScript file, energy and forces, padded batches of 1024."""
    record: dict = {"row": "teacher (AIMNet2)", "n_mols": 1024}
    if teacher is None:
        found = importlib.util.find_spec("Auto3D")
        if found is None or found.origin is None:
            return record | {"failed": "not installed"}
        teacher = Path(found.origin).parent / "models" / "aimnet2_wb97m_ens_f.jpt"
    model = torch.jit.load(str(teacher), map_location="cuda")
    for n_mols in FEW_SIZES:
        batch = molecules.batch(n_mols)
        try:
            us, _ = time_step(padded_teacher(model, batch), batch)
            record[f"us_per_molecule_at_{n_mols}"] = us / n_mols
        except Exception as error:
            record["failed"] = reason(error)
    return record


def schnetpack_painn() -> torch.nn.Module:
    """schnetpack's PaiNN of the student's size, with a readout of two layers.

    Its package imports whatever training needs; where that is missing, the modules that PaiNN is
    made of are imported by themselves.

    Raises:
        ImportError: It is not installed.
    """
    try:
        nn = importlib.import_module("schnetpack.nn")
    except ImportError:
        found = importlib.util.find_spec("schnetpack")
        if found is None or not found.submodule_search_locations:
            raise
        root = Path(found.submodule_search_locations[0])
        for name in ("schnetpack", "schnetpack.representation", "schnetpack.nn"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        nn = sys.modules["schnetpack.nn"]
        sys.modules["schnetpack"].nn = nn
        for part in ("activations", "base", "blocks", "cutoff", "scatter", "radial", "utils"):
            module = importlib.import_module(f"schnetpack.nn.{part}")
            vars(nn).update({k: v for k, v in vars(module).items() if not k.startswith("_")})
    painn = importlib.import_module("schnetpack.representation.painn")

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = painn.PaiNN(128, 3, nn.BesselRBF(20, 5.0), nn.CosineCutoff(5.0))
            self.readout = nn.build_mlp(128, 1, n_hidden=64)

        def forward(self, inputs: dict) -> torch.Tensor:
            return self.readout(self.features(inputs)["scalar_representation"]).sum()

    return Energy()


def schnetpack_row(molecules: Molecules) -> dict:
    """schnetpack's PaiNN with random weights and our neighbour search; one sum of all energies."""
    record: dict = {"row": "schnetpack PaiNN", "n_mols": 1024}
    try:
        network = schnetpack_painn().cuda().requires_grad_(False)
    except ImportError:
        return record | {"failed": "not installed"}
    except Exception as error:
        return record | {"failed": reason(error)}
    for n_mols in FEW_SIZES:
        batch = molecules.batch(n_mols)

        def step(positions: torch.Tensor, batch: MolBatch = batch) -> torch.Tensor:
            x = positions.detach().requires_grad_(True)
            i, j = neighbor_pairs(x.detach(), batch.ptr, 5.0)
            inputs = {"_atomic_numbers": batch.numbers, "_Rij": x[j] - x[i]}
            energy = network(inputs | {"_idx_i": i, "_idx_j": j})
            return torch.autograd.grad(energy, x)[0]

        try:
            us, _ = time_step(step, batch)
            record[f"us_per_molecule_at_{n_mols}"] = us / n_mols
        except Exception as error:
            record["failed"] = reason(error)
    return record


def neighbour_rows(molecules: Molecules) -> Iterator[dict]:
    """Neighbour search alone, at KERNEL_SIZE molecules."""
    batch = molecules.batch(KERNEL_SIZE)
    cutoff = 5.0

    def ours_plain() -> Step:
        return lambda x: neighbor_pairs(x, batch.ptr, cutoff)

    def ours_triton() -> Step:
        from mlff_core.ops.triton.engine import TritonEngine
        from mlff_core.ops.triton.pairs import pairs

        engine = TritonEngine(random_model(1).cuda())
        rest = (batch.mol_idx, batch.ptr, batch.charge, engine.weights.tables, cutoff)
        return lambda x: pairs(batch.numbers, x, *rest)

    def cluster() -> Step:
        from torch_cluster import radius_graph

        return lambda x: radius_graph(x, cutoff, batch.mol_idx, max_num_neighbors=192)

    def vesin() -> Step:
        from vesin.torch import NeighborList

        search = NeighborList(cutoff=cutoff, full_list=True)
        box = torch.zeros(3, 3, dtype=torch.float64, device="cuda")
        spans = list(zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True))

        def step(x: torch.Tensor) -> None:
            for a, b in spans:
                search.compute(x[a:b].double(), box, periodic=False, quantities="ij")

        return step

    def nvalchemi() -> Step:
        from nvalchemiops.neighborlist import neighbor_list

        index = batch.mol_idx.int()
        return lambda x: neighbor_list(x, cutoff, batch_idx=index, method="batch_naive")

    for name, make in {
        "ours, plain": ours_plain,
        "ours, triton (with geometry, embedding, repulsion)": ours_triton,
        "torch_cluster": cluster,
        "vesin": vesin,
        "nvalchemiops": nvalchemi,
    }.items():
        record = {"row": f"neighbours: {name}", "n_mols": KERNEL_SIZE}
        try:
            record["us"], record["spread_us"] = time_step(make(), batch)
            record["us_per_molecule"] = record["us"] / KERNEL_SIZE
        except ImportError:
            record["failed"] = "not installed"
        except Exception as error:
            record["failed"] = reason(error)
        yield record


def ceilings() -> dict:
    """What the card can do: copies in B/s, products of matrices in FLOP/s."""
    a = torch.randn(2**28, device="cuda")
    b = torch.empty_like(a)
    dummy = MolBatch.from_arrays([([1], [[0, 0, 0]], 0)], device="cuda")
    copy, _ = time_step(lambda _: b.copy_(a), dummy, 20)
    x, y = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    found = {"copy_bytes_per_s": 2 * a.numel() * 4 / (copy * 1e-6)}
    for name, allow in (("float32", False), ("tf32", True)):
        torch.backends.cuda.matmul.allow_tf32 = allow
        product, _ = time_step(lambda _: x @ y, dummy, 10)
        found[f"{name}_flop_per_s"] = 2 * 8192**3 / (product * 1e-6)
    torch.backends.cuda.matmul.allow_tf32 = False
    print(json.dumps(found), flush=True)
    return found


def kernel_rows(model: PaiNN, molecules: Molecules) -> Iterator[dict]:
    """Each operator against its plain meaning: time, and bytes and operations that it must do."""
    from mlff_core.ops.triton import linear, message, readout, update
    from mlff_core.ops.triton.engine import TritonEngine
    from mlff_core.ops.triton.pairs import pairs

    batch = molecules.batch(KERNEL_SIZE)
    engine = TritonEngine(model)
    n_atoms, n = batch.n_atoms, model.config.n_features
    i, j = neighbor_pairs(batch.positions, batch.ptr, engine.cutoff)
    n_edges = len(i)
    edges = plain.edge_geometry(batch.positions, i, j, model.config.n_rbf, engine.cutoff)
    rows, q, repulsion, _ = pairs(
        batch.numbers,
        batch.positions,
        batch.mol_idx,
        batch.ptr,
        batch.charge,
        engine.weights.tables,
        engine.cutoff,
    )
    block = engine.weights.blocks[1]
    gather, mixing = model.message[1], model.update[1]
    filters = filter_matrix(gather)
    assert block.phi is not None, "only the first block has a table in its place"
    layers = block.phi
    mu = torch.randn(n_atoms, 3, n, device="cuda")
    phi = torch.randn(n_atoms, 3 * n, device="cuda")
    g_q, g_mu = torch.randn_like(q), torch.randn_like(mu)
    *_, saved = update.update_fwd(q, mu, block.update, with_mu=True, precision="tf32x3")
    *_, plain_saved = plain.update_fwd(q, mu, mixing.uv.weight, *mlp_weights(mixing.a))
    w1, _, w2, _ = mlp_weights(mixing.a)
    three = "tf32x3"
    pull = message.new_pull(rows, n)
    # Operations on a pair and feature: a spline is the sum of so many terms, for each channel.
    n_filter = 3 * (block.filters.degree + 1)

    def readout_plain() -> None:
        _, h = plain.readout_fwd(q, *mlp_weights(model.readout), model.energy_scale)
        a, _, b, _ = mlp_weights(model.readout)
        plain.readout_bwd(h, a, b, model.energy_scale)

    # Name -> (ours, plain, operations, bytes that must move at least).
    table: dict[str, tuple[Callable, Callable, float, float]] = {
        "phi (two layers)": (
            lambda: linear.linear(
                linear.linear(q, layers.w1, layers.b1, precision=three),
                layers.w2,
                layers.b2,
                silu_in=True,
                precision=three,
            ),
            lambda: plain.mlp_fwd(q, *mlp_weights(gather.phi)),
            2 * n_atoms * 4 * n * n,
            4 * n_atoms * 5 * n,
        ),
        "message forward": (
            lambda: message.message_fwd(phi, mu, q, rows, block.filters),
            lambda: plain.message_fwd(phi, mu, edges, filters),
            2 * n_edges * n * (n_filter + 9),
            4 * n_atoms * 11 * n,
        ),
        "message backward": (
            lambda: message.message_bwd(g_q, g_mu, phi, mu, rows, block.filters, pull, add=False),
            lambda: plain.message_bwd(g_q, g_mu, phi, mu, edges, filters),
            2 * n_edges * n * (2 * n_filter + 25),
            4 * n_atoms * 16 * n,
        ),
        "update forward": (
            lambda: update.update_fwd(q, mu, block.update, with_mu=True, precision=three),
            lambda: plain.update_fwd(q, mu, mixing.uv.weight, *mlp_weights(mixing.a)),
            2 * n_atoms * 11 * n * n,
            4 * n_atoms * 17 * n,
        ),
        "update backward": (
            lambda: update.update_bwd(g_q, g_mu, saved, block.update, precision=three),
            lambda: plain.update_bwd(g_q, g_mu, plain_saved, mixing.uv.weight, w1, w2),
            2 * n_atoms * 11 * n * n,
            4 * n_atoms * 17 * n,
        ),
        "readout, both ways": (
            lambda: readout.readout(q, repulsion, *engine.weights.readout, precision=three),
            readout_plain,
            2 * n_atoms * n * n,
            4 * n_atoms * 2 * n,
        ),
    }
    with torch.no_grad():
        for name, (ours, meaning, flop, moved) in table.items():
            us, spread = time_step(lambda _, f=ours: f(), batch, 20)
            plain_us, _ = time_step(lambda _, f=meaning: f(), batch, 10)
            yield {
                "row": f"kernel: {name}",
                "n_mols": KERNEL_SIZE,
                "us": us,
                "spread_us": spread,
                "plain_us": plain_us,
                "flop_per_s": flop / (us * 1e-6),
                "bytes_per_s": moved / (us * 1e-6),
            }


def environment() -> dict:
    """What the numbers depend on."""
    import triton

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit or "unknown",
    }


def markdown(result: dict) -> str:
    """The tables, for the README."""
    records = result["rows"]
    by_row: dict[str, dict[int, dict]] = {}
    for name in ROWS:
        sizes = {r["n_mols"]: r for r in records if r["row"] == name}
        by_row |= {name: sizes} if sizes else {}
    lines = [
        "| µs a molecule, by molecules a batch | " + " | ".join(map(str, SIZES)) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for name, sizes in by_row.items():
        cells = []
        for n in SIZES:
            r = sizes.get(n, {})
            cells.append(f"{r['us_per_molecule']:.4g}" if "us" in r else "fails" * ("failed" in r))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, sizes in by_row.items():
        reasons = {r["failed"][:100] for r in sizes.values() if "failed" in r}
        lines += ["", *(f"{name} fails: {reason}" for reason in sorted(reasons))] if reasons else []
    lines += ["", "| GiB at the peak | " + " | ".join(map(str, SIZES)) + " |"]
    lines.append("|---|" + "---|" * len(SIZES))
    for name, sizes in by_row.items():
        known = {n: r["memory_gib"] for n, r in sizes.items() if "memory_gib" in r}
        cells = [f"{known[n]:.2f}" if n in known else "" for n in SIZES]
        lines += [f"| {name} | " + " | ".join(cells) + " |"] if known else []
    lines += ["", "| largest error against float64 (≤ 64 molecules) | energy, eV | forces, eV/Å |"]
    lines.append("|---|---|---|")
    for name, sizes in by_row.items():
        errors = [r for r in sizes.values() if "energy_error_ev" in r]
        if errors:
            e = max(r["energy_error_ev"] for r in errors)
            f = max(r["force_error_ev_per_angstrom"] for r in errors)
            lines.append(f"| {name} | {e:.1e} | {f:.1e} |")
    kernels, others = [], []
    for r in records:
        if r["row"].startswith("kernel: "):
            kernels.append(
                f"| {r['row'][8:]} | {r['us']:.0f} | {r['plain_us']:.0f} | "
                f"{r['flop_per_s'] / 1e12:.1f} | {r['bytes_per_s'] / 1e12:.2f} |"
            )
        elif r["row"] not in ROWS:
            what = r.get("failed") or ", ".join(
                f"{k} {v:.4g}" for k, v in r.items() if isinstance(v, float)
            )
            others.append(f"| {r['row']} | {what} |")
    head = "| operator, 1024 molecules | µs | plain PyTorch, µs | TFLOP/s | TB/s |"
    for above, found in (
        ([head, "|---|---|---|---|---|"], kernels),
        (["| other rows | |", "|---|---|"], others),
    ):
        lines += ["", *above, *found] if found else []
    return "\n".join(lines)


def plot(result: dict, file: Path) -> None:
    """µs a molecule against molecules a batch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in ROWS:
        points = [
            (r["n_mols"], r["us_per_molecule"])
            for r in result["rows"]
            if r["row"] == name and "us" in r
        ]
        called = name.endswith("as called")
        if points:
            # As its recorded twin, but dashed.
            colour = f"C{list(ROWS).index(name) - 2 * called}"
            axes.plot(
                *zip(*points, strict=True),
                "--" if called else "-",
                color=colour,
                marker="o",
                markersize=3,
                label=name,
            )
    axes.set(xscale="log", yscale="log", xlabel="molecules a batch (40 atoms each)")
    axes.set_ylabel("energy + forces, µs a molecule")
    axes.set_title(f"PaiNN, {result['shape']}, one {result['environment']['gpu']}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Measure, print, write."""
    global ROUNDS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--only", default="", help="rows whose name holds one of these words")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="most times a row is measured")
    parser.add_argument("--model", default="", help="checkpoint; random weights without one")
    parser.add_argument("--teacher", type=Path, help="the teacher's .jpt file")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("JSON", "PNG"))
    arguments = parser.parse_args()
    if arguments.plot:
        result = json.loads(arguments.plot[0].read_text(encoding="utf-8"))
        plot(result, arguments.plot[1])
        print(markdown(result))
        return
    ROUNDS = arguments.rounds
    words = [w for w in arguments.only.split(",") if w]

    def wanted(name: str) -> bool:
        return not words or any(word in name for word in words)

    torch.backends.cuda.matmul.allow_tf32 = False
    molecules = Molecules()
    model = random_model(1)
    if arguments.model:
        model, _, _ = read_checkpoint(find_model(arguments.model))
    model = model.cuda().requires_grad_(False)

    def ours(name: str) -> bool:
        return wanted(name) and name.startswith("triton")

    def theirs(name: str) -> bool:
        return wanted(name) and not name.startswith("triton")

    result: dict = {
        "environment": environment(),
        "model": arguments.model or "random weights",
        "shape": f"{model.config.n_features} features, {model.config.n_interactions} blocks",
        "ceilings": ceilings(),
        "rows": [],
    }
    # Ours first, and written down as it comes: a run that is cut off has measured something.
    for name, rows in {
        "": lambda: engine_rows(model, molecules, ours),
        "kernels": lambda: kernel_rows(model, molecules),
        "two streams": lambda: [stream_row(molecules)],
        "neighbours": lambda: neighbour_rows(molecules),
        "schnetpack": lambda: [schnetpack_row(molecules)],
        "others": lambda: engine_rows(model, molecules, theirs),
        "teacher": lambda: [teacher_row(molecules, arguments.teacher)],
    }.items():
        if name not in ("", "others") and not wanted(name):
            continue
        for record in rows():
            result["rows"].append(record)
            print(json.dumps(record), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
