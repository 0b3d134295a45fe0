"""What the width of a student with charges buys: error against time, from legs of equal samples.

    python benchmarks/student_widths.py --teacher FILE --table HARD.parquet

All start from the shipped small model less its charges, grown to each of --widths with charges that
tell the network of the total (`datasets/recipes/charges.toml`), and learn the same labels in turns,
so that whenever the script is cut off all have seen as much. FILE of --teacher is what
datasets/fetch_teacher.py prints, HARD.parquet what datasets/make_hard.py chooses; what its
connectivity holds out is tested, and so are protonation states of these molecules, half of them
with groups of both signs. Their time is that of 1,024 molecules, by the engine where it takes the
width (a power of two), and by plain PyTorch. --labels names a folder of labels to learn from
instead, files of `torch.save` with the arguments of `LabelPool.add`.
"""

import argparse
import copy
import json
import logging
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _harness import RESULTS, ROOT, WARM_UP, Molecules, Results, environment, fresh, render
from charge_cost import cost
from student_charges import Test, labelled, learn, tables

from mlff_core.cores import usable_cores
from mlff_core.distill.growth import grown
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.recipe import read_recipe
from mlff_core.distill.steps import embed_all
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.training import Trainer
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, choose_device, load_potential
from mlff_core.models.reference import find_model
from mlff_core.testing import without_charges

#: Molecules whose time is taken.
AT_ONCE = 1024
#: How often.
ROUNDS = 15
#: Share of a leg over which the total charge fades from what is added to every atom.
FADES = 0.4

#: What a file of labels has: the arguments of `LabelPool.add`.
LABELS = ("numbers", "charge", "positions", "energy", "forces", "valid", "charges")

log = logging.getLogger("student_widths")


def read_labels(folder: Path, capacity: int, device: torch.device) -> LabelPool:
    """The labels of a folder's files, in the order of their names, up to so many molecules."""
    pool: LabelPool | None = None
    for file in sorted(folder.glob("*.pt")):
        part = torch.load(file, map_location=device, mmap=True, weights_only=True)
        if pool is None:
            pool = LabelPool(capacity, part["valid"].shape[1], 96, device, with_charges=True)
        left = capacity - pool.n_stored
        if left <= 0:
            break
        pool.add(**{name: part[name][:left] for name in LABELS})
    if pool is None:
        raise SystemExit(f"{folder}: no labels (*.pt) there")
    return pool


def times(network: PaiNN, device: torch.device, molecules: Molecules) -> dict[str, float]:
    """µs a molecule of 1,024, by the engine where it takes this width and by plain PyTorch."""
    n_features = network.config.n_features
    ways = {"plain": "plain"}
    if device.type == "cuda" and n_features & (n_features - 1) == 0:
        ways["engine"] = "triton"
    batch, found = molecules.batch(AT_ONCE), {}
    for name, backend in ways.items():
        # A copy: a potential's weights learn no more.
        potential = Potential(copy.deepcopy(network), device=device, backend=backend)
        inputs = fresh(batch)
        took = [
            cost(potential, batch.with_positions(next(inputs)), device)
            for _ in range(WARM_UP + ROUNDS)
        ]
        found[f"{name}_us"] = statistics.median(took[WARM_UP:]) / batch.n_mols
    return found


def markdown(content: dict[str, Any]) -> str:
    """Each width at its end."""
    last = max(row.get("round", 0) for row in content["rows"])
    lines = [
        "| features | weights | engine, µs each | plain, µs each | ms a step | forces, neutral "
        "| charged | within a molecule | other states, median / 90 % | both signs, several "
        "| charges | dipole |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["rows"]:
        if row.get("round", last) != last:
            continue
        other = row["other protonation states"]
        both = row.get("groups of both signs, more", {}).get("between")
        cells = [
            row["name"],
            f"{row['weights']:,}",
            f"{row['engine_us']:.1f}" if "engine_us" in row else "",
            f"{row['plain_us']:.1f}" if "plain_us" in row else "",
            f"{row['ms_a_step']:.1f}" if "ms_a_step" in row else "",
            *(f"{row[k]['force_mae']:.1f} / {row[k]['force_rmse']:.0f}"
              for k in ("neutral", "charged")),
            " / ".join(f"{row[k]['energy_mae']:.2f}" for k in ("neutral", "charged")),
            f"{other['between']['median']:.1f} / {other['between']['90_percent']:.1f}",
            f"{both['median']:.1f} / {both['90_percent']:.1f}" if both else "",
            f"{other['charge_mae_e']:.4f}" if "charge_mae_e" in other else "",
            f"{other['dipole_mae_debye']:.2f}" if "dipole_mae_debye" in other else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    samples = max(row["samples"] for row in content["rows"])
    return "\n".join(
        [
            f"{samples:,} samples each of labels of {content['molecules']:,} molecules, batches of "
            f"{content['batch']}, one {content['device'].removeprefix('NVIDIA ')}, commit "
            f"{content['commit'][:7]}. Time: {AT_ONCE:,} molecules at once; the engine takes "
            "powers of two. Held-out molecules: forces MAE / RMSE in meV/Å; energies within a "
            "molecule (neutral / charged) and between molecules (median / 90 %) in kcal/mol; "
            "charges in e and dipoles in D of other protonation states.",
            "",
            *lines,
        ]
    )


def draw(content: dict[str, Any], file: Path) -> None:
    """Errors of forces against time, for the engine and for plain PyTorch."""
    from matplotlib.figure import Figure

    last = max(row.get("round", 0) for row in content["rows"])
    rows = [row for row in content["rows"] if row.get("round") == last]
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, way in zip(panels, ("engine", "plain"), strict=True):
        timed = [row for row in rows if f"{way}_us" in row]
        for kind, marker in (("neutral", "o"), ("charged", "s")):
            x = [row[f"{way}_us"] for row in timed]
            y = [row[kind]["force_mae"] for row in timed]
            axes.plot(x, y, marker=marker, label=kind)
            for row, a, b in zip(timed, x, y, strict=True):
                axes.annotate(
                    row["name"], (a, b), textcoords="offset points", xytext=(5, 5), fontsize=8
                )
        axes.set_xlabel("µs a molecule")
        axes.set_ylabel("forces, MAE, meV/Å")
        axes.set_title("engine" if way == "engine" else "plain PyTorch")
        axes.margins(0.15)
        if timed:
            axes.legend(loc="center right")
    figure.savefig(file, dpi=150)


def main(words: list[str] | None = None) -> None:
    """The command line."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--render", action="store_true", help="only the table and plot of --out")
    for name in ("teacher", "table", "labels"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "student_widths.json")
    parser.add_argument("--weights", type=Path, help="folder for the weights of each width")
    parser.add_argument("--recipe", type=Path, default=ROOT / "datasets/recipes/charges.toml")
    parser.add_argument("--widths", nargs="*", type=int, default=[128, 192, 256])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=350.0, help="for everything")
    parser.add_argument("--n-molecules", type=int, default=10000)
    parser.add_argument("--n-test", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=7e-4, help="of 256 features")
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--batch", type=int, default=256, help="geometries")
    parser.add_argument("--wait-for", type=Path, help="a file without which no leg begins")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args(words)
    if arguments.render:
        finish(arguments.out)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    seed, device = arguments.seed, choose_device(arguments.device)
    recipe = read_recipe(arguments.recipe)
    training = replace(
        recipe.training, compile=False, warmup_steps=100, final_rate=0.0, total_fades=FADES,
        n_mols=arguments.batch, ema_decay=arguments.ema_decay,
    )  # fmt: skip
    known, tested, n_given = tables(arguments, recipe, both_signs=True)
    with ThreadPoolExecutor(1) as beside:
        embedding = beside.submit(
            lambda: [embed_all(s, n, seed, usable_cores())[0] for s, n in ((tested, 1), (known, 2))]
        )
        teacher = Teacher(arguments.teacher, device)
        held_out, molecules = embedding.result()
    torch.manual_seed(seed)
    test = Test(held_out, tested, n_given, teacher, recipe, seed)
    log.info("%d to test after %.0f s", len(held_out), time.monotonic() - began)
    shipped = without_charges(read_checkpoint(find_model("small"))[0])
    charged = {"charges_after": 2, "charge_feedback": True, "coulomb": True}
    networks = {
        width: grown(shipped, replace(shipped.config, n_features=width, **charged), seed=seed)
        for width in arguments.widths
    }
    timed = Molecules(device)
    took_us = {width: times(network, device, timed) for width, network in networks.items()}
    log.info("%s", took_us)
    while arguments.wait_for is not None and not arguments.wait_for.exists():
        time.sleep(0.5)
    began = time.monotonic()
    if arguments.labels is not None:
        pool = read_labels(arguments.labels, arguments.n_molecules, device)
    else:
        driver = load_potential("small", device=device, precision="float32")
        pool = labelled(molecules, teacher, driver, recipe, seed)
    log.info("%d molecules with labels after %.0f s", pool.n_stored, time.monotonic() - began)
    about = {
        "molecules": pool.n_stored,
        "learning_rate": arguments.learning_rate,
        "ema_decay": arguments.ema_decay,
        "batch": arguments.batch,
    }
    results = Results(arguments.out, environment(device) | about)
    trainers: dict[int, Trainer] = {}
    for width, network in networks.items():
        # Narrower students bear a higher rate (student.toml).
        rate = arguments.learning_rate * (256 / width)
        trainer = Trainer(network, pool, replace(training, learning_rate=rate))
        trainer.size_batches()
        torch.manual_seed(seed)
        if pool.energy.is_cuda:
            trainer.capture()
            torch.cuda.synchronize()
        trainers[width] = trainer
    n_done = 20 if pool.energy.is_cuda else 1
    step_s = {width: learn(t, 0, n_done, 10**6) / n_done for width, t in trainers.items()}
    left = arguments.seconds - (time.monotonic() - began) - 10.0
    a_round = max(1, int(left / sum(step_s.values()) / arguments.rounds))
    total = n_done + a_round * arguments.rounds
    log.info("%d steps each, s a step: %s", total, step_s)
    for number in range(1, arguments.rounds + 1):
        took = {width: learn(t, n_done, a_round, total) for width, t in trainers.items()}
        n_done += a_round
        for width, trainer in trainers.items():
            row: dict[str, Any] = {
                "name": str(width), "round": number, "samples": n_done * arguments.batch,
                "weights": sum(p.numel() for p in trainer.student.parameters()),
                "start_left_in_mean": trainer.start_left, **took_us[width],
                "ms_a_step": 1e3 * took[width] / a_round, **trainer.metrics.read(),
            }  # fmt: skip
            if number == arguments.rounds:
                row |= test.errors(trainer.averaged, device)
            results.add(row)
            if arguments.weights and number == arguments.rounds:
                save_checkpoint(trainer.averaged, arguments.weights / f"{width}.safetensors", {})
        log.info("round %d after %.0f s", number, time.monotonic() - began)
    finish(arguments.out)


def finish(out: Path) -> None:
    """The table and the plot beside the JSON."""
    render(out, markdown)
    draw(json.loads(out.read_text(encoding="utf-8")), out.with_suffix(".png"))


if __name__ == "__main__":
    main()
