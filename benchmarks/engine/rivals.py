"""Ways to energies and forces that are not ours, and neighbour searches beside ours."""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _harness import Clock, Molecules, fresh, reason, timing
from ways import Step, eager, engine_of

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNN
from mlff_core.neighbors import neighbor_pairs

#: Batch sizes of the rows here.
FEW_SIZES = (1, 16, 1024)
#: Molecules that neighbours are searched for.
N_MOLS = 1024


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


def teacher_step(molecules: Molecules, teacher: Path | None) -> Callable[[MolBatch], Step]:
    """The teacher's TorchScript file, energy and forces.

    Raises:
        ImportError: There is none.
    """
    if teacher is None:
        found = importlib.util.find_spec("Auto3D")
        if found is None or found.origin is None:
            raise ImportError("not installed")
        teacher = Path(found.origin).parent / "models" / "aimnet2_wb97m_ens_f.jpt"
    model = torch.jit.load(str(teacher), map_location="cuda")
    return lambda batch: padded_teacher(model, batch)


def schnetpack_step() -> Callable[[MolBatch], Step]:
    """schnetpack's PaiNN with random weights and our neighbour search; one sum of all energies."""
    network = schnetpack_painn().cuda().requires_grad_(False)

    def make(batch: MolBatch) -> Step:
        def step(positions: torch.Tensor) -> torch.Tensor:
            x = positions.detach().requires_grad_(True)
            i, j = neighbor_pairs(x.detach(), batch.ptr, 5.0)
            inputs = {"_atomic_numbers": batch.numbers, "_Rij": x[j] - x[i]}
            energy = network(inputs | {"_idx_i": i, "_idx_j": j})
            return torch.autograd.grad(energy, x)[0]

        return step

    return make


def foreign_rows(molecules: Molecules, teacher: Path | None, clock: Clock) -> Iterator[dict]:
    """Other people's models: what they compute is another thing, so nothing is compared."""
    for name, load in {
        "schnetpack PaiNN": schnetpack_step,
        "teacher (AIMNet2)": lambda: teacher_step(molecules, teacher),
    }.items():
        try:
            make = load()
        except ImportError:
            yield {"row": name, "failed": "not installed"}
            continue
        except Exception as error:
            yield {"row": name, "failed": reason(error)}
            continue
        for n_mols in FEW_SIZES:
            record: dict = {"row": name, "n_mols": n_mols}
            batch = molecules.batch(n_mols)
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                record |= timing(make(batch), fresh(batch), batch.positions.device)
                record["us_per_molecule"] = record["us"] / n_mols
            except Exception as error:
                record["failed"] = reason(error)
            yield record


#: Row -> (how, whether its numbers are those of float32, batch sizes): as `ways.WAYS`.
RIVALS: dict[str, tuple[Callable[[PaiNN, MolBatch], Step], str, tuple[int, ...]]] = {
    "TorchScript": (scripted, "float32", FEW_SIZES),
    "autocast fp16": (autocast(torch.float16), "reduced", FEW_SIZES),
    "autocast bf16": (autocast(torch.bfloat16), "reduced", FEW_SIZES),
    "torch.compile": (compiled, "float32", FEW_SIZES),
}


def neighbour_rows(model: PaiNN, molecules: Molecules, clock: Clock) -> Iterator[dict]:
    """Neighbour search alone."""
    batch = molecules.batch(N_MOLS)
    cutoff = 5.0

    def ours_plain() -> Step:
        return lambda x: neighbor_pairs(x, batch.ptr, cutoff)

    def ours_triton() -> Step:
        from mlff_core.ops.triton.pairs import pairs

        engine = engine_of(model, "float32")
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
        record: dict = {"row": f"neighbours: {name}", "n_mols": N_MOLS}
        try:
            if not clock.left():
                raise TimeoutError("no time was left")
            record |= timing(make(), fresh(batch), batch.positions.device)
            record["us_per_molecule"] = record["us"] / N_MOLS
        except ImportError:
            record["failed"] = "not installed"
        except Exception as error:
            record["failed"] = reason(error)
        yield record
