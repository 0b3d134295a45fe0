"""What each lever of `fast` costs in accuracy and brings in time: to be run on a card, in one go.

    python benchmarks/engine/variants.py                  both shipped models; 3 minutes

For every variant the largest and the mean error of forces against float64 over 128 hot geometries,
that of energies relative to a molecule's first geometry, µs a molecule of a recorded step, and
where the time goes, kernel by kernel. `fast` states 2e-3 eV/Å and 0.02 kcal/mol. Kernels are
compiled by several processes first.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _harness import (
    RESULTS,
    Clock,
    Molecules,
    Results,
    environment,
    fresh,
    in_words,
    reason,
    timing,
)

from mlff_core.batch import MolBatch
from mlff_core.cores import usable_cores
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import SHORT_NAMES, find_model
from mlff_core.ops.program import AnalyticEngine
from mlff_core.ops.triton import tiles
from mlff_core.ops.triton.capture import recording
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.ops.triton.tiles import Launch, Tile
from mlff_core.ops.triton.tune import kernel_times
from mlff_core.units import EV_KCAL_MOL

#: Engine -> its keyword arguments.
ENGINES: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "fast": {"precision": "fast"},
    "fast, three products back": {"precision": "fast", "products": ("fp16x3on", "fp16x3on")},
    "fast, one product": {"precision": "fast", "products": ("fp16", "fp16")},
}
#: Pieces of the walks over pairs, beside those in use: (forward, backward).
WALKS: dict[str, tuple[Launch, Launch]] = {
    "walks 1·256·2": (Launch(1, 1, 256, 2), Launch(1, 1, 256, 2)),
    "walks 1·256·1": (Launch(1, 1, 256, 1, 168), Launch(1, 1, 256, 1, 232)),
    "walks 1·128·1": (Launch(1, 1, 128, 1), Launch(1, 1, 128, 1)),
    "walks 1·64·1": (Launch(1, 2, 64, 1, 96), Launch(1, 2, 64, 1, 112)),
    "walks 2·128·2": (Launch(2, 1, 128, 2), Launch(2, 1, 128, 2)),
}
#: Pieces of the products where rows are many, beside those in use; not for the readout.
PIECES: dict[str, Tile] = {
    "pieces 128·128·32·8": Tile(128, 128, 32, 8, 3),
    "pieces 128·64·64·4": Tile(128, 64, 64, 4, 3),
    "pieces 64·128·64·4": Tile(64, 128, 64, 4, 3),
    "pieces 64·256·32·8": Tile(64, 256, 32, 8, 3),
    "pieces 128·256·32·8": Tile(128, 256, 32, 8, 3),
}
#: Engines on which pieces are tried.
TRIED = ("float32", "fast")


@contextmanager
def choices(
    walks: tuple[Launch, Launch] | None = None, piece: Tile | None = None
) -> Iterator[None]:
    """Other pieces inside, for batches of many rows."""
    before = deepcopy(tiles.TILES), deepcopy(tiles.LAUNCHES)
    for width in tiles.TILES:
        if walks is not None:
            for kernel, walk in zip(("message_fwd", "message_bwd"), walks, strict=True):
                tiles.LAUNCHES[width][kernel]["large"] = walk
        if piece is not None:
            for kernels in tiles.TILES[width].values():
                for kernel, sizes in kernels.items():
                    if kernel != "readout":
                        sizes["large"] = piece
    try:
        yield
    finally:
        for table, kept in zip((tiles.TILES, tiles.LAUNCHES), before, strict=True):
            table.clear()
            table.update(kept)


def geometries(molecules: Molecules) -> list[MolBatch]:
    """Every eighth molecule, four times displaced by 0.05 Å."""
    few = MolBatch.from_arrays(molecules.all[::8], device=molecules.device)
    generator = torch.Generator(molecules.device).manual_seed(0)
    return [
        few.with_positions(
            few.positions
            + 0.05 * torch.randn(few.positions.shape, device=molecules.device, generator=generator)
        )
        for _ in range(4)
    ]


def arguments_of(batch: MolBatch) -> tuple[torch.Tensor, ...]:
    """What `step` takes."""
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def errors(
    engine: TritonEngine, batches: list[MolBatch], truth: list[tuple[torch.Tensor, ...]]
) -> dict[str, float]:
    """Against float64."""
    off, relative = [], []
    for batch, (true_energy, true_forces, *_) in zip(batches, truth, strict=True):
        energy, forces, *_ = engine.step(*arguments_of(batch))
        off.append((forces - true_forces).abs().flatten())
        relative.append(energy - true_energy)
    both, shifts = torch.cat(off), torch.stack(relative)
    shifts = shifts - shifts[0].clone()
    return {
        "force_error_ev_per_angstrom": float(both.max()),
        "force_error_rms_ev_per_angstrom": float(both.square().mean().sqrt()),
        "energy_error_kcal_mol": float(shifts.abs().max()) * EV_KCAL_MOL,
    }


def recorded_us(engine: TritonEngine, batch: MolBatch) -> dict[str, float]:
    """µs a molecule of a recorded step, coordinates new in every replay."""
    numbers, static, *rest = arguments_of(batch)
    static = static.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine.step(numbers, static, *rest)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with recording(graph):
        kept = engine.step(numbers, static, *rest)

    def step(positions: torch.Tensor) -> object:
        static.copy_(positions)
        graph.replay()
        return kept

    found = timing(step, fresh(batch), batch.positions.device, 15)
    n = f"_per_molecule_at_{batch.n_mols}"
    return {f"{k}{n}": found[k] / batch.n_mols for k in ("us", "spread_us")}


Variant = tuple[str, tuple[Launch, Launch] | None, Tile | None, str]


def variants(n_features: int) -> list[Variant]:
    """Engine, walks, piece, and what they are called: every engine, then the pieces on two."""
    tried: list[Variant] = [(name, None, None, "") for name in ENGINES]
    for name in TRIED:
        tried += [
            (name, walks, None, what)
            for what, walks in WALKS.items()
            if walks[0].features <= n_features
        ]
        tried += [(name, None, piece, what) for what, piece in PIECES.items()]
    return tried


def load(name: str) -> PaiNN:
    """A model with its own weights, on the device."""
    return read_checkpoint(find_model(name))[0].to("cuda").requires_grad_(False)


def compile_share(names: list[str], share: int, n_shares: int) -> None:
    """Compile every n_shares-th variant, for Triton's cache on disk."""
    torch.set_num_threads(1)
    # As few molecules as a batch of many rows has.
    batch = Molecules(torch.device("cuda")).batch(tiles.CLASSES["large"] // 35)
    for model in map(load, names):
        for engine, walks, piece, _ in variants(model.config.n_features)[share::n_shares]:
            with suppress(Exception), choices(walks, piece):
                TritonEngine(model, check=False, **ENGINES[engine]).step(*arguments_of(batch))


def rows(model: PaiNN, molecules: Molecules, clock: Clock, sizes: list[int]) -> Iterator[dict]:
    """Every variant: how far off, how long, and where the time goes."""
    batches = geometries(molecules)
    exact = AnalyticEngine(deepcopy(model).double())
    truth = [exact.evaluate(*arguments_of(batch.to(dtype=torch.float64))) for batch in batches]
    engines: dict[str, TritonEngine] = {}
    for name, walks, piece, what in variants(model.config.n_features):
        record: dict = {"row": f"{name}, {what}" if what else name}
        try:
            if not clock.left():
                raise TimeoutError("no time was left")
            if name not in engines:
                engines[name] = TritonEngine(model, **ENGINES[name])
            with choices(walks, piece):
                record |= errors(engines[name], batches, truth)
                for n_mols in sizes:
                    record |= recorded_us(engines[name], molecules.batch(n_mols))
                if not what:
                    found = kernel_times([engines[name]], molecules.batch(sizes[0]), 4)
                    record["kernels_us"] = dict(sorted(found.items(), key=lambda x: -x[1])[:14])
        except Exception as error:  # a piece that the card has no room for is a result too
            record["failed"] = reason(error)
        yield record


def markdown(result: dict[str, Any]) -> str:
    """A table for each model."""
    lines = ["Made by `python benchmarks/engine/variants.py` from the JSON beside it.", ""]
    lines.append(in_words(result["environment"]) + ".")
    for name in result["models"]:
        found = [r for r in result["rows"] if r["model"] == name]
        times = [k for k in dict.fromkeys(k for r in found for k in r) if k.startswith("us_")]
        lines += [
            "",
            f"## {name}",
            "",
            "| variant | forces, eV/Å, largest | rms | energies, kcal/mol | "
            + " | ".join(f"µs, {k.removeprefix('us_per_molecule_at_')} molecules" for k in times)
            + " |",
            "|---|---|---|---|" + "---|" * len(times),
        ]
        for r in found:
            if "failed" in r:
                lines.append(f"| {r['row']} | {r['failed']} |" + " |" * (2 + len(times)))
                continue
            lines.append(
                f"| {r['row']} | {r['force_error_ev_per_angstrom']:.2e} | "
                f"{r['force_error_rms_ev_per_angstrom']:.1e} | {r['energy_error_kcal_mol']:.1e} | "
                + " | ".join(f"{r[k]:.3f}" if k in r else "" for k in times)
                + " |"
            )
        for r in found:
            if "kernels_us" in r:
                parts = ", ".join(f"{k} {v:.0f}" for k, v in r["kernels_us"].items())
                lines += ["", f"{r['row']}, µs of a step by kernel: {parts}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "engine_variants.json")
    parser.add_argument("--models", default=",".join(SHORT_NAMES))
    parser.add_argument("--sizes", default="1024", help="molecules a batch")
    parser.add_argument("--minutes", type=float, default=3.0, help="no row begins later")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    molecules, clock = Molecules(device), Clock(arguments.minutes)
    names = arguments.models.split(",")
    n = max(1, min(15, usable_cores() - 1))
    spawn = multiprocessing.get_context("spawn")
    shares = [spawn.Process(target=compile_share, args=(names, k, n)) for k in range(n)]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    results = Results(arguments.out, {"environment": environment(device), "models": names})
    for name in names:
        for row in rows(load(name), molecules, clock, [int(n) for n in arguments.sizes.split(",")]):
            results.add({"model": name, **row})
    results.finish(markdown)


if __name__ == "__main__":
    main()
