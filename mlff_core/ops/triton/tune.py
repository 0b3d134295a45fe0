"""Measure which tiles are fastest on this card, and keep them for every later process.

    python -m mlff_core.ops.triton.tune
    python -m mlff_core.ops.triton.tune --sizes large --precisions bf16x3

Takes a minute or two, most of it compilation, which several processes share.
Without it the tiles of `tiles.py` are used.
"""

import argparse
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
import triton
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mlff_core.batch import MolBatch
from mlff_core.cores import usable_cores
from mlff_core.ops.triton import tiles
from mlff_core.ops.triton.engine import FILTER_SPLINES, TritonEngine
from mlff_core.ops.triton.launch import kernels_apart
from mlff_core.ops.triton.tiles import Launch, Tile
from mlff_core.testing import random_model, random_molecule

Result = TypeVar("Result")

TILE_CANDIDATES = {
    "large": [
        Tile(64, 64, 32, 4, 3),
        Tile(64, 128, 32, 4, 3),
        Tile(128, 64, 32, 4, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(32, 64, 32, 2, 3),
        Tile(32, 128, 32, 4, 2),
        Tile(32, 32, 32, 2, 3),
    ],
    "medium": [
        Tile(16, 64, 32, 4, 3),
        Tile(16, 32, 32, 4, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(32, 32, 32, 2, 3),
        Tile(16, 32, 64, 4, 2),
    ],
    "small": [
        Tile(16, 32, 64, 4, 2),
        Tile(16, 32, 64, 2, 2),
        Tile(16, 32, 128, 4, 1),
        Tile(16, 16, 64, 4, 2),
    ],
}
LAUNCH_CANDIDATES = {
    "large": [
        Launch(4, 1, 32, 1),
        Launch(8, 1, 32, 2),
        Launch(16, 1, 32, 4),
        Launch(8, 1, 16, 1),
        Launch(2, 1, 64, 1),
        Launch(1, 4, 32, 1),
        Launch(1, 1, 128, 1),
        Launch(1, 1, 128, 1, 112),
        Launch(1, 1, 128, 1, 128),
        Launch(4, 1, 128, 4),
    ],
    "medium": [
        Launch(4, 1, 32, 1),
        Launch(1, 4, 32, 1),
        Launch(1, 4, 32, 1, 96),
        Launch(1, 4, 64, 2, 96),
        Launch(1, 8, 32, 2),
        Launch(1, 16, 32, 4),
        Launch(1, 4, 128, 4),
    ],
    "small": [
        Launch(1, 4, 32, 1),
        Launch(1, 8, 32, 2),
        Launch(1, 16, 32, 4),
        Launch(1, 32, 32, 8),
        Launch(1, 32, 16, 4),
    ],
}
#: Molecules of 40 atoms that stand for each class.
N_MOLS = {"large": 512, "medium": 16, "small": 1}
#: Processes that compile what the others do not; each holds a context, of less than 1 GiB.
MAX_PROCESSES = 24
#: With whose products walks over pairs are measured, which have none; on the splines of both
#: `float32` and `fast`, because they share the choice.
WALKS_PRECISION = "tf32x3"


@kernels_apart()
def kernel_times(
    engines: Sequence[TritonEngine], batch: MolBatch, repeats: int = 8
) -> dict[str, float]:
    """Time of each kernel in one step of every engine, in µs."""
    step = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
    for engine in engines:
        engine.step(*step)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as measured:
        for _ in range(repeats):
            for engine in engines:
                engine.step(*step)
        torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    for event in measured.events():
        times[event.name.removesuffix("_kernel")] += event.device_time / repeats
    return times


#: Kernel -> class -> piece.
Table = dict[str, dict[str, Tile]] | dict[str, dict[str, Launch]]


def candidates(size: str, precision: str) -> Iterator[tuple[Table, Tile | Launch]]:
    """Every choice, and the table of the kernels that it is for."""
    for tile in TILE_CANDIDATES[size]:
        yield tiles.TILES[precision], tile
    if precision == WALKS_PRECISION:
        for launch in LAUNCH_CANDIDATES[size]:
            yield tiles.LAUNCHES, launch


def with_choice(
    run: Callable[[], Result], table: Table, size: str, choice: Tile | Launch
) -> Iterator[tuple[list[str], Result]]:
    """What a step returns with a choice for all kernels of a table, and which kernels those were.

    Where the card has too few registers or too little shared memory for one of them, each has its
    turn alone.
    """
    before = {kernel: sizes[size] for kernel, sizes in table.items()}
    together = list(table)
    for kernels in (together, *([kernel] for kernel in together)):
        for kernel in kernels:
            table[kernel][size] = choice  # type: ignore[assignment]
        try:
            result = run()
        except (RuntimeError, triton.TritonError):
            result = None
        for kernel in kernels:
            table[kernel][size] = before[kernel]  # type: ignore[assignment]
        if result is not None:
            yield kernels, result
            if kernels == together:
                return


def make_engines(products: str, device: str = "cuda") -> list[TritonEngine]:
    """One on the splines of each precision; not checked, which would compile more."""
    model = random_model().to(device).requires_grad_(False)
    return [
        TritonEngine(model, precision, products=(products, products), check=False)
        for precision in FILTER_SPLINES
    ]


def concerned(table: Table, engines: list[TritonEngine]) -> list[TritonEngine]:
    """The engines in which a choice from a table makes a difference, each of them one."""
    return engines if table is tiles.LAUNCHES else engines[:1]


def make_batch(n_mols: int) -> MolBatch:
    """Molecules of 40 atoms."""
    return MolBatch.from_arrays([random_molecule(40)] * n_mols, device="cuda")


def tune(size: str, precision: str) -> None:
    """Find the fastest pieces of one class and one precision, set and keep them."""
    engines, batch = make_engines(precision), make_batch(N_MOLS[size])
    best: dict[str, tuple[float, Tile | Launch]] = {}
    for table, choice in candidates(size, precision):
        run = partial(kernel_times, concerned(table, engines), batch)
        for kernels, times in with_choice(run, table, size, choice):
            for kernel in kernels:
                # What the profiler has not seen took no time at all, and is no measurement.
                if 0 < times[kernel] < best.get(kernel, (math.inf, choice))[0]:
                    best[kernel] = (times[kernel], choice)
    for kernel, (time, choice) in best.items():
        table = tiles.LAUNCHES if isinstance(choice, Launch) else tiles.TILES[precision]
        table[kernel][size] = choice  # type: ignore[assignment]
        print(f"{precision} {size} {kernel}: {choice}, {time:.1f} µs", flush=True)
    tiles.save(torch.cuda.get_device_name())


def one_step(engines: Sequence[TritonEngine], step: tuple[Tensor, ...]) -> bool:
    """Launch a step of every engine, which compiles it."""
    for engine in engines:
        engine.step(*step)
    return True


@kernels_apart()
def compile_share(share: int, n_shares: int, sizes: list[str], precisions: list[str]) -> None:
    """Compile every n_shares-th candidate, for Triton's cache on disk."""
    torch.set_num_threads(1)
    place = 0
    for size in sizes:
        # As few atoms as the class admits.
        batch = make_batch(tiles.CLASSES[size] // 40 + 1)
        step = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
        for precision in precisions:
            engines = make_engines(precision)
            for table, choice in candidates(size, precision):
                place += 1
                if place % n_shares == share:
                    run = partial(one_step, concerned(table, engines), step)
                    for _ in with_choice(run, table, size, choice):
                        pass


def main() -> None:
    """Tune every class and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(tiles.CLASSES))
    parser.add_argument("--precisions", default=",".join(tiles.TILES))
    arguments = parser.parse_args()
    sizes, precisions = arguments.sizes.split(","), arguments.precisions.split(",")
    free_gib = torch.cuda.mem_get_info()[0] // 2**30
    n_shares = max(1, min(MAX_PROCESSES, usable_cores() - 1, free_gib - 1))
    spawn = multiprocessing.get_context("spawn")
    shares = [
        spawn.Process(target=compile_share, args=(k, n_shares, sizes, precisions))
        for k in range(n_shares)
    ]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    for size in sizes:
        for precision in precisions:
            tune(size, precision)
    print(f"written to {tiles.cache_file(torch.cuda.get_device_name())}")


if __name__ == "__main__":
    main()
