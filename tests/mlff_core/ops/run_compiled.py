"""Compiles the kernels of a step for a card that need not be there, for test_compiled.py.

A process of its own, because it puts a stand-in in the place of Triton's driver.

    python run_compiled.py CAPABILITY OUT.json
"""

import json
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mlff_core.batch import MolBatch
from mlff_core.ops import overlap, tiles
from mlff_core.ops.engine import TritonEngine
from mlff_core.ops.linear import linear, split_weights
from mlff_core.painn import PaiNNConfig
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


def main(capability: int, out: str) -> None:
    """Launch a step that stops short of the card; keep the assembly of every kernel."""
    driver.set_active(Card(capability))
    launch = JITFunction.run
    assembly: dict[str, str] = {}

    def compile_only(kernel, *arguments, grid, warmup, **options):
        compiled = launch(kernel, *arguments, grid=grid, warmup=True, **options)
        assembly[f"{kernel.__name__} {compiled.hash}"] = compiled.asm["ptx"]
        return compiled

    JITFunction.run = compile_only
    overlap._can_overlap = lambda: capability >= 90
    # The engine takes the CPU's memory only where it believes itself interpreted.
    triton.knobs.runtime.interpret = True
    batch = MolBatch.from_arrays([NAMED_MOLECULES["water"]])
    step = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
    for precision in ("float32", "fast"):
        TritonEngine(random_model(1, CONFIG), precision).step(*step)
    step = (step[0], step[1].double(), *step[2:])
    TritonEngine(random_model(1, CONFIG)).step(*step)
    for precision, kernels in tiles.TILES.items():
        kernels["linear"]["small"] = tiles.Tile(16, 32, 16, 4, 2, resident=1)
        weights = split_weights(torch.zeros(32, 32), precision)
        linear(torch.zeros(4, 32), weights, precision=precision)
    Path(out).write_text(json.dumps(assembly), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2])
