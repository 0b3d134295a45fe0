"""Kernels are compiled beforehand: each by one process, and nothing is launched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

#: Compiles for a card that is not there. What is compiled tells its name, once a process.
SCRIPT = """
import sys
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mlff_core.ops.triton.compiling import compiling_only
from mlff_core.ops.triton.fill import fill, fill_kernel


class NoCard:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(NoCard())
run = type(fill_kernel).run
batch = [torch.ones(4, dtype=torch.int64), torch.ones(4, 3), torch.ones(4, dtype=torch.int64),
         torch.tensor([0, 4]), torch.ones(1, dtype=torch.int64)]
buffers = [torch.zeros_like(t) for t in batch]
with compiling_only(Path(sys.argv[1])):
    fill(buffers, batch)
    fill([t.double() if t.is_floating_point() else t for t in buffers],
         [t.double() if t.is_floating_point() else t for t in batch])
assert type(fill_kernel).run is run
assert not any(t.any() for t in buffers), "it was launched"
"""


def test_processes_that_share_claims_compile_each_kernel_once_and_launch_none(
    tmp_path: Path,
) -> None:
    claims = tmp_path / "claims"
    claims.mkdir()

    def compiled(cache: str) -> int:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
            "TRITON_CACHE_DIR": str(tmp_path / cache),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(claims)],
            env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return len(list((tmp_path / cache).rglob("*.cubin")))

    # Single and double precision are two kernels; the second process finds both begun.
    assert compiled("first") == 2
    assert compiled("second") == 0
    for claim in claims.iterdir():
        claim.unlink()
    assert compiled("third") == 2


def test_a_kernel_is_found_on_disk_whatever_was_launched_first() -> None:
    def key(before: str) -> str:
        code = (
            "from mlff_core.ops.triton import engine;"
            "from mlff_core.ops.triton.linear import linear_kernel;"
            "from mlff_core.ops.triton.update import update_hidden_kernel;"
            f"{before}; print(linear_kernel.cache_key)"
        )
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert len(first := key("pass")) > 60
    assert first == key("update_hidden_kernel.cache_key")
