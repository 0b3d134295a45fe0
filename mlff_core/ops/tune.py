"""Measure which tiles are fastest on this card, and keep them for every later process.

    python -m mlff_core.ops.tune

Takes a few minutes, nearly all of them compilation. Without it the tiles of `tiles.py` are used.
"""

from collections import defaultdict
from collections.abc import Iterator

import torch
import triton
from torch.profiler import ProfilerActivity, profile

from mlff_core.batch import MolBatch
from mlff_core.ops import tiles
from mlff_core.ops.engine import TritonEngine
from mlff_core.ops.tiles import Launch, Tile
from mlff_core.testing import random_model, random_molecule

TILE_CANDIDATES = {
    "large": [
        Tile(64, 64, 32, 4, 3),
        Tile(64, 128, 32, 4, 2),
        Tile(64, 128, 32, 4, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(32, 64, 32, 2, 3),
        Tile(32, 128, 32, 4, 2),
        Tile(32, 32, 32, 2, 3),
    ],
    "medium": [Tile(16, 64, 32, 4, 3), Tile(32, 64, 32, 4, 3), Tile(16, 32, 32, 4, 3)],
    "small": [Tile(16, 32, 64, 4, 2), Tile(16, 32, 32, 4, 3), Tile(16, 16, 64, 4, 2)],
}
LAUNCH_CANDIDATES = {
    "large": [Launch(2), Launch(2, 1, 168), Launch(4)],
    "medium": [Launch(2), Launch(4), Launch(8, 2), Launch(16, 4)],
    "small": [Launch(4), Launch(8, 2), Launch(16, 4)],
}
#: Molecules of 40 atoms that stand for each class.
N_MOLS = {"large": 512, "medium": 16, "small": 1}


def kernel_times(engine: TritonEngine, batch: MolBatch, repeats: int = 5) -> dict[str, float]:
    """Time of each kernel in one step, in µs."""
    step = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
    engine.step(*step)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as measured:
        for _ in range(repeats):
            engine.step(*step)
        torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    for event in measured.events():
        times[event.name.split("<")[0].removesuffix("_kernel")] += event.device_time / repeats
    return times


def candidates(size: str, precision: str) -> Iterator[tuple[dict, dict]]:
    """Set every kernel's piece to each candidate in turn; yields the tables just set."""
    for tile in TILE_CANDIDATES[size]:
        for products in tiles.TILES[precision].values():
            products[size] = tile
        yield tiles.TILES[precision], {}
    if precision == "tf32x3":
        for launch in LAUNCH_CANDIDATES[size]:
            for walks in tiles.LAUNCHES.values():
                walks[size] = launch
            yield {}, tiles.LAUNCHES


def tune(size: str, precision: str) -> None:
    """Find the fastest pieces of one class and one precision, and set them."""
    engine = TritonEngine(random_model().cuda().requires_grad_(False))
    engine.forward_precision = engine.backward_precision = precision
    molecule = random_molecule(40)
    batch = MolBatch.from_arrays([molecule] * N_MOLS[size], device="cuda")
    best: dict[str, tuple[float, Tile | Launch]] = {}
    for table, launches in candidates(size, precision):
        try:
            times = kernel_times(engine, batch)
        except (RuntimeError, triton.TritonError):
            continue  # More shared memory or registers than the card has.
        for kernel, sizes in (table | launches).items():
            if kernel not in best or times[kernel] < best[kernel][0]:
                best[kernel] = (times[kernel], sizes[size])
    for kernel, (_, choice) in best.items():
        if isinstance(choice, Tile):
            tiles.TILES[precision][kernel][size] = choice
        else:
            tiles.LAUNCHES[kernel][size] = choice


def main() -> None:
    """Tune every class and keep the result."""
    for precision in tiles.TILES:
        for size in tiles.CLASSES:
            tune(size, precision)
            print(f"{precision} {size}: done", flush=True)
    print(f"written to {tiles.save(torch.cuda.get_device_name())}")


if __name__ == "__main__":
    main()
