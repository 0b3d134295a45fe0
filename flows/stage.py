"""One step that every shard takes, and how it is run."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlff_core.shard import StepReport

log = logging.getLogger(__name__)

#: Stages of a run as the manifest times them, in words.
STAGES = {
    "total": "whole run",
    "embed": "embedding",
    "relax": "relaxation",
    "thermo": "thermochemistry",
    "solvate": "solvation",
    "rescore": "the teacher",
    "charges": "charges",
    "write": "tables",
}


@dataclass(frozen=True)
class Stage:
    """One step that every shard takes.

    Attributes:
        name: As it is shown.
        run: A task: takes the number of a shard and the arguments.
        arguments: References, by name.
        width: Shards that may be in it at once.
        retries: How often it is tried again. That is for what passes, such as a full disk; bad
            molecules are rows, not exceptions.
        retry_delay_s: How long after.
    """

    name: str
    run: Callable[..., StepReport]
    arguments: Mapping[str, object]
    width: int = 1
    retries: int = 1
    retry_delay_s: float = 2.0


def run_stage(stage: Stage, shard: int) -> StepReport:
    """Run a stage here, and try again what failed."""
    for attempt in range(stage.retries + 1):
        try:
            return stage.run(shard, **stage.arguments)
        except Exception as error:
            if attempt == stage.retries:
                raise
            log.warning("%s of shard %d is tried again: %s", stage.name, shard, error)
            time.sleep(stage.retry_delay_s)
    raise AssertionError("the last try returns or raises")
