"""SIGKILL at random moments: nothing that was finished is lost or done again."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from commands import PATIENCE_S, check_whole, parts_of, wait_for
from conftest import N_RECORDS, Screen

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)

#: Who is killed: the command alone, it with all that it started, or one process that embeds.
WHO = ("command", "all", "embedder")


def test_twenty_kills_at_random_moments_cost_no_record_and_nothing_twice(
    screen: Screen, tmp_path: Path
) -> None:
    choose = random.Random(20)
    met, n_ended = dict.fromkeys(WHO, 0), 0
    out, kept = tmp_path / "out-0", dict[Path, int]()
    for trial in range(20):
        who = WHO[trial % 3]
        command = screen.start(out, "--resume")
        time.sleep(choose.uniform(0.0, 0.8 * screen.seconds))
        if who == "embedder":
            if children := command.children():
                choose.choice(children).kill()
                met[who] += 1
            time.sleep(choose.uniform(0.0, 0.2 * screen.seconds))
        elif command.status() is None:
            met[who] += 1
        command.kill(with_children=who == "all")
        status = command.wait()
        assert status in (0, -9), command.said()
        now = parts_of(out)
        assert {path: now[path] for path in kept} == kept  # there, and not written again
        kept = now
        if status == 0:
            check_whole(out, screen.undisturbed, N_RECORDS)
            n_ended += 1
            out, kept = tmp_path / f"out-{trial + 1}", {}
    assert all(met.values())
    assert n_ended < 10
    command = screen.start(out, "--resume")
    assert command.wait() == 0, command.said()
    now = parts_of(out)
    assert {path: now[path] for path in kept} == kept
    check_whole(out, screen.undisturbed, N_RECORDS)


@pytest.mark.parametrize("shard", [0, 5, 11])
def test_power_that_is_lost_as_a_shard_is_written_costs_the_shards_in_flight(
    screen: Screen, tmp_path: Path, shard: int
) -> None:
    out = tmp_path / "out"
    command = screen.start(out, prelude="die_at_write", arguments=[shard])
    assert command.wait() == -9
    kept = parts_of(out)
    assert {path.name for path in kept}.isdisjoint({f"part-{shard:06d}.parquet"})
    assert len(kept) >= 2 * max(shard - 3, 0)  # of those before it, three may be under way
    command = screen.start(out, "--resume")
    assert command.wait() == 0, command.said()
    now = parts_of(out)
    assert {path: now[path] for path in kept} == kept
    check_whole(out, screen.undisturbed, N_RECORDS)


def test_every_process_that_embeds_may_die_and_the_run_goes_on(
    screen: Screen, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = screen.start(out)
    wait_for(lambda: len(command.children()) >= 2)
    for child in command.children():
        child.kill()
    assert command.wait() == 0, command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)


#: Signals that end a process, but for those of the other tests, and SIGPIPE, which Python ignores.
SIGNALS = [
    "HUP", "INT", "QUIT", "ILL", "ABRT", "BUS", "FPE", "USR1", "SEGV", "USR2", "ALRM", "TERM",
    "XCPU",
]  # fmt: skip


def test_thirteen_signals_cost_no_record_and_nothing_twice(screen: Screen, tmp_path: Path) -> None:
    choose = random.Random(13)
    out, kept, n_met = tmp_path / "out-0", dict[Path, int](), 0
    for trial, name in enumerate(SIGNALS):
        number = signal.Signals[f"SIG{name}"]
        command = screen.start(out, "--resume")
        time.sleep(choose.uniform(0.0, 0.8 * screen.seconds))
        if command.status() is None:
            os.kill(command.pid, number)
            n_met += 1
        status = command.wait()
        assert status in (0, -number, 130 if name == "INT" else -number), command.said()
        now = parts_of(out)
        assert {path: now[path] for path in kept} == kept
        kept = now
        if status == 0:
            check_whole(out, screen.undisturbed, N_RECORDS)
            out, kept = tmp_path / f"out-{trial + 1}", {}
    assert n_met >= 10
    command = screen.start(out, "--resume")
    assert command.wait() == 0, command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_of_four_commands_that_begin_together_one_has_the_folder(
    screen: Screen, tmp_path: Path, pause: float
) -> None:
    out = tmp_path / "out"
    commands = []
    for _ in range(4):
        commands.append(screen.start(out, "--overwrite"))
        time.sleep(pause)
    statuses = [command.wait() for command in commands]
    assert {0, 2} == set(statuses)  # one that begins when another has ended may replace its tables
    for command, status in zip(commands, statuses, strict=True):
        if status:
            assert "another run is at work here" in command.said()
    check_whole(out, screen.undisturbed, N_RECORDS)
