"""Compiles the kernels of a step for a card that need not be there, for test_compiled.py.

A process of its own, because it puts a stand-in in the place of Triton's driver.

    python run_compiled.py CAPABILITY steps|first|moves|walks|groups|tiles|candidates OUT.json
"""

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs
from mlff_core.models.painn import PaiNNConfig
from mlff_core.moves import dynamics_triton, exchange_triton, hessian_triton, minimise_triton
from mlff_core.moves.baoab import Integrator
from mlff_core.moves.hessian import MODEL
from mlff_core.moves.rules import Rules
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Rows, molecules_of
from mlff_core.moves.state import DynamicsState
from mlff_core.moves.step import enter
from mlff_core.ops.triton import first_message, launch, tiles, tune, warpgroups
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.testing import NAMED_MOLECULES, random_model

#: Narrow, so that little is compiled.
CONFIG = PaiNNConfig(n_features=32, n_interactions=2, n_rbf=3)


class Card:
    """What the compiler asks a driver."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def pretend(capability: int) -> dict[str, str]:
    """Let launches stop short of the card; the assembly of every kernel comes to the result."""
    driver.set_active(Card(capability))
    run = JITFunction.run
    assembly: dict[str, str] = {}

    def compile_only(kernel, *arguments, grid, warmup, **options):
        compiled = run(kernel, *arguments, grid=grid, warmup=True, **options)
        assembly[f"{kernel.__name__} {compiled.hash}"] = compiled.asm.get("ptx", "")
        return compiled

    JITFunction.run = compile_only
    launch._can_overlap = lambda: capability >= 90
    # The engine takes the CPU's memory only where it believes itself interpreted.
    triton.knobs.runtime.interpret = True
    return assembly


def arguments() -> tuple[torch.Tensor, ...]:
    """Of a step of one molecule."""
    batch = MolBatch.from_arrays([NAMED_MOLECULES["water"]])
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def compile_steps() -> None:
    """Both precisions, one product everywhere, and float64 positions."""
    numbers, positions, *rest = arguments()
    for precision in ("float32", "fast"):
        TritonEngine(random_model(1, CONFIG), precision).step(numbers, positions, *rest)
    one = TritonEngine(random_model(1, CONFIG), "fast", products=("fp16", "fp16"))
    one.step(numbers, positions, *rest)
    TritonEngine(random_model(1, CONFIG)).step(numbers, positions.double(), *rest)


def compile_first() -> None:
    """A step whose first block is made by products."""
    tiles.CLASSES = {"large": 0}
    first_message.SOONER["large"] = 0
    for precision in ("float32", "fast"):
        TritonEngine(random_model(1, CONFIG), precision).step(*arguments())


def compile_moves() -> None:
    """What lies between two force calls of every minimiser, and of dynamics."""
    batch = MolBatch.from_arrays([NAMED_MOLECULES["water"]])
    everyone = molecules_of(batch, np.ones(3, bool))
    rows = Rows.pack(everyone, 3, batch.device, torch.float32)

    def nothing(batch: MolBatch) -> Outputs:
        return Outputs(torch.zeros(1, dtype=torch.float64), torch.zeros(batch.n_atoms, 3))

    for optimizer, model_hessian in (("lbfgs", True), ("lbfgs", False), ("fire", False)):
        settings = RelaxSettings(optimizer, model_hessian=model_hessian)
        rules = Rules.of(settings, torch.float32, 5.0)
        minimise_triton.kernel_step(rows, rules, 4, nothing)(enter(rows, settings))
    inverse = hessian_triton.inverse_model_hessian(rows, MODEL)
    state = enter(rows, RelaxSettings())
    index = torch.zeros(1, dtype=torch.int64)
    exchange_triton.enter_slots(rows, state, index, rows, inverse, index, index)
    exchange_triton.renew_slots(rows, state, index, inverse)
    exchange_triton.leave_slots(rows, state, index, 5.0)
    for langevin in (True, False):
        one = torch.ones(1, dtype=torch.float64)
        v = torch.zeros(1, 3, 3, dtype=torch.float64)
        state = DynamicsState(one.long(), v.clone(), v.clone(), v.clone(), one.clone(), one.clone())
        integrator = Integrator(v[..., :1] + 1.0, 0.1, 0.9, one.long(), langevin)
        dynamics_triton.kernel_step(batch.to(dtype=torch.float64), integrator, nothing)(state)


def compile_walks() -> list[str]:
    """How the compiler lays the pairs whose sums are exchanged in a warp, for every such piece."""
    run, found = JITFunction.run, []

    def keep_layout(kernel, *arguments, **options):
        compiled = run(kernel, *arguments, **options)
        text = compiled.asm["ttgir"]
        layouts = dict(re.findall(r"^(#\w+) = #ttg.blocked<{(.*)}>", text, re.MULTILINE))
        for line in text.splitlines():
            if "shfl.sync" in line:
                found.append(layouts[re.findall(r"tensor<\d+x128xi32, (#\w+)>", line)[-1]])
        return compiled

    JITFunction.run = keep_layout
    model = random_model(1, replace(CONFIG, n_features=128)).requires_grad_(False)
    pieces = {
        launch
        for launches in tune.LAUNCH_CANDIDATES.values()
        for launch in launches
        if launch.atoms == 1 and launch.features == 128
    }
    tiles.CLASSES = {"medium": 0}
    for piece in sorted(pieces):
        before = len(found)
        tiles.LAUNCHES[128]["message_bwd"]["medium"] = piece
        TritonEngine(model).step(*arguments())
        found[before:] = [f"{piece.warps} warps: {layout}" for layout in found[before:]]
    return found


def compile_groups() -> list[list[str | int]]:
    """Products by warpgroups: name, how many matrix products it begins, bytes of shared memory."""
    run, found = JITFunction.run, []

    def groups_only(kernel, *arguments, **options):
        if not kernel.is_gluon():
            return None
        compiled = run(kernel, *arguments, **options)
        products = compiled.asm["ptx"].count("wgmma.mma_async")
        found.append([kernel.__name__, products, compiled.metadata.shared])
        return compiled

    JITFunction.run = groups_only
    warpgroups.multiprocessors, warpgroups.alone = (lambda: 132), (lambda: True)
    tiles.CLASSES = {"large": 0}
    model = random_model(1, replace(CONFIG, n_features=256)).requires_grad_(False)
    for precision in ("float32", "fast"):
        TritonEngine(model, precision).step(*arguments())
    return found


def layouts_only(backend=None, stages=None, *_):
    """Compile as far as layouts are chosen, where tiles and the compiler fall out with each other.

    Called without arguments to say what its results may not be confused with.
    """
    if stages is None:
        return "layouts only", "layouts only"
    del stages["llir"], stages["ptx"]
    stages["cubin"] = lambda _, metadata: metadata.update(name="", shared=0, tmem_size=0) or b""
    return None


def compile_tiles(*, candidates: bool) -> list[str]:
    """Every tile in use, or every one that may be tried, on both splines; those that fail."""
    triton.knobs.runtime.add_stages_inspection_hook = layouts_only
    step = arguments()
    failures = []
    model = random_model().requires_grad_(False)
    width, sizes = model.config.n_features, list(tiles.CLASSES)
    for products in ("fp16x3", "fp16x3on", "fp16"):
        engines = tune.make_engines(model, products)
        for size in sizes:
            tiles.CLASSES = {size: 0}
            tune.one_step(engines, step)
            for table, choice in tune.candidates(width, size, products) if candidates else ():
                run = partial(tune.one_step, tune.concerned(table, engines), step)
                tried = list(tune.with_choice(run, table, size, choice))
                if [kernels for kernels, _ in tried] != [list(table)]:
                    failures.append(f"{products} {size} {choice}")
    return failures


def main(capability: int, what: str, out: str) -> None:
    """Compile, and keep the assembly or the failures."""
    assembly = pretend(capability)
    parts = {"steps": compile_steps, "first": compile_first, "moves": compile_moves}
    lists = {"walks": compile_walks, "groups": compile_groups}
    if what in lists:
        Path(out).write_text(json.dumps(lists[what]()), encoding="utf-8")
    elif what in parts:
        parts[what]()
        Path(out).write_text(json.dumps(assembly), encoding="utf-8")
    else:
        failures = compile_tiles(candidates=what == "candidates")
        Path(out).write_text(json.dumps(failures), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
