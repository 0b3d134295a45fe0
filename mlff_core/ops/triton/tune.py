"""Measure which tiles are fastest on this card. The command is `python -m mlff_core.tune`."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
import triton
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mlff_core.batch import MolBatch
from mlff_core.ops.triton import tiles
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.ops.triton.launch import kernels_apart
from mlff_core.ops.triton.sharing import alone
from mlff_core.ops.triton.steps import FILTER_SPLINES
from mlff_core.ops.triton.tiles import Launch, Tile
from mlff_core.ops.triton.warpgroups import multiprocessors

if TYPE_CHECKING:
    from mlff_core.models.painn import PaiNN

Result = TypeVar("Result")

TILE_CANDIDATES = {
    "large": [
        Tile(64, 64, 32, 4, 3),
        Tile(64, 128, 32, 4, 3),
        Tile(128, 64, 32, 8, 3),
        Tile(128, 64, 32, 4, 3),
        Tile(32, 32, 32, 2, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(128, 128, 32, 8, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 128, 64, 4, 2),
        Tile(64, 64, 64, 4, 3),
        Tile(64, 32, 64, 4, 3),
        Tile(128, 64, 64, 8, 3),
    ],
    "medium": [
        Tile(16, 64, 32, 4, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(32, 64, 64, 4, 3),
        Tile(32, 64, 64, 4, 4),
        Tile(64, 64, 64, 4, 3),
        Tile(64, 64, 64, 4, 4),
        Tile(64, 32, 64, 4, 4),
        Tile(16, 32, 128, 4, 2),
        Tile(16, 64, 128, 4, 2),
    ],
    "few": [
        Tile(16, 64, 32, 4, 3),
        Tile(32, 64, 64, 4, 3),
        Tile(16, 64, 64, 4, 3),
        Tile(16, 32, 64, 4, 4),
        Tile(64, 32, 64, 4, 4),
        Tile(64, 64, 64, 4, 3),
        Tile(16, 32, 128, 4, 2),
        Tile(16, 32, 128, 2, 2),
    ],
    "small": [
        Tile(16, 32, 64, 4, 2),
        Tile(16, 32, 128, 4, 1),
        Tile(16, 32, 128, 4, 2),
        Tile(16, 32, 64, 4, 4),
        Tile(16, 16, 64, 4, 4),
        Tile(16, 32, 256, 4, 1),
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
        Launch(1, 1, 256, 2),
        Launch(1, 1, 256, 2, 112),
        Launch(1, 1, 64, 1, 64),
    ],
    "medium": [
        Launch(1, 4, 32, 1, 96),
        Launch(1, 2, 64, 1, 96),
        Launch(1, 2, 64, 1, 168),
        Launch(1, 1, 64, 1, 96),
        Launch(1, 1, 128, 1, 128),
        Launch(1, 1, 128, 1, 168),
        Launch(1, 2, 128, 2, 168),
    ],
    "few": [
        Launch(1, 4, 32, 1),
        Launch(1, 4, 32, 1, 96),
        Launch(1, 2, 64, 1, 168),
        Launch(1, 4, 64, 1, 168),
        Launch(1, 1, 128, 1, 168),
        Launch(1, 2, 128, 2, 168),
    ],
    "small": [
        Launch(1, 4, 32, 1),
        Launch(1, 8, 32, 2),
        Launch(1, 16, 32, 4),
        Launch(1, 32, 32, 8),
        Launch(1, 32, 16, 4),
    ],
}
#: Kernel -> the longest piece of the inner dimension that its tiles may have where products keep
#: float32's accuracy, unless rows are few.
#: The matrix units cut off, and start anew with each piece: where gradients of 1e4 eV/Å cancel,
#: pieces of 64 were off by 310 eV/Å and plain float32 by 36.
LONGEST = {"update_bwd_hidden": 32}
#: Molecules of 40 atoms that stand for each class, their coordinates as rows as well.
N_MOLS = {"large": 512, "medium": 32, "few": 4, "small": 1}
#: With whose products walks over pairs are measured, which have none; on the splines of both
#: `float32` and `fast`, because they share the choice.
WALKS_PRECISION = "fp16x3"


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


def candidates(width: int, size: str, precision: str) -> Iterator[tuple[Table, Tile | Launch]]:
    """Every choice, and the table of the kernels that it is for."""
    for tile in TILE_CANDIDATES[size]:
        yield tiles.TILES[width][precision], tile
    if precision == WALKS_PRECISION:
        for launch in LAUNCH_CANDIDATES[size]:
            if launch.features <= width:
                yield tiles.LAUNCHES[width], launch


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


@contextmanager
def without_groups() -> Iterator[None]:
    """Inside, tiles are for all kernels, whether or not this card has warpgroups."""
    kept = dict(tiles.GROUPS)
    tiles.GROUPS.clear()
    try:
        yield
    finally:
        tiles.GROUPS.update(kept)


def make_engines(model: "PaiNN", products: str) -> list[TritonEngine]:
    """One on the splines of each precision; not checked, which would compile more."""
    return [
        TritonEngine(model, precision, products=(products, products), check=False)
        for precision in FILTER_SPLINES
    ]


def concerned(table: Table, engines: list[TritonEngine]) -> list[TritonEngine]:
    """The engines in which a choice from a table makes a difference, each of them one."""
    walks = any(table is known for known in tiles.LAUNCHES.values())
    return engines if walks else engines[:1]


def tune(model: "PaiNN", batch: MolBatch, precision: str) -> Iterator[str]:
    """Find and set the fastest pieces of a model's width, for one precision of the products.

    Args:
        model: On the device.
        batch: On the device; as many molecules as stand for the class, see `N_MOLS`.
        precision: Of the products.

    Yields:
        What was chosen for each kernel, in words.
    """
    width, size = tiles.width_class(model.config.n_features), tiles.row_class(batch.n_atoms)
    engines = make_engines(model, precision)
    best: dict[str, tuple[float, Table, Tile | Launch]] = {}
    with without_groups():
        for table, choice in candidates(width, size, precision):
            run = partial(kernel_times, concerned(table, engines), batch)
            for kernels, times in with_choice(run, table, size, choice):
                for kernel in kernels:
                    if not exact_enough(kernel, size, precision, choice):
                        continue
                    # What the profiler has not seen took no time at all, and is no measurement.
                    if 0 < times[kernel] < best.get(kernel, (math.inf,))[0]:
                        best[kernel] = (times[kernel], table, choice)
    for kernel, (time, table, choice) in best.items():
        table[kernel][size] = choice  # type: ignore[assignment]
        yield f"{width} {precision} {size} {kernel}: {choice}, {time:.1f} µs"
    groups = tiles.GROUPS.get(width, {}).get(precision, {})
    if size == "large" and alone() and multiprocessors():
        times = kernel_times(engines[:1], batch)
        for kernel in [k for k in groups if k in best and not 0 < times[k] < best[k][0]]:
            yield f"{width} {precision} {size} {kernel}: no warpgroups, {times[kernel]:.1f} µs"
            del groups[kernel]


def exact_enough(kernel: str, size: str, precision: str, choice: Tile | Launch) -> bool:
    """Whether a kernel may take a choice for a class of rows, however quick it is."""
    if isinstance(choice, Launch) or size == "small" or precision != "fp16x3":
        return True
    return choice.k <= LONGEST.get(kernel, choice.k)


def one_step(engines: Sequence[TritonEngine], step: tuple[Tensor, ...]) -> bool:
    """Launch a step of every engine, which compiles it."""
    for engine in engines:
        engine.step(*step)
    return True


@kernels_apart()
def compile_share(
    model: "PaiNN",
    batches: Sequence[MolBatch],
    precisions: Sequence[str],
    share: int,
    n_shares: int,
) -> None:
    """Compile every n_shares-th candidate, for Triton's cache on disk.

    Args:
        model: On the device.
        batches: On the device; one of each class, of as few atoms as the class admits.
        precisions: Of the products.
        share: Number of the share.
        n_shares: How many there are.
    """
    width, place = tiles.width_class(model.config.n_features), 0
    for batch in batches:
        size = tiles.row_class(batch.n_atoms)
        step = (batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
        for precision in precisions:
            engines = make_engines(model, precision)
            with without_groups():
                for table, choice in candidates(width, size, precision):
                    place += 1
                    if place % n_shares == share:
                        run = partial(one_step, concerned(table, engines), step)
                        for _ in with_choice(run, table, size, choice):
                            pass
