"""Runs the Triton kernels in Triton's interpreter and writes what came out, for test_kernels.py.

A process of its own, because Triton decides when it is imported whether it interprets.

    TRITON_INTERPRET=1 python run_interpreted.py OUT.pt
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNNConfig
from mlff_core.ops.case import Case, triton_steps
from mlff_core.ops.triton import engine as engines
from mlff_core.ops.triton import first_message, pairs, tiles
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.ops.triton.fill import fill, fill_plain
from mlff_core.ops.triton.readout import readout
from mlff_core.ops.triton.update_bwd import gradient_in_a_mu
from mlff_core.testing import NAMED_MOLECULES, random_model, random_molecule

#: Narrow and shallow: the interpreter is slow. The width is the least that the kernels take.
CONFIG = PaiNNConfig(n_features=32, n_interactions=2, n_rbf=3)
#: One product in place of three on the way back, as wider models have it in `fast`.
ONE_BACK = ("fp16x3on", "fp16")


def mixed_batch() -> MolBatch:
    """Every named molecule and random ones, of sizes that are no power of two, in one batch."""
    molecules = [random_molecule(n, n, charge=n % 3 - 1) for n in (1, 3, 11)]
    return MolBatch.from_arrays([*NAMED_MOLECULES.values(), *molecules])


def arguments(batch: MolBatch) -> tuple[torch.Tensor, ...]:
    """What `evaluate` takes."""
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def padded(batch: MolBatch, n_atoms: int, n_mols: int) -> tuple[torch.Tensor, ...]:
    """The same with padding of every kind behind it, numbers and positions of nonsense included."""
    numbers, positions, mol_idx, ptr, charge = arguments(batch)
    return (
        torch.cat([numbers, torch.zeros(n_atoms, dtype=torch.int64)]),
        torch.cat([positions, positions[-1:] + torch.linspace(0, 1, n_atoms)[:, None]]),
        torch.cat([mol_idx, torch.zeros(n_atoms, dtype=torch.int64)]),
        torch.cat([ptr, ptr[-1:].expand(n_mols)]),
        torch.cat([charge, torch.zeros(n_mols, dtype=torch.int64)]),
    )


def buffers() -> tuple[torch.Tensor, ...]:
    """Room for more than the mixed batch, full of nonsense; for more molecules than atoms."""
    shapes = ((300,), (300, 3), (300,), (402,), (401,))
    types = (torch.int64, torch.float32, torch.int64, torch.int64, torch.int64)
    return tuple(torch.full(s, 77, dtype=t) for s, t in zip(shapes, types, strict=True))


def poisoned(batch: MolBatch) -> MolBatch:
    """The first molecule once whole, once with a NaN, once with two atoms in one place."""
    three = batch.select([0, 0, 0])
    positions = three.positions.clone()
    positions[three.ptr[1] + 1, 1] = torch.nan
    positions[three.ptr[2] + 1] = positions[three.ptr[2]]
    return three.with_positions(positions)


def far_features() -> torch.Tensor:
    """Features from what molecules have to what float16 cannot hold, a row each."""
    features = torch.randn(5, CONFIG.n_features, generator=torch.Generator().manual_seed(0))
    return features * torch.tensor([1.0, 1e3, 1e5, 1e8, 1e11])[:, None]


def on_poison(evaluate: Callable[[], Any]) -> Any:
    """What comes out where all new memory is full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    try:
        return evaluate()
    finally:
        torch.use_deterministic_algorithms(False)


def gradients_in_a_mu(batch: MolBatch) -> dict[str, torch.Tensor]:
    """As the walk back leaves it for the block before, as it is made apart, and of what."""
    case = Case.of(random_model(1, CONFIG).requires_grad_(False), batch)
    steps = triton_steps(case)
    _, _, kept = steps.update_fwd(0, case.q, case.mu)
    steps.readout(case.q)
    steps.message_bwd(1, case.g_q, case.g_mu, case.phi, case.mu)
    g_mu, left = steps.told
    apart = gradient_in_a_mu(g_mu, kept, end=steps.rows.end, precision="fp16x3")
    return {"left": left, "apart": apart, "g_mu": g_mu, "uv": kept.uv}


def main(out: str) -> None:
    """Evaluate every case."""
    engine = TritonEngine(random_model(1, CONFIG))
    batch = mixed_batch()
    few = batch.select([3, 4])
    results = {
        "mixed": engine.evaluate(*arguments(batch)),
        "few": engine.evaluate(*arguments(few)),
        "padded": on_poison(lambda: engine.evaluate(*padded(few, 40, 2))),
        "poisoned": engine.evaluate(*arguments(poisoned(few))),
        "empty": engine.evaluate(*arguments(MolBatch.from_arrays([]))),
    }
    tracked = few.with_positions(few.positions.clone().requires_grad_(True))
    results["history"] = [x.requires_grad for x in engine.evaluate(*arguments(tracked))]
    results["far"] = far_features()
    results["read"] = readout(
        far_features(), torch.zeros(5), *engine.weights.readout,
        end=torch.full((1,), 5, dtype=torch.int32), precision="fp16x3",
    )  # fmt: skip
    results["fast"] = TritonEngine(random_model(1, CONFIG), "fast").evaluate(*arguments(batch))
    results["a_mu"] = gradients_in_a_mu(few)
    one_back = TritonEngine(random_model(1, CONFIG), "fast", products=ONE_BACK)
    results["one_back"] = one_back.evaluate(*arguments(few))
    # On the tiles of batches that would take the interpreter too long, and in several pieces along
    # the inner dimension, which so narrow a model would not have.
    classes = tiles.CLASSES
    tiles.CLASSES = {"large": 0}
    for precisions in tiles.TILES.values():
        for kernels in precisions.values():
            for sizes in kernels.values():
                sizes["large"] = sizes["large"]._replace(k=16)
    results["large"] = TritonEngine(random_model(1, CONFIG), "fast").evaluate(*arguments(batch))
    # The first block by products, which so narrow a model would not take.
    first_message.SOONER["large"] = 0
    results["by elements"] = on_poison(lambda: engine.evaluate(*padded(few, 40, 2)))
    results["one_back by elements"] = one_back.evaluate(*arguments(few))
    tiles.CLASSES = classes
    results["filled"] = [buffers(), buffers()]
    for fill_one, given in zip((fill, fill_plain), results["filled"], strict=True):
        fill_one(given, arguments(batch))
    # Pieces of one molecule or several, and one molecule larger than a piece.
    engines.PIECE_MAX_ATOMS = 9
    results["pieces"] = engine._in_pieces(*padded(batch, 3, 2))
    # Rows too short for the largest molecule.
    pairs.MAX_NEIGHBORS = 8
    results["overflow"] = engine.evaluate(*arguments(batch.select([3, 8])))
    torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
