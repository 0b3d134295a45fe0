"""The tasks of a distillation: one step each, from files to a file; see mlff_core.distill.steps.

They take paths and words; what these name is opened where it is used.
"""

from functools import partial
from pathlib import Path

from mlff_core.distill import steps
from mlff_core.distill.recipe import read_recipe
from mlff_core.distill.teacher import Teacher


def choose(table: str, recipe: Path, n_processes: int) -> Path:
    """Choose the molecules and split them; the recipe lies in the folder of all files."""
    return steps.choose(table, read_recipe(recipe), recipe.parent, n_processes=n_processes)


def make_test(molecules: Path, teacher: Path, device: str, recipe: Path) -> Path:
    """Sample and label held-out molecules."""
    return steps.make_test(molecules, partial(Teacher, teacher), device, read_recipe(recipe))


def train_stage(
    number: int,
    molecules: Path,
    test: Path,
    teacher: Path,
    device: str,
    recipe: Path,
    start: Path | None,
    gpus: int,
) -> Path:
    """Sample, label and train, side by side; tried again, it goes on from what it left."""
    opened, choices = partial(Teacher, teacher), read_recipe(recipe)
    return steps.train_stage(number, molecules, test, opened, device, choices, start, gpus=gpus)


def average(stages: list[Path]) -> Path:
    """Take the mean of the last stages' weights."""
    return steps.average(stages)


def evaluate(weights: Path, test: Path, device: str) -> Path:
    """Compare the student with its teacher on the test."""
    return steps.evaluate(weights, test, device)


def package(
    weights: Path, metrics: Path, molecules: Path, teacher_sha256: str, recipe: Path
) -> Path:
    """Write the weights as they are shipped."""
    return steps.package(weights, metrics, molecules, teacher_sha256, read_recipe(recipe))
