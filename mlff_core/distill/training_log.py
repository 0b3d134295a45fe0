"""The training log: what led to a checkpoint, beside it as NAME.training.json.

The model card is read at each start of a screen and stays short; the log of all stages, with their
settings and learning curves, is for those who train on or ask how a model was made.
"""

import json
from pathlib import Path
from typing import Any

from mlff_core.errors import ModelFileError
from mlff_core.store import write_whole

SUFFIX = ".training.json"


def write_training_log(tensors_file: Path, stages: list[dict[str, Any]]) -> None:
    """Write the stages of training that led to NAME.safetensors, in order, beside it."""
    text = json.dumps(stages, indent=2, ensure_ascii=False)
    write_whole(tensors_file.with_suffix(SUFFIX), f"{text}\n".encode())


def read_training_log(tensors_file: Path) -> list[dict[str, Any]]:
    """The stages of training that led to NAME.safetensors, in order; none where there is no log.

    Raises:
        ModelFileError: The log is damaged.
    """
    file = tensors_file.with_suffix(SUFFIX)
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{file}: not a training log: {error}") from error
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ModelFileError(f"{file}: not a training log: expected a list of objects")
    return stages
