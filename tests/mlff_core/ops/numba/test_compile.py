"""Loops that are compiled once a host: whether that was done is known before they are called."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numba import config

from mlff_core.ops.numba.compile import lies_compiled

LOOP = """
from numba import prange
from mlff_core.ops.numba.compile import kernel

@kernel()
def double(x):
    for k in prange(len(x)):
        x[k] *= 2.0
"""


def test_a_kernel_lies_compiled_after_its_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "loop.py"
    file.write_text(LOOP)
    spec = importlib.util.spec_from_file_location("loop", file)
    assert spec is not None
    assert spec.loader is not None
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    assert not lies_compiled(loop.double)
    x = np.array([1.0, 2.5])
    loop.double.serial(x)
    assert x.tolist() == [2.0, 5.0]
    assert lies_compiled(loop.double)
