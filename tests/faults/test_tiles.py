"""What a search for tiles may come to: minutes of the compiler, so not in the suite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/mlff_core/ops/triton/run_compiled.py"


@pytest.mark.timeout(2000)
def test_every_tile_to_be_tried_compiles(tmp_path: Path) -> None:
    # A choice that only one of float32 and fast could compile has made the other fail.
    pytest.importorskip("triton")
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("TRITON_INTERPRET", None)
    out = tmp_path / "out.json"
    subprocess.run([sys.executable, str(SCRIPT), "90", "candidates", str(out)], env=environment,
                   check=True, timeout=1900)  # fmt: skip
    assert json.loads(out.read_text(encoding="utf-8")) == []
