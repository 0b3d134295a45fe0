"""What the benchmarks share: refuse what is wrong, warm up, time, and write down where.

A script imports it from the folder it lies in; the project need not be installed.

    result = Results("engine", environment(device))      # benchmarks/results/engine.json
    require_close(found, exact, worst)                    # NotCorrectError, and no time
    result.add({"row": ..., **timing(step, inputs, device)})
    result.finish(markdown)                               # ... and engine.md, made from the JSON
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from mlff_core.batch import MolBatch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: Calls before the clock starts.
WARM_UP = 3
#: Fewest and most calls that are timed, and for how long in ms it is worth to go on between them.
LEAST, MOST, ENOUGH_MS = 7, 50, 150.0


class NotCorrectError(ArithmeticError):
    """What was to be timed does not compute what it should."""


class Molecules:
    """The 256 benchmark molecules (40 atoms on average), repeated."""

    def __init__(self, device: torch.device) -> None:
        data = np.load(ROOT / "benchmarks" / "molecules.npz")
        spans = zip(data["ptr"][:-1], data["ptr"][1:], data["charge"], strict=True)
        self.all = [
            (data["numbers"][a:b].astype(np.int64), data["positions"][a:b], int(q))
            for a, b, q in spans
        ]
        # One molecule alone must be as large as the average one.
        self.typical = next(m for m in self.all if len(m[0]) == 40)
        self.device = device
        self.batches: dict[int, MolBatch] = {}

    def batch(self, n_mols: int) -> MolBatch:
        """So many molecules on the device."""
        if n_mols not in self.batches:
            many = [self.all[k % len(self.all)] for k in range(n_mols)]
            chosen = [self.typical] if n_mols == 1 else many
            self.batches[n_mols] = MolBatch.from_arrays(chosen, device=self.device)
        return self.batches[n_mols]


def conformers(n: int, seed: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Numbers, positions in Å and charges of `n` conformers, turned and displaced by 0.02 Å."""
    # An archive reads an array anew whenever it is asked for it.
    stored = dict(np.load(ROOT / "benchmarks" / "molecules.npz"))
    ptr, rng = stored["ptr"], np.random.default_rng(seed)
    found = []
    for k in range(n):
        m = k % (len(ptr) - 1)
        atoms = slice(ptr[m], ptr[m + 1])
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        x = stored["positions"][atoms].astype(np.float64) @ (turn * np.linalg.det(turn))
        x = x + rng.normal(scale=0.02, size=x.shape)
        numbers = stored["numbers"][atoms].astype(np.int64)
        found.append((numbers, x, int(stored["charge"][m])))
    return found


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fresh(batch: MolBatch) -> Iterator[torch.Tensor]:
    """Coordinates displaced anew by 0.03 Å, for every call other ones."""
    while True:
        yield batch.positions + 0.03 * torch.randn_like(batch.positions)


def environment(device: torch.device) -> dict[str, str]:
    """What numbers depend on: device, versions, commit."""

    def git(*words: str) -> str:
        ran = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT)
        return ran.stdout.strip()

    # Where there is no repository, whoever took the tree out of it says of which commit it is.
    commit = git("rev-parse", "HEAD")
    changed = "yes" if git("status", "--porcelain", "--untracked-files=no") else "no"
    found = {
        "device": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or os.environ.get("COMMIT", "unknown"),
        "changed": changed if commit else "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if device.type == "cuda":
        import triton

        found |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "triton": triton.__version__,
        }
    return found


def in_words(about: dict[str, Any]) -> str:
    """What `environment` says, as the line below a table has it."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def require_close(found: torch.Tensor, exact: torch.Tensor, worst: float, what: str) -> float:
    """The largest error.

    Raises:
        NotCorrectError: It is larger than `worst`, or is no number.
    """
    error = float((found.double() - exact.double()).abs().max()) if exact.numel() else 0.0
    if not error <= worst:
        raise NotCorrectError(f"{what}: off by {error:.3g}, at most {worst:.3g} is right")
    return error


def timing(
    step: Callable[[Any], object],
    inputs: Iterable[Any],
    device: torch.device,
    rounds: int | None = None,
) -> dict[str, float]:
    """Median and spread (third quartile less the first) of one call in µs.

    Args:
        step: What is timed.
        inputs: An argument for each call; ends never, or late enough.
        device: Where it runs; a CUDA device is timed by its own events.
        rounds: Calls that are timed; None goes on for ENOUGH_MS.
    """
    arguments = iter(inputs)
    for _ in range(WARM_UP):
        step(next(arguments))
    times = [_one(step, next(arguments), device)]
    if rounds is None:
        rounds = int(min(MOST, max(LEAST, ENOUGH_MS / max(times[0] * 1e-3, 1e-3))))
    times = [_one(step, next(arguments), device) for _ in range(max(rounds, 2))]
    quartiles = statistics.quantiles(times, n=4)
    return {
        "us": statistics.median(times),
        "spread_us": quartiles[2] - quartiles[0],
        "rounds": float(len(times)),
    }


def _one(step: Callable[[Any], object], argument: Any, device: torch.device) -> float:
    """µs of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        step(argument)
        return (time.perf_counter() - start) * 1e6
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step(argument)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e3


def reason(error: Exception) -> str:
    """Why a row failed: the last line of the message, where TorchScript names the cause."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:160]}"


class Clock:
    """How much of a run's time is left."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60.0 * minutes

    def left(self) -> bool:
        """Whether another row may begin."""
        return time.monotonic() < self.end


class Results:
    """Rows as they come, in a file: a run that is cut off has measured something."""

    def __init__(self, file: Path, about: dict[str, Any]):
        self.file = file
        self.content: dict[str, Any] = {**about, "rows": []}

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and write it down."""
        self.content["rows"].append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        """The JSON so far."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def finish(self, markdown: Callable[[dict[str, Any]], str]) -> None:
        """The Markdown beside the JSON."""
        self.write()
        render(self.file, markdown)


def render(file: Path, markdown: Callable[[dict[str, Any]], str]) -> None:
    """Make the Markdown of results from their JSON, and print it."""
    text = markdown(json.loads(file.read_text(encoding="utf-8")))
    file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)
