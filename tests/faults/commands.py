"""Commands of the screen that are started, watched and killed from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
import psutil

from mlff_core.tables import read_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Longest wait for anything: a host may be busy with much else, and nothing passes by being quick.
PATIENCE_S = 900.0


@dataclass
class Command:
    """A command under way.

    Attributes:
        pid: Its process.
        log: What it said.
    """

    pid: int
    log: Path

    def status(self) -> int | None:
        """How it ended, a signal as a negative number; None as long as it runs."""
        ended = self.log.with_suffix(".status")
        return int(ended.read_text()) if ended.exists() else None

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; returns its exit status."""
        wait_for(lambda: self.status() is not None, seconds)
        status = self.status()
        assert status is not None
        return status

    def said(self) -> str:
        """All that it said."""
        return self.log.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """The processes that it started."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def kill(self, *, with_children: bool = False) -> None:
        """SIGKILL, as the system does when memory runs out; with all children, as power is lost."""
        children = self.children() if with_children else []
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class Nursery:
    """Starts commands without waiting for their imports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._commands: list[Command] = []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._answer() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for command in self._commands:  # what a test that failed left behind
            if command.status() is None:
                command.kill(with_children=True)
            # And a server that Prefect started for it, which it ends as a process ends by itself:
            # commands here end at once.
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def start(
        self, *argv: object, prelude: str | None = None, arguments: Sequence[object] = ()
    ) -> Command:
        """Start a command; `prelude` of preludes.py comes before it."""
        log = self._folder / f"command-{len(self._commands)}.log"
        asked = dict(
            argv=list(map(str, argv)), log=str(log), prelude=prelude, arguments=list(arguments)
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self._commands.append(Command(int(self._answer()), log))
        return self._commands[-1]

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.005)


def parts_of(out: Path) -> dict[Path, int]:
    """The parts of finished shards, which are in both tables, and when each was written."""
    found = {}
    for path in out.glob("molecules/part-*"):  # written last
        with suppress(FileNotFoundError):
            both = path, out / "conformers" / path.name
            found |= {part: part.stat().st_mtime_ns for part in both}
    return found


def check_whole(out: Path, undisturbed: Path, n_records: int) -> None:
    """A run is finished, and its tables are those of an undisturbed one, byte by byte."""
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.finished is not None
    records = pl.read_parquet(out / "molecules")["record"]
    assert sorted(records) == list(range(n_records))
    found, expected = (
        {path.relative_to(folder): path.read_bytes() for path in parts_of(folder)}
        for folder in (out, undisturbed)
    )
    assert found.keys() == expected.keys()
    assert [str(name) for name in found if found[name] != expected[name]] == []
    assert not (out / ".mlff-screen").exists()
    assert list(out.glob("*/.*.tmp")) == []
