"""Runs the Triton kernels with the default model's weights in Triton's interpreter.

TRITON_INTERPRET=1 python run_shipped_interpreted.py OUT.pt
"""

import sys

import torch

from mlff_core.batch import MolBatch
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.testing import NAMED_MOLECULES


def arguments(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """What `evaluate` takes, of two molecules: the interpreter is slow."""
    molecules = [NAMED_MOLECULES[name] for name in ("water", "ammonium")]
    batch = MolBatch.from_arrays(molecules, dtype=dtype)
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def main(out: str) -> None:
    """Evaluate in each precision."""
    network = read_checkpoint(find_model("default"))[0].requires_grad_(False)
    results = {p: TritonEngine(network, p).evaluate(*arguments()) for p in ("float32", "fast")}
    torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
