"""A distillation, step by step: in this process, or as the Prefect flow of distill.py.

Each step leaves a file and is finished once the file is there, so a run that was cut off is simply
run again. Sampling, labelling and training are one step, a training stage: they share the GPU.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, Protocol

from flows.call import DistillCall
from mlff_core.cores import usable_cores
from mlff_core.distill.growth import grown
from mlff_core.distill.recipe import read_recipe
from mlff_core.distill.steps import claim
from mlff_core.distill.teacher import ENSEMBLE_FILE, Teacher, default_cache
from mlff_core.distill.training_log import read_training_log
from mlff_core.errors import DeviceError
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import choose_device
from mlff_core.models.reference import find_model
from tasks.distill import average, choose, evaluate, make_test, package, train_stage

P = ParamSpec("P")


class AsStep(Protocol):
    """Makes of a step what runs it, such as a task of Prefect."""

    def __call__(self, step: Callable[P, Path], /) -> Callable[P, Path]: ...


def as_it_is(step: Callable[P, Path], /) -> Callable[P, Path]:
    """A step that is a call, and nothing more."""
    return step


def run_distill(
    call: DistillCall, as_step: AsStep, tell: Callable[[str], None]
) -> tuple[Path, Path]:
    """Teach a PaiNN what a large potential knows.

    Args:
        call: What is asked.
        as_step: Makes of each step what runs it.
        tell: Is told of stages that have ended.

    Returns:
        The packaged weights, and what the test said of them.

    Raises:
        MlffError: What the call names cannot be used.
    """
    recipe = read_recipe(Path(call.recipe))
    teacher_sha256 = check(call, recipe.student)
    folder, kind = Path(call.out), choose_device(call.device).type
    teacher, kept = teacher_file(call.teacher), claim(folder, recipe)
    molecules = as_step(choose)(call.table, kept, usable_cores())
    test = as_step(make_test)(molecules, teacher, kind, kept)
    weights = None if call.start == "none" else find_model(call.start)
    finished: list[Path] = []
    n_stages = call.stages or recipe.stage.n_stages
    for number in range(1, n_stages + 1):
        weights = as_step(train_stage)(
            number, molecules, test, teacher, kind, kept, weights, call.gpus
        )
        finished.append(weights)
        tell(f"stage {number} of {n_stages}: {weights}")
    weights = as_step(average)(finished[-recipe.stage.averaged_stages :])
    metrics = as_step(evaluate)(weights, test, kind)
    return as_step(package)(weights, metrics, molecules, teacher_sha256, kept), metrics


def teacher_file(teacher: str) -> Path:
    """Path of the teacher's file."""
    return default_cache() / ENSEMBLE_FILE if teacher == "auto" else Path(teacher)


def check(call: DistillCall, student: PaiNNConfig) -> str:
    """Refuse what cannot work, before anything is done; returns the teacher's sha256.

    Raises:
        MlffError: The teacher is missing or damaged, there are no weights to start from, theirs is
            no shape that grows into the student's, or there is no such device.
    """
    if call.gpus > 1:
        import torch

        if call.device == "cpu" or torch.cuda.device_count() < call.gpus:
            raise DeviceError(f"gpus: {call.gpus} asked for, {torch.cuda.device_count()} to be had")
    choose_device(call.device)
    if call.start != "none":
        grown(read_checkpoint(find_model(call.start))[0], student)
    return Teacher.check(teacher_file(call.teacher))


def report(packaged: Path) -> str:
    """What the run came to, in Markdown: how good the student is, and all that was left out."""
    card = json.loads(packaged.with_suffix(".json").read_text(encoding="utf-8"))
    metrics, stages, molecules = card["metrics"], read_training_log(packaged), card["molecules"]
    rows = [("all", metrics["all"]), *metrics["by_kind"].items()]
    rows += [(f"charge {q}", errors) for q, errors in metrics["by_charge"].items()]
    lines = [
        f"# Student: {card['name']}",
        "",
        f"{molecules['chosen']:,} molecules, {molecules['held_out']:,} of them held out; left out: "
        + counted(molecules["left_out"]),
        "",
        "| held-out geometries | number | force MAE, meV/Å | force RMSE, meV/Å "
        "| energy MAE within a molecule, kcal/mol |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {e['n_geometries']:,.0f} | {e['force_mae']:.1f} | {e['force_rmse']:.1f} "
            f"| {e['energy_mae']:.2f} |"
            for name, e in rows
        ),
        "",
        "of the test: " + counted(metrics["test"]),
        "",
        "| stage | seconds | samples | molecules embedded | not embedded | labels |",
        "|---:|---:|---:|---:|---|---|",
        *(
            f"| {number} | {stage['seconds']:.0f} | {stage['samples']:,} "
            f"| {stage['molecules_embedded']:,} | {counted(stage.get('embedding_failed', {}))} "
            f"| {counted(stage.get('labelling', {}))} |"
            for number, stage in enumerate(stages, 1)
        ),
    ]
    return "\n".join(lines) + "\n"


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()) or "none"
