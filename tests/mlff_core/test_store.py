"""A store of files: whole or not at all, and one holder of a name at a time."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlff_core.errors import OutputError
from mlff_core.store import FolderStore, Store, open_store, whole_file, write_whole

PARTS = re.compile(r"part-\d+")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


def put(store: Store, name: str, data: bytes) -> None:
    with store.put(name) as stream:
        stream.write(data)


def test_what_is_put_is_there_under_its_name(store: Store) -> None:
    assert store.list() == store.list("molecules") == []
    for name in ("molecules/part-1", "molecules/part-0", "manifest.json"):
        assert not store.exists(name)
        put(store, name, name.encode())
        assert store.exists(name)
        with store.open(name) as stream:
            assert stream.read() == name.encode()
        assert Path(store.url(name)).read_bytes() == name.encode()
    assert store.list() == ["manifest.json"]
    assert store.list("molecules") == ["molecules/part-0", "molecules/part-1"]
    put(store, "manifest.json", b"again")
    with store.open("manifest.json") as stream:
        assert stream.read() == b"again"
    for _ in range(2):
        store.delete("manifest.json")
    assert store.list() == []
    with pytest.raises(FileNotFoundError):
        store.open("manifest.json")


def test_what_fails_half_way_leaves_what_was_there(store: Store) -> None:
    put(store, "molecules/part-0", b"old")
    for name in ("molecules/part-0", "molecules/part-1"):
        with pytest.raises(ZeroDivisionError), store.put(name) as stream:
            stream.write(b"new, so far" + bytes(1 // 0))
    assert store.list("molecules") == ["molecules/part-0"]
    with store.open("molecules/part-0") as stream:
        assert stream.read() == b"old"
    assert os.listdir(Path(store.location) / "molecules") == ["part-0"]


def test_the_file_and_then_its_name_reach_the_disk(tmp_path: Path, monkeypatch) -> None:
    order = []

    def spy(name: str):
        real = getattr(os, name)

        def call(*arguments):
            order.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    spy("fsync")
    spy("replace")
    write_whole(tmp_path / "card.json", b"{}")
    assert order == ["fsync", "replace", "fsync"]


def test_leftovers_of_a_killed_process_are_no_files_and_are_swept_up(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from mlff_core.store import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as stream: stream.write(b'half'); os._exit(9)"
    )
    for name in ("part-0", "others"):
        command = [sys.executable, "-c", program, str(tmp_path / name)]
        assert subprocess.run(command, check=False).returncode == 9
    store = FolderStore(tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    assert store.list() == []
    store.tidy("", PARTS)
    [left] = os.listdir(tmp_path)
    assert "others" in left
    store.tidy("nowhere", PARTS)


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import sys; from mlff_core.store import FolderStore\n"
        "with FolderStore(sys.argv[1]).lock('run'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        store = FolderStore(tmp_path)
        who = f"process {holder.pid} on {platform.node()}"
        assert store.holder("run") == who
        with pytest.raises(OutputError, match="another run is at work here") as caught:
            store.lock("run").__enter__()
        assert f"({who})" in str(caught.value)
        with store.lock("another name"):
            pass
        holder.kill()
        holder.wait()
    assert store.holder("run") is None
    with store.lock("run"):
        assert store.list() == []  # a lock is no file of the store
    assert os.listdir(tmp_path) == []
    with FolderStore(tmp_path / "new").lock("run"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()


def test_a_store_is_itself_and_a_path_a_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert open_store(store) is store
    assert open_store(str(tmp_path)).location == store.location == str(tmp_path)
    with whole_file(tmp_path / "x") as stream:
        stream.write(b"1")
    assert open_store(tmp_path).exists("x")
