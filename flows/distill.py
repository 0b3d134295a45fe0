"""The flow `distill`: a SMILES table and a teacher -> a trained student, packaged to be shipped.

The steps are those of student.py. What Prefect adds is here: a form, task runs, a page to watch.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from flows.call import DistillCall, takes
from flows.reach import check_reach_of_distill
from flows.student import report, run_distill
from tasks.distill import train_stage


@flow(name="distill", persist_result=False)
@takes(DistillCall)
def distill(**parameters: Any) -> dict[str, Any]:
    """Teach a PaiNN what a large potential knows.

    1. Choose the molecules, and hold some out by their connectivity.
    2. Sample and label the held-out ones: the test.
    3. For each stage: sample, label and train side by side, from where the last stage ended.
    4. Average the weights of the last stages, as many as the recipe says.
    5. Evaluate that student on the test.
    6. Package it, with its card.
    """
    log, call = get_run_logger(), DistillCall(**parameters)
    if deployment.id is not None:  # asked for on a form, or by whoever reaches the server
        check_reach_of_distill(call)
    packaged, metrics = run_distill(call, as_task_run, log.info)
    create_markdown_artifact(report(packaged), key="distill-summary")
    return {"weights": str(packaged), "metrics": str(metrics)}


@cache
def as_task_run(step: Callable[..., Path]) -> Callable[..., Path]:
    """A step as a Prefect task; a stage that is tried again goes on from what it left."""
    # Finished work is found by looking at the disk, so Prefect need not remember any result.
    if step is train_stage:
        return task(
            task_run_name="stage-{number}", retries=1, retry_delay_seconds=2,
            cache_policy=NO_CACHE, persist_result=False,
        )(step)  # fmt: skip
    return task(cache_policy=NO_CACHE, persist_result=False)(step)
