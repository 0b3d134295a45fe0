"""Choosing the Triton engine, and the capacities of its graphs."""

import logging

import pytest

from mlff_core.errors import DeviceError
from mlff_core.models.potential import Potential
from mlff_core.ops.triton.engine import rung
from mlff_core.testing import random_model


def test_a_rung_holds_its_number_and_wastes_little():
    for n in range(1, 5000):
        assert n <= rung(n) <= max((1.1 if n > 256 else 1.25) * n + 4, 4)
    assert len({rung(n) for n in range(1, 32769)}) < 96


def test_the_kernels_refuse_a_cpu_and_say_what_would_do():
    with pytest.raises(DeviceError, match="expected a CUDA device, found cpu"):
        Potential(random_model(), device="cpu", backend="triton")


def test_the_kernels_refuse_a_width_that_they_do_not_have():
    with pytest.raises(DeviceError, match="power of two of at least 32, found 48"):
        Potential(random_model(n_features=48), device="cpu", backend="triton")


def test_auto_takes_numba_on_a_cpu_and_says_so(caplog):
    with caplog.at_level(logging.INFO):
        assert Potential(random_model(), device="cpu", backend="auto").backend == "numba"
    assert "backend: numba" in caplog.text
