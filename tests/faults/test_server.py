"""A server that dies under a run, and comes back or does not: the files tell what is done."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from commands import PATIENCE_S, ROOT, check_whole, parts_of, wait_for
from conftest import N_RECORDS, Screen

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)

#: Debian's PostgreSQL, or one on the PATH.
POSTGRES = next(
    (str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"))), os.environ.get("PATH", "")
)
PG_CTL = shutil.which("pg_ctl", path=POSTGRES)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A Prefect server on loopback that can be killed and started again."""

    home: Path
    port: int
    database: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def environment(self) -> dict[str, str]:
        found = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        found |= {"PREFECT_HOME": str(self.home), "DO_NOT_TRACK": "1", "PREFECT_API_URL": self.url}
        if self.database:
            found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.database
        return found

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=ROOT, env=self.environment(),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(self.answers)

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def states(self) -> tuple[list[str], list[str]]:
        """States of all flow runs and of all task runs."""
        program = (
            "from prefect.client.orchestration import get_client\n"
            "with get_client(sync_client=True) as c:\n"
            "    print(*(r.state_name for r in c.read_flow_runs()))\n"
            "    print(*(r.state_name for r in c.read_task_runs()))\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], env=self.environment(), capture_output=True,
            text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        flow_runs, task_runs = ended.stdout.splitlines()[-2:]
        return flow_runs.split(), task_runs.split()


@dataclass
class Postgres:
    """A PostgreSQL of its own, in a folder."""

    folder: Path
    port: int

    def run(self, *words: str) -> None:
        # It refuses to run as root.
        subprocess.run(
            words, check=True, capture_output=True, user="nobody" if os.geteuid() == 0 else None
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        assert PG_CTL is not None
        self.run(PG_CTL, "-D", f"{self.folder}/data", "-o", options, "-w", "-l",
                 f"{self.folder}/log", "start")  # fmt: skip

    def stop(self) -> None:
        """As power that is lost stops it."""
        assert PG_CTL is not None
        self.run(PG_CTL, "-D", f"{self.folder}/data", "-m", "immediate", "stop")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "prefect"
    found.mkdir()
    return found


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if PG_CTL is None:
        pytest.skip("there is no PostgreSQL here")
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # pytest's own are closed to other users
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    found = Postgres(folder, free_port())
    initdb = str(Path(PG_CTL).with_name("initdb"))
    found.run(initdb, "-D", f"{folder}/data", "-U", "prefect", "-A", "trust", "-N")
    found.start()
    yield found
    with suppress(subprocess.CalledProcessError):
        found.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_that_dies_and_comes_back_costs_a_run_nothing(
    screen: Screen, tmp_path: Path, home: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database = request.getfixturevalue("postgres") if kind == "postgresql" else None
    url = database and f"postgresql+asyncpg://prefect@127.0.0.1:{database.port}/postgres"
    server = Server(home, free_port(), url)
    server.start()
    try:
        out = tmp_path / "out"
        command = screen.start(out, prelude="on_server", arguments=[server.url, str(home)])
        wait_for(lambda: len(parts_of(out)) >= 4)
        if database:
            database.stop()
        server.kill()
        time.sleep(3)
        if database:
            database.start()
        server.start()
        assert command.wait() == 0, command.said()
        check_whole(out, screen.undisturbed, N_RECORDS)
        flow_runs, task_runs = server.states()
        assert flow_runs == ["Completed"]
        assert 0 < len(task_runs) <= 12  # it was not told of those that began while it was away
    finally:
        server.kill()


def test_a_server_that_dies_for_good_costs_no_row(
    screen: Screen, tmp_path: Path, home: Path
) -> None:
    server = Server(home, free_port(), None)
    server.start()
    out = tmp_path / "out"
    command = screen.start(out, prelude="on_server", arguments=[server.url, str(home)])
    wait_for(lambda: len(parts_of(out)) >= 4)
    server.kill()
    assert command.wait() == 0, command.said()
    assert "mlff-screen: warning: no server was told: " in command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)
    # Nor does one that was never there keep anybody waiting.
    other = tmp_path / "other"
    command = screen.start(other, prelude="on_server", arguments=[server.url, str(home)])
    assert command.wait() == 2
    assert f"PREFECT_API_URL: no server at {server.url}" in command.said()
    assert not other.exists()


def test_the_temporary_server_of_a_run_may_die(screen: Screen, tmp_path: Path, home: Path) -> None:
    out = tmp_path / "out"
    command = screen.start(out, prelude="with_own_server", arguments=[str(home)])
    wait_for(lambda: len(parts_of(out)) >= 4)
    servers = [c for c in command.children() if any("prefect.server" in w for w in c.cmdline())]
    assert servers
    for server in servers:
        server.kill()
    command.wait()
    kept = parts_of(out)
    again = screen.start(out, "--resume")
    assert again.wait() in (0, 2), again.said()  # finished already, or finished now
    now = parts_of(out)
    assert {path: now[path] for path in kept} == kept
    check_whole(out, screen.undisturbed, N_RECORDS)
    assert [p for p in servers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_without_a_server_a_command_asks_nothing_of_prefect(screen: Screen, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.write_text("no folder")
    command = screen.start(out, prelude="damaged_home", arguments=[str(home)])
    started = set()
    while command.status() is None:
        for child in command.children():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                started.add(" ".join(child.cmdline()))
        time.sleep(0.1)
    assert command.wait() == 0, command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)
    assert started
    assert not [line for line in started if "prefect" in line]


@pytest.mark.parametrize("own_server", [False, True], ids=["command", "flow"])
def test_nothing_of_a_run_leaves_the_host(
    screen: Screen, tmp_path: Path, home: Path, own_server: bool
) -> None:
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.touch()
    more = ["with_own_server", str(home)] if own_server else []
    command = screen.start(out, prelude="note_connections", arguments=[str(notes), *more])
    assert command.wait() == 0, command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)
    assert notes.read_text() == ""
    # The hook does note what leaves.
    audit = Path(__file__).with_name("audit")
    subprocess.run(
        [sys.executable, "-c", "import socket; socket.socket(type=2).connect(('192.0.2.1', 9))"],
        env=os.environ | {"NOTE_CONNECTIONS": str(notes), "PYTHONPATH": str(audit)}, check=True,
    )  # fmt: skip
    assert notes.read_text() == "socket.connect 192.0.2.1\n"
