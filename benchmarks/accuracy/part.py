"""A part of the results: one measurement, where it was made, and the file that it joins."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import environment
from mlff_core.models.potential import Potential

Part = dict[str, Any]

_BEGAN = time.monotonic()


def add_part(file: Path, name: str, part: Part, student: Potential) -> None:
    """Put a part into a file, which holds nothing about other weights."""
    results = json.loads(file.read_text()) if file.exists() else {}
    if results.get("model_sha256") != student.sha256:
        results = {"model": student.name, "model_sha256": student.sha256}
    results[name] = part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(without_nan(results), indent=1, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """None in place of what is not a number, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def setting(student: Potential) -> Part:
    """On what a part was measured, and how long it took."""
    of_cpu = {} if student.device.type == "cuda" else {"device": "CPU"}
    return {
        **environment(student.device),
        **of_cpu,
        "backend": student.backend,
        "seconds": round(time.monotonic() - _BEGAN, 1),
    }


def log(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)
