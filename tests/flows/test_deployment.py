"""The deployment `screen/druglike`: against its flow, and against a real server and worker."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import ValidationError, validate
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from flows.screen import artifact_key, report_url

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def deployment(name: str) -> dict:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return next(d for d in deployments if d["name"] == name)


def test_the_deployment_names_the_flow_and_parameters_that_it_accepts() -> None:
    druglike = deployment("druglike")
    flow = load_flow_from_entrypoint(str(ROOT / druglike["entrypoint"]))
    assert flow.name == "screen"
    parameters = flow.validate_parameters(druglike["parameters"])
    assert parameters["library"] == "datasets/druglike"
    (schedule,) = druglike["schedules"]
    assert schedule["active"] is False
    assert druglike["concurrency_limit"]["limit"] == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a running server and worker of the pool `screen`, on loopback."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_API_AUTH_STRING": "screen:a-token",
        "PREFECT_API_AUTH_STRING": "screen:a-token",
        "MLFF_SCREEN_ROOTS": f"{ROOT}{os.pathsep}{tmp_path}",
        "DO_NOT_TRACK": "1",
        "COLUMNS": "200",  # so that tables of the command line are not cut
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    def start(*command: str) -> subprocess.Popen:
        with (tmp_path / f"{command[1]}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    processes = [start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))]
    try:
        wait_for(lambda: healthy(port), 120)
        made = call(
            environment, "work-pool", "create", "screen", "--type", "process",
            "--base-job-template", "deploy/work-pool.json", "--overwrite",
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        started = of_page("env --default-signal=INT", tmp_path)
        subprocess.run(["bash", "-c", started], cwd=ROOT, env=environment, check=True)
        wait_for((tmp_path / "worker.pid").exists, 20)
        yield environment
    finally:
        with suppress(OSError, psutil.Error):
            worker = psutil.Process(int((tmp_path / "worker.pid").read_text()))
            for process in (*worker.children(recursive=True), worker):
                process.kill()
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def of_page(begin: str, folder: Path) -> str:
    """The command of the operations page that begins so; its files lie in a folder."""
    page = (ROOT / "docs/operations.md").read_text().replace("\\\n", " ")
    (command,) = (line for line in page.splitlines() if line.startswith(begin))
    return command.replace("worker.", f"{folder}/worker.")


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.5)


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["prefect", "--no-prompt", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def deaf_to_others(url: str) -> None:
    """Without the token nothing is answered, and no page of another origin may read an answer."""
    body = json.dumps({"name": "x", "job_variables": {"command": "touch owned"}}).encode()
    headers = {"Content-Type": "application/json", "Origin": "https://elsewhere.example"}
    wrong = base64.b64encode(b"screen:guessed").decode()
    for more in ({}, {"Authorization": f"Basic {wrong}"}):
        for path in ("deployments/filter", "flow_runs/", "work_pools/"):
            asked = urllib.request.Request(f"{url}/{path}", body, headers | more)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(asked, timeout=10)
            assert caught.value.code == 401
            assert "elsewhere" not in str(caught.value.headers)
            assert caught.value.headers["Access-Control-Allow-Origin"] != "*"
            caught.value.close()
    right = base64.b64encode(b"screen:a-token").decode()
    asked = urllib.request.Request(
        f"{url}/deployments/filter", b"{}", headers | {"Authorization": f"Basic {right}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] is None


@pytest.mark.server
@pytest.mark.timeout(600)
def test_deploy_run_and_read_the_tables(server: dict[str, str], tmp_path: Path) -> None:
    deployed = call(server, "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    deaf_to_others(server["PREFECT_API_URL"])
    outside = call(
        server, "deployment", "run", "screen/druglike", "--watch", "-p", "library=/etc/passwd"
    )
    assert outside.returncode != 0
    assert "library '/etc/passwd': leads out of" in (tmp_path / "worker.log").read_text()

    owned = tmp_path / "owned"
    for name, value in (
        ("command", f"touch {owned}"), ("env.LD_PRELOAD", "/tmp/own.so"), ("working_dir", "/tmp"),
    ):  # fmt: skip
        given = call(
            server, "deployment", "run", "screen/druglike", "--job-variable", f"{name}={value}",
        )  # fmt: skip
        assert given.returncode != 0
        assert "Additional properties are not allowed" in given.stdout + given.stderr

    misspelt = call(server, "deployment", "run", "screen/druglike", "-p", "conformer=2")
    assert misspelt.returncode != 0
    assert "conformer" in misspelt.stdout + misspelt.stderr
    out_of_bounds = call(server, "deployment", "run", "screen/druglike", "-p", "shard_size=0")
    assert out_of_bounds.returncode != 0

    out = tmp_path / "tables"
    run = call(
        server, "deployment", "run", "screen/druglike", "--watch",
        "-p", "library=datasets/quick", "-p", f"out={out}", "-p", "limit=8", "-p", "shard_size=4",
        "-p", "max_steps=20",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert not owned.exists()
    molecules = pl.read_parquet(out / "molecules")
    assert sorted(molecules["record"]) == list(range(8))
    assert (molecules["status"] == "ok").sum() >= 6

    artifacts = call(server, "artifact", "ls")
    for key in ("quick-[0-9a-f]{8}-summary", "quick-[0-9a-f]{8}-progress"):
        assert re.search(key, artifacts.stdout), artifacts.stdout

    stopped_as_documented(server, tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"command": "touch owned"},
        {"env": {"LD_PRELOAD": "/tmp/own.so"}},
        {"env.PYTHONPATH": "/tmp"},
        {"working_dir": "/tmp"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_the_pool_gives_a_run_no_command_environment_or_folder_of_its_own(given: dict) -> None:
    template = json.loads((ROOT / "deploy/work-pool.json").read_text())
    plain, changed = (
        asyncio.run(ProcessJobConfiguration.from_template_and_values(template, values))
        for values in ({}, given)
    )
    assert changed == plain
    assert (plain.command, plain.env, plain.working_dir) == (None, {}, None)
    # Prefect's own template, which a worker that finds no pool makes, takes every one of them.
    own = ProcessWorker.get_default_base_job_template()
    assert asyncio.run(ProcessJobConfiguration.from_template_and_values(own, given)) != plain
    with pytest.raises(ValidationError, match="Additional properties are not allowed"):
        validate(given, template["variables"], raise_on_error=True)


def stopped_as_documented(server: dict[str, str], folder: Path) -> None:
    """The command of the page ends the worker and its run, and nothing that merely looks alike."""
    command = ["prefect", "worker", "start", "--pool", "other", "--type", "process"]
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *command])
    try:
        worker = psutil.Process(int((folder / "worker.pid").read_text()))
        begun = call(
            server, "deployment", "run", "screen/druglike", "-p", "library=datasets/druglike",
            "-p", f"out={folder / 'long'}", "-p", "conformers=50",
        )  # fmt: skip
        assert begun.returncode == 0
        wait_for(lambda: len(worker.children(recursive=True)) > 1, 120)  # the run, and who embeds
        run = worker.children(recursive=True)
        subprocess.run(["bash", "-c", of_page('kill -TERM "$(cat', folder)], check=True)
        assert psutil.wait_procs([worker, *run], timeout=60)[1] == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(10)


def test_an_artifact_is_named_by_its_library_and_its_run() -> None:
    run = "0123abcd-0000-4000-8000-000000000000"
    for library, expected in (
        ("datasets/druglike", "druglike-0123abcd-summary"),
        ("https://host/My Library_2.smi.gz", "my-library-2-smi-gz-0123abcd-summary"),
        ("...", "0123abcd-summary"),
    ):
        key = artifact_key(library, run, "summary")
        assert key == expected
        assert re.fullmatch(r"[a-z0-9-]+", key)  # what Prefect takes


def test_a_link_leads_where_a_browser_finds_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFF_SCREEN_REPORTS_URL", raising=False)
    out = tmp_path / "out" / "my library"
    assert report_url(out) is None
    monkeypatch.setenv("MLFF_SCREEN_REPORTS_URL", "http://127.0.0.1:8080/")
    assert report_url(out) == "http://127.0.0.1:8080/out/my%20library/report.html"
    assert report_url(Path("/elsewhere")) is None


def test_the_commands_of_the_operations_page_are_those_that_were_tested() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for command in (
        "prefect server start --host 127.0.0.1",
        "--base-job-template deploy/work-pool.json --overwrite",
        "prefect worker start --pool screen --type process",
        "prefect --no-prompt deploy --all",
        "prefect deployment run screen/druglike --watch",
    ):
        assert command in page
