"""Steps that L-BFGS takes, and what it leaves, by its model of the Hessian and its renewal.

    python benchmarks/relaxation_steps.py                      both models, on a CUDA device
    python benchmarks/relaxation_steps.py --device cpu --models small --conformers 24
    python benchmarks/relaxation_steps.py --render benchmarks/results/relaxation_steps.json

Conformers as in relaxation.py, relaxed in float32; what is left is against where float32 comes to
from there at 0.001 eV/Å, and the same minimum is the one that it finds alone from the start. Needs
no quiet machine: nothing is timed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _harness import RESULTS, Clock, Results, environment, in_words, render
from relaxation_rates import MAX_STEPS, Below

from mlff_core.models.potential import load_potential
from mlff_core.moves import exchange, lbfgs, minimise_numba
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL, HessianModel
from mlff_core.moves.relax import relax
from mlff_core.moves.state import LbfgsMemory

#: Springs in pairs alone, each resisting motion across it by a quarter, on a stiff ground.
STIFF = HessianModel(40.0, 4.0, 0.0, 80.0, 10.0, 4.0, 0.0, 0.0, 20.0)
#: The shipped one, on a stiffer ground.
FIRMER = RENEWED_MODEL._replace(ground=0.8)
BELOW = (lbfgs.RENEW_BELOW, lbfgs.RENEW_AGAIN_BELOW)
#: Variant -> model at first, when it is renewed, and the forces in eV/Å below which it is.
VARIANTS: dict[str, tuple[HessianModel, HessianModel, tuple[float, float]]] = {
    "shipped": (MODEL, RENEWED_MODEL, BELOW),
    "renewed as at first": (MODEL, MODEL, BELOW),
    "never renewed": (MODEL, MODEL, (0.0, 0.0)),
    "stiff ground, no angles, never renewed": (STIFF, STIFF, (0.0, 0.0)),
    "at first as renewed": (RENEWED_MODEL, RENEWED_MODEL, BELOW),
    "renewed once, firmer ground": (MODEL, FIRMER, (0.3, 0.0)),
    "renewed once": (MODEL, RENEWED_MODEL, (0.3, 0.0)),
    "renewed twice, firmer ground": (MODEL, FIRMER, BELOW),
    "renewed below 0.3 and 0.05": (MODEL, RENEWED_MODEL, (0.3, 0.05)),
    "renewed below 0.6 and 0.1": (MODEL, RENEWED_MODEL, (0.6, 0.1)),
}
FMAX = (0.05, 0.03)


@contextmanager
def variant(first: HessianModel, later: HessianModel, below: tuple[float, float]) -> Iterator[None]:
    """L-BFGS with other constants, in all three ways to step."""
    constants = partial(lbfgs.LbfgsConstants, renew_below=below[0], renew_again_below=below[1])
    modules: list[Any] = [lbfgs, exchange]
    if torch.cuda.is_available():
        from mlff_core.moves import exchange_triton

        modules.append(exchange_triton)
    with ExitStack() as stack:
        changed = {"MODEL": first, "RENEWED_MODEL": later}
        changed |= {"RENEW_BELOW": below[0], "RENEW_AGAIN_BELOW": below[1]}
        for name, value in changed.items():
            for module in modules:
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, value))
        stack.enter_context(patch.object(minimise_numba, "LbfgsConstants", constants))
        if torch.cuda.is_available():
            from mlff_core.moves.minimise_triton import KERNELS

            kernel, _, options = KERNELS[LbfgsMemory]
            entry = {LbfgsMemory: (kernel, constants(), options)}
            stack.enter_context(patch.dict(KERNELS, entry))
        yield


def row_of(name: str, fmax: float, below: Below) -> dict[str, Any]:
    """Steps that a variant takes to an fmax, and what it leaves."""
    with variant(*VARIANTS[name]):
        ended = relax(below.batch, below.potential, fmax=fmax, max_steps=MAX_STEPS)
    steps = ended.n_steps.cpu().numpy()
    return {
        "fmax": fmax,
        "steps_mean": float(steps.mean()),
        "steps_median": float(np.median(steps)),
        "steps_90": float(np.quantile(steps, 0.9)),
    } | below.above(ended.batch)


def markdown(result: dict[str, Any]) -> str:
    """A table for each model, a row for each variant and fmax."""
    lines = ["Made by `python benchmarks/relaxation_steps.py` from the JSON beside it."]
    for name, about in result["models"].items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{in_words(about['environment'])}; {about['conformers']} conformers; started 0.001 Å "
            f"off, {about['yardstick']:.1%} come to the same minimum.",
            "",
            "| variant | fmax, eV/Å | steps: mean | median | 90 % | left, kcal/mol: median | mean "
            "| same minimum |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for r in (row for row in result["rows"] if row["model"] == name):
            cells = [
                r["row"], f"{r['fmax']:g}", f"{r['steps_mean']:.1f}", f"{r['steps_median']:.0f}",
                f"{r['steps_90']:.0f}", f"{r['left_median']:.2f}", f"{r['left_mean']:.2f}",
                f"{r['same_bottom']:.1%}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "relaxation_steps.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="default,small")
    parser.add_argument("--conformers", type=int, default=128)
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by semicolons")
    parser.add_argument("--minutes", type=float, default=5.0, help="no row begins later")
    parser.add_argument("--add", action="store_true", help="to what the file has of other models")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only the tables of it")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, markdown)
        return
    clock, models = Clock(arguments.minutes), arguments.models.split(",")
    results = Results(arguments.out, {"models": {}})
    if arguments.add:
        kept = json.loads(arguments.out.read_text(encoding="utf-8"))
        kept["rows"] = [row for row in kept["rows"] if row["model"] not in models]
        results.content |= kept
    for model in models:
        potential = load_potential(model, device=arguments.device, precision="float32")
        below = Below(potential, arguments.conformers)
        results.content["models"][model] = {
            "environment": environment(torch.device(arguments.device)),
            "conformers": arguments.conformers,
            "yardstick": below.yardstick,
        }
        for name in arguments.variants.split(";"):
            for fmax in FMAX:
                if clock.left():
                    results.add({"model": model, "row": name} | row_of(name, fmax, below))
    results.finish(markdown)


if __name__ == "__main__":
    main()
