"""The training log: what led to a checkpoint, beside it as NAME.training.json.

The model card is read at each start of a screen and stays short; the log of all legs, with their
settings and learning curves, is for those who train on or ask how a model was made.
"""

import json
from pathlib import Path
from typing import Any

from mlff_core.errors import ModelFileError
from mlff_core.store import write_whole

SUFFIX = ".training.json"


def write_training_log(tensors_file: Path, legs: list[dict[str, Any]]) -> None:
    """Write the legs of training that led to NAME.safetensors, in order, beside it."""
    text = json.dumps(legs, indent=2, ensure_ascii=False)
    write_whole(tensors_file.with_suffix(SUFFIX), f"{text}\n".encode())


def read_training_log(tensors_file: Path) -> list[dict[str, Any]]:
    """The legs of training that led to NAME.safetensors, in order; none where there is no log.

    Raises:
        ModelFileError: The log is damaged.
    """
    file = tensors_file.with_suffix(SUFFIX)
    try:
        legs = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{file}: not a training log: {error}") from error
    if not isinstance(legs, list) or not all(isinstance(leg, dict) for leg in legs):
        raise ModelFileError(f"{file}: not a training log: expected a list of objects")
    return legs
