"""A bucket as a store, on a server that speaks S3 on loopback."""

import os
import pickle
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mlff_core.errors import OutputError
from mlff_core.store import open_store
from mlff_core.store.bucket import MISSED, BucketStore
from mlff_core.tables import finished_shards, open_output, read_manifest, reconcile
from mlff_core.tables.testing import KEY, manifest, write_run

BEAT_S = 0.2


@pytest.fixture
def url(bucket: str) -> Iterator[str]:
    """A place of its own in the bucket, for each test."""
    return f"{bucket}/{os.urandom(4).hex()}"


def test_what_is_put_is_there_whole_and_read_at_any_place(url: str) -> None:
    store = open_store(f"{url}/")
    assert isinstance(store, BucketStore)
    assert open_store(store) is store
    assert pickle.loads(pickle.dumps(store)).location == store.location == url
    store.check()
    assert store.list() == store.list("molecules") == []
    with store.put("molecules/a") as stream:
        stream.write(b"0123456789")
        assert not store.exists("molecules/a")
    with store.put("molecules/deep/b") as stream, store.put(".hidden") as hidden:
        stream.write(b"b")
        hidden.write(b"h")
    assert store.list("molecules") == ["molecules/a"]
    assert store.list() == []
    with store.open("molecules/a") as stream:
        assert stream.read(3) == b"012"
        assert stream.seek(-2, 2) == 8
        assert stream.read() == b"89"
    with pytest.raises(ZeroDivisionError), store.put("molecules/a") as stream:
        stream.write(b"half" * (1 // 0))
    with store.open("molecules/a") as stream:
        assert stream.read() == b"0123456789"
    assert store.modified("molecules/a") > 1e9
    assert store.url("molecules/a") == f"{url}/molecules/a"
    store.tidy("molecules", re.compile(".*"))
    store.delete("molecules/a")
    store.delete("molecules/a")
    for ask in (store.open, store.modified):
        with pytest.raises(FileNotFoundError):
            ask("molecules/a")


def test_tables_in_a_bucket_are_claimed_resumed_and_proved(url: str) -> None:
    store = open_store(url)
    assert read_manifest(store) is None
    open_output(store, manifest())
    n_records = write_run(store)  # type: ignore[arg-type]
    assert finished_shards(store, KEY) == {0, 1, 2}
    with store.open("conformers/part-000001.parquet") as stream:
        data = bytearray(stream.read())
    data[len(data) // 2] ^= 1
    with store.put("conformers/part-000001.parquet") as stream:
        stream.write(data)
    assert finished_shards(store, KEY) == {0, 2}
    write_run(store)  # type: ignore[arg-type]
    assert reconcile(store, n_records, KEY).n_molecules == n_records
    assert open_output(store, manifest(), resume=True).run_id == "first"
    open_output(store, manifest("other"), overwrite=True)
    assert store.list("molecules") == []


def test_a_name_in_a_bucket_has_one_holder_and_a_dead_one_is_succeeded(url: str) -> None:
    store = BucketStore(url, beat_s=BEAT_S)
    program = (
        "import sys; from mlff_core.store.bucket import BucketStore\n"
        f"with BucketStore(sys.argv[1], beat_s={BEAT_S}).lock('run'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        who = f"process {holder.pid} on {platform.node()}"
        assert store.holder("run") == who
        with (
            pytest.raises(OutputError, match=re.escape(f"another run is at work here ({who})")),
            store.lock("run"),
        ):
            raise AssertionError
        holder.kill()
        holder.wait()
    with store.lock("run"):
        assert store.holder("run") == f"process {os.getpid()} on {platform.node()}"
    assert store.holder("run") is None
    assert store.tag(".run.lock") is None


def test_of_many_that_ask_at_once_one_holds_the_name(url: str) -> None:
    held, refused = [], []
    everyone_asked = threading.Barrier(6)

    def ask() -> None:
        store = BucketStore(url, beat_s=BEAT_S)
        try:
            with store.lock("run"):
                held.append(store)
                everyone_asked.wait(60)
        except OutputError:
            refused.append(store)
            everyone_asked.wait(60)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)
    assert MISSED > 1


def test_a_holder_that_was_succeeded_ends_in_words(url: str) -> None:
    store = BucketStore(url, beat_s=BEAT_S)
    seen = threading.Event()

    def steal() -> None:
        tag = store.tag(".run.lock")
        assert store.put_if(".run.lock", b"process 1 on elsewhere", tag) is not None
        seen.wait(4 * BEAT_S)

    with pytest.raises(OutputError, match="taken over by another run"), store.lock("run"):
        steal()
    # Not by `holder`: the bucket's clock has whole seconds, by which a beat of 0.2 s is long ago.
    assert store.content(".run.lock") == "process 1 on elsewhere"


def test_a_bucket_that_is_not_there_is_said_in_a_line(bucket: str) -> None:
    with pytest.raises(OutputError, match="cannot be reached") as caught:
        open_store("s3://there-is-no-such-shelf/x").check()
    assert "\n" not in str(caught.value)
