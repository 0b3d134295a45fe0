"""The tasks of a distillation: one step each, from files to a file; see mlff_core.distill.steps."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from mlff_core.distill import steps
from mlff_core.distill.recipe import Recipe


@task(cache_policy=NO_CACHE, persist_result=False)
def choose(table: str, recipe: Recipe, folder: Path, n_processes: int) -> Path:
    """Choose the molecules and split them."""
    return steps.choose(table, recipe, folder, n_processes=n_processes)


@task(cache_policy=NO_CACHE, persist_result=False)
def make_test(
    molecules: Path, open_teacher: steps.OpenTeacher, device: str, recipe: Recipe
) -> Path:
    """Sample and label held-out molecules."""
    return steps.make_test(molecules, open_teacher, device, recipe)


@task(
    task_run_name="leg-{number}",
    retries=1,
    retry_delay_seconds=2,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def train_leg(
    number: int,
    molecules: Path,
    test: Path,
    open_teacher: steps.OpenTeacher,
    device: str,
    recipe: Recipe,
    start: Path | None,
    gpus: int,
) -> Path:
    """Sample, label and train, side by side; tried again, it goes on from what it left."""
    return steps.train_leg(number, molecules, test, open_teacher, device, recipe, start, gpus=gpus)


@task(cache_policy=NO_CACHE, persist_result=False)
def average(legs: list[Path]) -> Path:
    """Take the mean of the last legs' weights."""
    return steps.average(legs)


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate(weights: Path, test: Path, device: str) -> Path:
    """Compare the student with its teacher on the test."""
    return steps.evaluate(weights, test, device)


@task(cache_policy=NO_CACHE, persist_result=False)
def package(
    weights: Path, metrics: Path, molecules: Path, teacher_sha256: str, recipe: Recipe
) -> Path:
    """Write the weights as they are shipped."""
    return steps.package(weights, metrics, molecules, teacher_sha256, recipe)
