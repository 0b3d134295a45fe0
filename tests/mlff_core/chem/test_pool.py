"""The embedding pool: order, speed of failure, and nothing left behind."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool, WorkerProcess
from mlff_core.chem.prepare import prepare
from mlff_core.cores import usable_cores
from mlff_core.status import MoleculeStatus, Reason

ROOT = Path(__file__).parents[3]
SMILES = ["CCO", "CC(F)Cl", "not a SMILES", "c1ccccc1O", "", "[Na+].CC(=O)[O-]", "CC(C)=C=CC", "O"]

#: What the worker processes of these tests run: does what the SMILES says.
OBEDIENT = """
import os, pathlib, signal, sys, threading, time
from mlff_core.chem.molecule import PreparedMolecule

def matches():
    # Of a crowded alkane in itself, while Ctrl-C comes.
    from rdkit import Chem

    mol = Chem.AddHs(Chem.MolFromSmiles("CC(C)(C)C(C(C)(C)C)(C(C)(C)C)C(C)(C)C"))
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    return str(len(mol.GetSubstructMatches(mol, uniquify=False, maxMatches=200_000)))

def obey(record, input_id, smiles, settings):
    word, _, rest = smiles.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "signal":
        os.kill(os.getpid(), int(rest))
    elif word == "exit":
        os._exit(int(rest))
    elif word == "die-once" and not os.path.exists(rest):
        pathlib.Path(rest).touch()
        os._exit(1)
    said = {
        "pid": lambda: str(os.getpid()),
        "modules": lambda: " ".join(sys.modules),
        "matches": matches,
        "threads": lambda: os.environ["OMP_NUM_THREADS"],
    }.get(word, lambda: word)()
    return PreparedMolecule(record, input_id, smiles, message=said)

def obey_all(records, settings):
    return [obey(*record, settings) for record in records]
"""


@pytest.fixture
def obey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    (tmp_path / "obedient.py").write_text(OBEDIENT)
    monkeypatch.syspath_prepend(tmp_path)
    import obedient  # type: ignore[import-not-found]

    yield obedient.obey
    del sys.modules["obedient"]


def numbered(*smiles: str) -> list[tuple[int, str | None, str]]:
    return [(record, f"id{record}", text) for record, text in enumerate(smiles)]


def said(results: Iterator[PreparedMolecule]) -> list[str | None]:
    return [molecule.message for molecule in results]


def wait_until_gone(pids: list[int], seconds: float = 30.0) -> list[int]:
    """The processes of `pids` that are still running when the time is over."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_running(pid)]:
        if time.monotonic() > end:
            return alive
        time.sleep(0.05)
    return []


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_results_are_those_of_prepare_in_the_order_of_the_records():
    settings = ChemistrySettings(n_conformers=2)
    alone = [prepare(*record, settings) for record in numbered(*SMILES)]
    backwards = list(reversed(numbered(*SMILES)))
    with EmbeddingPool(settings, n_workers=2) as pool:
        for records, expected in ((numbered(*SMILES), alone), (backwards, alone[::-1])):
            results = list(pool.map(records))
            assert [molecule.record for molecule in results] == [record[0] for record in records]
            for result, truth in zip(results, expected, strict=True):
                for name, value in vars(truth).items():
                    if isinstance(value, np.ndarray):
                        assert np.array_equal(getattr(result, name), value), name
                        assert getattr(result, name).dtype == value.dtype, name
                    elif name != "timings_s":
                        assert getattr(result, name) == value, name


@pytest.mark.parametrize("as_one", [False, True])
def test_a_molecule_that_hangs_or_dies_is_found_among_those_it_travels_with(
    obey, monkeypatch: pytest.MonkeyPatch, as_one
):
    monkeypatch.setattr("mlff_core.chem.pool._TOGETHER_S", 0.3)
    settings = ChemistrySettings(hard_timeout_s=0.5)
    words = ["a", "b", "sleep 600", "c", "d", "e", "f", "exit 3", "g", "h"]
    do = sys.modules["obedient"].obey_all if as_one else None
    with EmbeddingPool(settings, n_workers=1, prepare=obey) as pool:
        results = list(pool.map(numbered(*words), do, together=4, as_one=as_one))
    assert [molecule.record for molecule in results] == list(range(10))
    bad = {"sleep 600": Reason.EMBEDDING_TIMEOUT, "exit 3": Reason.INTERNAL_ERROR}
    assert [molecule.reason for molecule in results] == [bad.get(word) for word in words]
    assert [m.message for m in results if m.reason is None] == [w for w in words if w not in bad]


def test_what_is_urgent_goes_before_what_was_asked_for_earlier(obey, tmp_path: Path):
    seen = tmp_path / "seen"
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        patient = pool.map(numbered("a", *["sleep 0.05"] * 40, f"die-once {seen}"))
        next(patient)  # all the others are under way
        assert said(pool.map(numbered("b"), urgent=True)) == ["b"]
        assert not seen.exists()
        assert len(list(patient)) == 41


def test_an_earlier_record_goes_before_what_was_asked_for_earlier(obey, tmp_path: Path):
    seen = tmp_path / "seen"
    later = [(100 + k, None, word) for k, word in enumerate(["a", *["sleep 0.05"] * 40])]
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        shard = pool.map([*later, (200, None, f"die-once {seen}")])
        next(shard)  # all the others are under way
        assert said(pool.map(numbered("b"))) == ["b"]
        assert not seen.exists()
        assert len(list(shard)) == 41


def test_a_molecule_that_hangs_costs_its_worker_and_nobody_else(obey):
    settings = ChemistrySettings(hard_timeout_s=0.5)
    words = ["a", "b", "sleep 600", "c", "d", "e", "sleep 600", "f", "g", "h"]
    with EmbeddingPool(settings, n_workers=2, prepare=obey) as pool:
        results = list(pool.map(numbered(*words)))
    assert [molecule.record for molecule in results] == list(range(10))
    for word, molecule in zip(words, results, strict=True):
        if word == "sleep 600":
            assert molecule.status == MoleculeStatus.FAILED
            assert molecule.reason == Reason.EMBEDDING_TIMEOUT
            assert molecule.message == "not done after 0.5 s, its process was killed"
            assert molecule.input_smiles == word
        else:
            assert (molecule.status, molecule.message) == (MoleculeStatus.OK, word)


def test_waiting_behind_a_slow_molecule_is_not_a_molecules_own_time(obey):
    settings = ChemistrySettings(hard_timeout_s=1.0)
    with EmbeddingPool(settings, n_workers=1, prepare=obey) as pool:
        assert said(pool.map(numbered(*["sleep 0.4"] * 6))) == ["sleep"] * 6


@pytest.mark.parametrize(
    ("word", "reason", "ending"),
    [
        (f"signal {int(signal.SIGKILL)}", Reason.OUT_OF_MEMORY, "killed by SIGKILL"),
        (f"signal {int(signal.SIGSEGV)}", Reason.INTERNAL_ERROR, "killed by SIGSEGV"),
        ("exit 3", Reason.INTERNAL_ERROR, "exit status 3"),
    ],
)
def test_a_molecule_that_kills_its_worker_twice_fails_alone(obey, word, reason, ending):
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        results = list(pool.map(numbered("a", word, "b", "c", "d", "e")))
    assert said(iter(results[:1] + results[2:])) == ["a", "b", "c", "d", "e"]
    assert (results[1].status, results[1].reason) == (MoleculeStatus.FAILED, reason)
    assert results[1].message is not None
    assert results[1].message.startswith(f"its process died twice ({ending})")


def test_an_interrupt_cuts_nothing_short(obey):
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        assert said(pool.map(numbered("matches", "b"))) == ["200000", "b"]


def test_a_molecule_whose_worker_dies_is_tried_once_more(obey, tmp_path):
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        words = ["a", f"die-once {tmp_path / 'died'}", "b"]
        assert said(pool.map(numbered(*words))) == ["a", "die-once", "b"]
    assert (tmp_path / "died").exists()


def test_workers_killed_from_outside_cost_no_record(obey):
    with EmbeddingPool(ChemistrySettings(), n_workers=2, prepare=obey) as pool:
        results = pool.map(numbered(*["pid"] * 10, *["sleep 0.02"] * 100))
        for pid in {int(next(results).message or 0) for _ in range(10)}:
            os.kill(pid, signal.SIGKILL)
        rest = list(results)
    assert [molecule.record for molecule in rest] == list(range(10, 110))
    assert {molecule.status for molecule in rest} == {MoleculeStatus.OK}


def test_two_threads_share_a_pool(obey):
    results: dict[str, list[str | None]] = {}
    with EmbeddingPool(ChemistrySettings(), n_workers=2, prepare=obey) as pool:

        def run(word: str) -> None:
            results[word] = said(pool.map(numbered(*(f"{word}{i}" for i in range(300)))))

        threads = [threading.Thread(target=run, args=(word,)) for word in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {word: [f"{word}{i}" for i in range(300)] for word in "abc"}


def test_records_are_read_a_bounded_number_ahead_and_a_map_may_be_left_early(obey):
    read = itertools.count()
    endless = ((next(read), None, "a") for _ in itertools.count())
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        results = pool.map(endless)
        assert next(read) == 0  # nothing is read before it is asked for
        for _ in range(5):
            next(results)
        assert next(read) < 1100
        results.close()
        assert said(pool.map(numbered("b"))) == ["b"]


def test_workers_import_no_torch_and_use_one_thread_each(obey):
    import torch  # noqa: F401 - the parent has it

    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        modules, threads = said(pool.map(numbered("modules", "threads")))
    assert modules is not None
    assert "mlff_core.chem.molecule" in modules.split()
    assert not {"torch", "prefect", "pytest", "ase"} & set(modules.split())
    assert threads == "1"


def test_a_line_of_megabytes_stops_nothing():
    huge = "C" * 3_000_000
    with EmbeddingPool(ChemistrySettings(), n_workers=1) as pool:
        results = list(pool.map(numbered("C", huge, huge, huge, huge, huge, "C")))
    reasons = [molecule.reason for molecule in results]
    assert reasons == [None, *[Reason.TOO_LARGE] * 5, None]


def test_closing_ends_the_processes_and_whoever_waits(obey):
    pool = EmbeddingPool(ChemistrySettings(), n_workers=2, prepare=obey)
    pids = [int(message or 0) for message in said(pool.map(numbered(*["pid"] * 20)))]
    waiting = pool.map(numbered("b", *["sleep 600"] * 20))
    assert next(waiting).message == "b"
    threading.Timer(0.2, pool.close).start()
    with pytest.raises(RuntimeError, match="closed"):
        next(waiting)
    pool.close()
    assert wait_until_gone(pids) == []
    with pytest.raises(RuntimeError, match="closed"):
        next(pool.map(numbered("a")))


@pytest.mark.parametrize("forked", [False, True], ids=["", "a fork holds the sockets"])
def test_workers_end_when_their_parent_is_killed(obey, tmp_path, forked):
    # A script without `if __name__ == "__main__"`: the workers must not run it again.
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time, obedient\n"
        "from mlff_core.chem.molecule import ChemistrySettings\n"
        "from mlff_core.chem.pool import EmbeddingPool\n"
        "pool = EmbeddingPool(ChemistrySettings(), n_workers=2, prepare=obedient.obey)\n"
        "results = pool.map((i, None, 'pid' if i < 20 else 'sleep 600') for i in range(40))\n"
        "pids = {next(results).message for _ in range(20)}\n"
        f"fork = os.fork() if {forked} else 0\n"
        f"if {forked} and not fork:\n"
        "    time.sleep(600)\n"
        "print(fork, *pids, flush=True)\n"
        "next(results)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", script],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        fork, *pids = (int(word) for word in parent.stdout.readline().split())
        assert 1 <= len(pids) <= 2
        parent.kill()
        assert wait_until_gone(pids) == []
        if fork:
            os.kill(fork, signal.SIGKILL)


def test_a_worker_that_cannot_start_is_told_at_once(obey, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    with (
        EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool,
        pytest.raises(RuntimeError, match=r"could not start \(exit status 1\)"),
    ):
        next(pool.map(numbered("a")))


def test_workers_that_are_killed_as_they_start_are_started_again(obey, monkeypatch):
    starts = itertools.count()
    ready = WorkerProcess.wait_until_ready

    def killed(worker, *what):
        if next(starts) < 3:
            worker.process.kill()
        ready(worker, *what)

    monkeypatch.setattr(WorkerProcess, "wait_until_ready", killed)
    with EmbeddingPool(ChemistrySettings(), n_workers=1, prepare=obey) as pool:
        assert said(pool.map(numbered("a", "b"))) == ["a", "b"]
    assert next(starts) == 4


def test_the_number_of_workers_is_checked_and_defaults_to_the_usable_cores():
    with pytest.raises(ValueError, match="n_workers: expected 1 or more, found 0"):
        EmbeddingPool(ChemistrySettings(), n_workers=0)
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    with EmbeddingPool(ChemistrySettings()) as pool:
        assert pool.n_workers == usable_cores()
