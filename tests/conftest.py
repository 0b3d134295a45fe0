"""Fixtures that several packages' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before Prefect is imported: its settings are read once.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, narrow, so that whole runs take seconds."""
    from mlff_core.potential import save_checkpoint
    from mlff_core.testing import random_model

    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    save_checkpoint(random_model(n_features=16), path, {})
    return path


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A throw-away Prefect server for the session; asked for only by tests that run a flow."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
