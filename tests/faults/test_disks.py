"""Disks that are full, read-only or gone, files that are damaged: a line, and the rest stays."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import PATIENCE_S, Command, check_whole, parts_of, wait_for
from conftest import N_RECORDS, Screen

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory, which only root may make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("making a small disk is not allowed here; a limit of files stands for it")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk: Path, options: str) -> bool:
    command = ["mount", "-o", f"remount,{options}", str(disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check_resumed(screen: Screen, out: Path, kept: dict[Path, int], *more: str) -> None:
    """The same command with --resume ends it; what was finished is not touched."""
    command = screen.start(out, *(more or ("--resume",)))
    assert command.wait() == 0, command.said()
    now = parts_of(out)
    assert {path: now[path] for path in kept} == kept
    check_whole(out, screen.undisturbed, N_RECORDS)


def check_failed_in_a_line(command: Command, *words: str) -> None:
    assert command.wait() in (1, 2), command.said()
    last = command.said().strip().splitlines()[-1]
    assert last.startswith("mlff-screen: ")
    assert any(word in last for word in words), last
    assert "Traceback" not in command.said()


def test_a_full_disk_ends_the_run_in_a_line_and_room_ends_its_tables(
    screen: Screen, small_disk: Path
) -> None:
    out = small_disk / "out"
    command = screen.start(out)
    check_failed_in_a_line(command, "No space left on device")
    kept = parts_of(out)
    assert 0 < len(kept) < 24
    assert remount(small_disk, "size=64m")
    check_resumed(screen, out, kept)


def test_a_file_that_may_not_grow_is_no_part(screen: Screen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    largest = max(path.stat().st_size for path in parts_of(screen.undisturbed))
    command = screen.start(out, prelude="files_no_larger_than", arguments=[largest - 1])
    check_failed_in_a_line(command, "File too large")
    kept = parts_of(out)
    assert len(kept) < 24
    assert list(out.glob("*/.*.tmp")) == []
    check_resumed(screen, out, kept)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write to; root can write to one that only its mode protects."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_becomes_read_only_under_a_run_keeps_what_is_there(
    screen: Screen, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = screen.start(out)
    wait_for(lambda: len(parts_of(out)) >= 4)
    with read_only(out / "molecules"):
        check_failed_in_a_line(command, "Read-only file system", "Permission denied")
        kept = parts_of(out)
        check_failed_in_a_line(screen.start(out, "--resume"), "Read-only", "Permission denied")
    parts = {path.name for path in out.glob("molecules/part-*")}
    whole = {path: when for path, when in kept.items() if path.name in parts}
    assert 4 <= len(whole) < 24
    check_resumed(screen, out, whole)


def test_a_folder_that_vanishes_under_a_run_is_told_and_comes_back(
    screen: Screen, tmp_path: Path
) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    command = screen.start(out)
    wait_for(lambda: len(parts_of(out)) >= 4)
    out.rename(away)
    assert command.wait() == 1, command.said()
    assert "Traceback" not in command.said()
    if out.exists():  # made again by a part that was on its way
        shutil.rmtree(out)
    kept = {out / path.relative_to(away): when for path, when in parts_of(away).items()}
    assert 4 <= len(kept) < 24
    away.rename(out)
    check_resumed(screen, out, kept)


@pytest.mark.parametrize("seed", range(3))
def test_parts_that_are_cut_flipped_swapped_or_gone_are_made_anew_and_no_other(
    screen: Screen, tmp_path: Path, seed: int
) -> None:
    out, choose = tmp_path / "out", random.Random(seed)
    shutil.copytree(screen.undisturbed, out)
    parts = sorted(parts_of(out))
    cut, flipped, gone, first, second = choose.sample(parts, 5)
    cut.write_bytes(cut.read_bytes()[: choose.randrange(cut.stat().st_size)])
    data = bytearray(flipped.read_bytes())
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    flipped.write_bytes(data)
    gone.unlink()
    other = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(other)
    touched = {path.name for path in (cut, flipped, gone, first, second)}
    kept = {path: when for path, when in parts_of(out).items() if path.name not in touched}
    check_resumed(screen, out, kept)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0" * 512, b"{", b"[]", b"not JSON", b'{"run_key": 7}', None],
    ids=["empty", "zeros", "cut off", "a list", "words", "a wrong type", "gone"],
)
def test_a_manifest_that_is_garbage_is_said_and_replaced_or_gone_without(
    screen: Screen, tmp_path: Path, garbage: bytes | None
) -> None:
    out = tmp_path / "out"
    shutil.copytree(screen.undisturbed, out)
    (out / "manifest.json").unlink()
    if garbage is not None:
        (out / "manifest.json").write_bytes(garbage)
    check_failed_in_a_line(screen.start(out), "manifest", "unknown run")
    foreign = garbage == b"[]"  # whoever's it is, it is none of ours
    for option in ("--resume", "--overwrite"):
        command = screen.start(out, option)
        if foreign:
            check_failed_in_a_line(command, "is not the manifest of a run")
        else:
            assert command.wait() == 0, command.said()
            check_whole(out, screen.undisturbed, N_RECORDS)


def test_a_clock_that_jumps_changes_no_row_and_ends_no_command(
    screen: Screen, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    jumps = dict(prelude="clock_that_jumps")
    command = screen.start(out, **jumps)
    wait_for(lambda: len(parts_of(out)) >= 6)
    command.kill()
    assert command.wait() == -9
    kept = parts_of(out)
    now = time.time()
    for n, path in enumerate(sorted(kept)):  # as the clock of the disk had it
        os.utime(path, (now + (-1) ** n * 3e7, now + (-1) ** n * 3e7))
    kept = parts_of(out)
    assert screen.nursery.start("status", out, **jumps).wait() == 0
    command = screen.start(out, "--resume", **jumps)
    assert command.wait() == 0, command.said()
    now_there = parts_of(out)
    assert {path: now_there[path] for path in kept} == kept
    check_whole(out, screen.undisturbed, N_RECORDS)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["finished"] = "1970-01-01T00:00:00+00:00"  # long before it began
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2))
    for name in ("status", "report"):
        command = screen.nursery.start(name, out, **jumps)
        assert command.wait() == 0, command.said()
