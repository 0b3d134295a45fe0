"""What another shape of the student would bring: each learns for as long from the same labels.

    python benchmarks/student_shapes.py --teacher FILE --molecules FILE --held-out FILE [--out FILE]

All start from the shipped weights, grown into their shape so that they compute the same at first,
and learn for --seconds with a rate that goes to zero. FILE of --teacher is what
datasets/fetch_teacher.py prints; the other two are Parquet tables with a column `smiles`: molecules
to learn from, and others.
"""

import argparse
import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from _harness import RESULTS, ROOT, Results, environment

from mlff_core.cores import usable_cores
from mlff_core.distill import evaluation
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.evaluation import TestBlock, make_test_blocks
from mlff_core.distill.growth import grown
from mlff_core.distill.labelling import Buckets, fill, pad
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.recipe import Recipe, read_recipe
from mlff_core.distill.sampling import KINDS
from mlff_core.distill.steps import embed_all, summary
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.training import Trainer
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, choose_device
from mlff_core.models.reference import find_model

#: What differs from the recipe, in the student's shape and in its training.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "4 blocks": ({"n_interactions": 4}, {}),
    "6 blocks": ({"n_interactions": 6}, {}),
    "256 features": ({"n_features": 256}, {}),
    "40 radial functions": ({"n_rbf": 40}, {}),
    "batches twice as large": ({}, {"n_mols": 2, "learning_rate": 2**0.5}),
}

log = logging.getLogger("student_shapes")


def embedded(file: Path, n_molecules: int, seed: int) -> list[Embedded]:
    """Two conformers each of the first molecules of a table."""
    smiles = pq.read_table(file, columns=["smiles"])["smiles"].to_pylist()[:n_molecules]
    return embed_all(smiles, 2, seed, usable_cores())[0]


def labelled(
    molecules: list[Embedded], teacher: Teacher, student: Potential, recipe: Recipe
) -> LabelPool:
    """The teacher's labels of where the student goes."""
    buckets = Buckets(recipe.labels.atoms_a_call, 2)
    buckets.add(molecules)
    pool = LabelPool(len(molecules), 2 * len(KINDS), max(buckets.sizes), teacher.device)
    counts: Counter[str] = Counter()
    driver = evaluation.driver_of(student)
    while (taken := buckets.take(partial=True)) is not None:
        width, chunk = taken
        padded = pad(chunk, width, teacher.device)
        fill(pool, teacher, driver, padded, recipe.sampling, recipe.labels, counts)
    log.info("%s", dict(counts))
    return pool


def learn(
    network: PaiNN, pool: LabelPool, recipe: Recipe, changes: dict[str, Any], seconds: float
) -> tuple[PaiNN, int]:
    """The averaged weights after so many seconds, and how many samples they saw."""
    training = recipe.training
    scaled = {name: getattr(training, name) * factor for name, factor in changes.items()}
    trainer = Trainer(network, pool, replace(training, n_atoms=0, n_edges=0, **scaled))
    trainer.size_batches()
    if pool.energy.is_cuda:
        trainer.capture()
        torch.cuda.synchronize()
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        for _ in range(50 if pool.energy.is_cuda else 1):
            trainer.step(elapsed / seconds)
        if pool.energy.is_cuda:
            torch.cuda.synchronize()
    return trainer.averaged, trainer.step_count * trainer.config.n_mols


def errors(network: PaiNN, blocks: list[TestBlock], device: torch.device) -> dict[str, float]:
    """Headline errors on the test."""
    potential = Potential(network, device=device, backend="auto")
    return dict(summary(blocks, evaluation.on_padded(potential))["all"])


def markdown(content: dict[str, Any]) -> str:
    """The table of the results."""
    lines = [
        f"`benchmarks/student_shapes.py` on one {content['device']}, torch {content['torch']}, "
        f"commit {content['commit'][:7]}, {content['date']}: each learns for "
        f"{content['seconds']:.0f} s from the labels of {content['molecules']:,} molecules.",
        "",
        "| | samples | force MAE, meV/Å | force RMSE, meV/Å | energy MAE in a molecule, kcal/mol |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['name']} | {row['samples']:,} | {row['force_mae']:.1f} | {row['force_rmse']:.1f} "
        f"| {row['energy_mae']:.2f} |"
        for row in content["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("teacher", "molecules", "held-out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "student_shapes.json")
    parser.add_argument("--recipe", type=Path, default=ROOT / "datasets/recipes/student.toml")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--n-molecules", type=int, default=12000)
    parser.add_argument("--n-test", type=int, default=800)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(arguments.seed)
    recipe = read_recipe(arguments.recipe)
    device = choose_device(arguments.device)
    teacher = Teacher(arguments.teacher, device)
    shipped = read_checkpoint(find_model("default"))[0]
    student = Potential(read_checkpoint(find_model("default"))[0], device=device, backend="auto")
    held_out = embedded(arguments.held_out, arguments.n_test, arguments.seed)
    blocks = make_test_blocks(
        teacher, held_out, recipe.sampling, recipe.labels, Counter(), seed=arguments.seed
    )
    pool = labelled(
        embedded(arguments.molecules, arguments.n_molecules, arguments.seed),
        teacher, student, recipe,
    )  # fmt: skip
    about = {"molecules": pool.n_stored, "seconds": arguments.seconds}
    results = Results(arguments.out, environment(device) | about)
    results.add({"name": "before", "samples": 0, **errors(shipped, blocks, device)})
    for name, (shape, changes) in VARIANTS.items():
        network = grown(shipped, replace(shipped.config, **shape), seed=arguments.seed)
        averaged, samples = learn(network, pool, recipe, changes, arguments.seconds)
        results.add({"name": name, "samples": samples, **errors(averaged, blocks, device)})
    results.finish(markdown)


if __name__ == "__main__":
    main()
