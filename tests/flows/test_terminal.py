"""What a run says while it runs: lines without a terminal, a bar with one."""

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from flows import terminal
from flows.terminal import Terminal
from mlff_core.shard import StepReport


def test_without_a_terminal_lines_count_molecules_failures_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    shown = Terminal()
    shown.begin(n_records=100, done=20)
    assert shown.begun
    now[0] += 10.0
    shown.inside("relax", 2, 5)
    assert capsys.readouterr().err == ""  # not yet half a minute
    now[0] += 30.0
    shown.inside("embed", 2, 20)
    # The first molecules ended 30 s ago: what came before them was start and compilation.
    assert capsys.readouterr().err == "25 of 100 molecules, 40 embedded\n"
    shown.inside("relax", 2, 10)
    now[0] += 40.0
    shown.advance("write", 2, StepReport(n_records=20, counts={"ok": 17, "failed": 3}))
    # 15 more in 70 s, and 60 are left.
    assert capsys.readouterr().err == "40 of 100 molecules, 0.21/s, 3 failed, 5 min left\n"
    shown.advance("write", 3, StepReport(n_records=20, counts={"ok": 19, "rejected": 1}))
    assert capsys.readouterr().err == ""


def test_a_bar_moves_by_molecule_and_is_taken_away(tmp_path: Path) -> None:
    shown, text = Terminal(), io.StringIO()
    shown._console = Console(file=text, force_terminal=True, width=100)
    shown.begin(n_records=50, done=0)
    shown.inside("relax", 0, 7)
    assert shown._bar is not None
    shown._bar.refresh()
    assert "7/50" in text.getvalue()
    shown.close()
    assert shown._bar is None


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Terminal(quiet=True)
    shown.tell("library: x")
    shown.begin(n_records=5, done=0)
    shown.advance("write", 0, StepReport(n_records=5))
    shown.close()
    assert capsys.readouterr() == ("", "")


def test_a_run_that_is_stopped_leaves_the_cursor_to_be_seen() -> None:
    ours, theirs = pty.openpty()
    program = (
        "from flows.stop import Stop; from flows.terminal import Terminal\n"
        "shown = Terminal()\nshown.begin(10, 0)\n"
        "Stop(lambda: 'nothing is kept', shown.hush)(2, None)"
    )
    environment = os.environ | {"TERM": "xterm"}
    ended = subprocess.run([sys.executable, "-c", program], stderr=theirs, env=environment)
    os.close(theirs)
    said = ""
    with suppress(OSError):  # what a terminal answers when the other side is gone
        while piece := os.read(ours, 10_000):
            said += piece.decode()
    os.close(ours)
    assert ended.returncode == 130
    assert "\x1b[?25l" in said  # the bar had hidden it
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert said.endswith("mlff-screen: stopped; nothing is kept\r\n")
