"""Fixtures that several packages' tests share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before Prefect is imported: its settings are read once.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, narrow, so that whole runs take seconds."""
    from mlff_core.models.checkpoint import save_checkpoint
    from mlff_core.testing import random_model

    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    save_checkpoint(random_model(n_features=16), path, {})
    return path


@pytest.fixture(scope="session")
def interpret() -> Callable[[Path, Path], None]:
    """Run a script, told where its results go, with Triton's kernels interpreted on the CPU.

    Triton reads the variable when it is imported, hence the process of its own.
    """
    pytest.importorskip("triton")

    def run(script: Path, out: Path) -> None:
        environment = os.environ | {
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        ended = subprocess.run(
            [sys.executable, str(script), str(out)],
            env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr

    return run


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A throw-away Prefect server for the session; asked for only by tests that run a flow."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket, on a server on loopback that speaks S3."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        import boto3

        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="shelf")
        yield "s3://shelf"
    server.stop()
