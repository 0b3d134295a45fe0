"""Loops that are compiled once a host: whether that was done is known before they are called."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba import config
from numba.core.caching import CacheImpl

from mlff_core.ops.numba.compile import lies_compiled

LOOP = """
from numba import prange
from mlff_core.ops.numba.compile import kernel

@kernel()
def double(x):
    for k in prange(len(x)):
        x[k] *= 2.0
"""


def load(folder: Path) -> ModuleType:
    file = folder / "loop.py"
    file.write_text(LOOP)
    spec = importlib.util.spec_from_file_location("loop", file)
    assert spec is not None
    assert spec.loader is not None
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    return loop


def test_a_kernel_works_where_no_folder_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])  # as of a root's install, without a home
    loop = load(tmp_path)
    x = np.array([1.0, 2.5])
    loop.double.serial(x)
    assert x.tolist() == [2.0, 5.0]
    assert not lies_compiled(loop.double)


def test_a_kernel_lies_compiled_after_its_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    loop = load(tmp_path)
    assert not lies_compiled(loop.double)
    x = np.array([1.0, 2.5])
    loop.double.serial(x)
    assert x.tolist() == [2.0, 5.0]
    assert lies_compiled(loop.double)
