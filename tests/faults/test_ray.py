"""Lanes on a real Ray cluster of several nodes on this host; their cards are numbers only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

from flows.engines import pipeline
from flows.ray_engine import RayEngine
from flows.stage import Stage
from mlff_core.tables import read_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import stages  # noqa: E402
from commands import PATIENCE_S  # noqa: E402

pytestmark = [
    pytest.mark.timeout(4 * PATIENCE_S),
    # Ray leaves sockets and processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator["object"]:
    """A head without cores, and two nodes with two cores and a card each."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{HERE}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 means for ever where others compute, too
    import ray
    from ray.cluster_utils import Cluster

    small = dict(object_store_memory=80 << 20, include_dashboard=False)

    def start() -> Cluster:
        made = Cluster()
        try:
            made.add_node(num_cpus=0, num_gpus=0, **small)
            for _ in range(2):
                made.add_node(num_cpus=2, num_gpus=1, **small)
        except Exception:
            made.shutdown()
            raise
        return made

    for n_left in range(4, -1, -1):  # Ray gives a node 30 s to start: too little on a busy host
        try:
            found = start()
            break
        except Exception as error:
            if not n_left or "timed out during startup" not in str(error):
                raise
    yield found
    ray.shutdown()
    found.shutdown()


def two_stages(folder: Path, seconds: float = 0.3) -> list[Stage]:
    return [
        Stage(name, stages.note, dict(name=name, folder=str(folder), seconds=seconds), width)
        for name, width in (("embed", 2), ("relax", 1))
    ]


def notes(folder: Path) -> dict[tuple[str, int], list[list[str]]]:
    """Who ran which stage of which shard, each time."""
    found: dict[tuple[str, int], list[list[str]]] = {}
    for path in folder.iterdir():
        name, shard, _ = path.name.split(".")
        found.setdefault((name, int(shard)), []).append(path.read_text().split())
    return found


def test_each_card_has_a_process_and_a_killed_one_loses_what_was_in_it(
    cluster: object, tmp_path: Path
) -> None:
    engine = RayEngine(cluster.address, cores=1)  # type: ignore[attr-defined]
    assert engine.device("auto") == "cuda"
    assert engine.lanes == 2
    done: list[tuple[str, int]] = []
    killed: list[str] = []
    with engine:
        for stage, shard, _ in pipeline(iter(range(14)), two_stages(tmp_path), engine, 8):
            done.append((stage.name, shard))
            if len(done) == 8:
                [[pid, *_]] = notes(tmp_path)[stage.name, shard]
                killed.append(pid)
                os.kill(int(pid), signal.SIGKILL)
    assert sorted(done) == [(name, k) for name in ("embed", "relax") for k in range(14)]
    ran = notes(tmp_path)
    assert all(len(ran[ended]) == 1 for ended in done[:8])  # what had ended was not done again
    # The killed one may have been done with the next, and not yet have said so.
    assert all(len(t) == 1 or {who[0] for who in t} & set(killed) for t in ran.values())
    every = [who for times in ran.values() for who in times]
    processes = {who[0] for who in every}
    assert set(killed) < processes
    assert 2 <= len(processes) <= 3
    assert {who[2] for who in every} == {"0"}  # each sees the one card that it has
    assert {who[3] for who in every} == {"1"}  # and keeps to its cores with every thread


def test_a_node_that_is_lost_takes_its_lane_and_no_shard(cluster: object, tmp_path: Path) -> None:
    engine = RayEngine(cluster.address)  # type: ignore[attr-defined]
    engine.device("cuda")
    nodes = {node.node_id: node for node in cluster.worker_nodes}  # type: ignore[attr-defined]
    done = []
    with engine:
        for stage, shard, _ in pipeline(iter(range(12)), two_stages(tmp_path), engine, 8):
            done.append((stage.name, shard))
            if len(done) == 6:
                gone = nodes.popitem()[1]
                cluster.remove_node(gone, allow_graceful=False)  # type: ignore[attr-defined]
    assert sorted(done) == [(name, k) for name in ("embed", "relax") for k in range(12)]


def test_what_a_stage_raises_and_what_kills_every_lane_ends_the_run(
    cluster: object, tmp_path: Path
) -> None:
    engine = RayEngine(cluster.address)  # type: ignore[attr-defined]
    with engine:
        full = Stage("write", stages.fail, dict(folder=str(tmp_path)), retries=1, retry_delay_s=0)
        with pytest.raises(OSError, match="no space for shard 3") as caught:
            list(pipeline(iter([3]), [full], engine, 4))
        assert type(caught.value) is OSError
        deadly = Stage("relax", stages.die, dict(folder=str(tmp_path)))
        with pytest.raises(RuntimeError, match=r"relax of shard 7: 5 lanes died under it"):
            list(pipeline(iter([7]), [deadly], engine, 4))


def test_a_command_on_ray_that_is_killed_leaves_no_process_and_is_resumed_without_ray(
    tmp_path: Path, small_model: Path
) -> None:
    library, out = tmp_path / "library.smi", tmp_path / "out"
    library.write_text("".join(f"{'C' * (3 + n % 8)}O m{n}\n" for n in range(40)))
    command = [
        sys.executable, "-m", "flows.cli", "run", str(library), "--out", str(out), "--model",
        str(small_model), "--shard-size", "2", "--max-steps", "3", "--device", "cpu",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    process = subprocess.Popen(
        [*command, "--engine", "ray", "--workers", "1"], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while len(list((out / "molecules").glob("part-*"))) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    # Ray's own agents look for their parent now and then.
    _, alive = psutil.wait_procs(children, timeout=150)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    kept = {p: p.stat().st_mtime_ns for p in (out / "molecules").glob("part-*")}
    assert 3 <= len(kept) < 20
    subprocess.run([*command, "--resume", "--quiet"], cwd=ROOT, env=environment, check=True)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    plain = tmp_path / "plain"
    again = [str(plain) if word == str(out) else word for word in command]
    subprocess.run([*again, "--quiet"], cwd=ROOT, env=environment, check=True)
    for table in ("molecules", "conformers"):
        rows, undisturbed = (pl.read_parquet(f / table).sort("record") for f in (out, plain))
        assert rows.equals(undisturbed)
        assert rows["record"].n_unique() == 40
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.finished is not None


def test_what_is_added_to_the_tables_is_the_same_on_ray(tmp_path: Path, small_model: Path) -> None:
    pytest.importorskip("tblite")
    library = tmp_path / "library.smi"
    library.write_text("CCO a\nOC(=O)CN b\nC[C@H]([NH3+])C(=O)[O-] c\n[13CH4] d\nCC(=O)[O-] e\n")
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    for engine in ("local", "ray"):
        command = [
            sys.executable, "-m", "flows.cli", "run", str(library), "--out", str(tmp_path / engine),
            "--engine", engine, "--model", str(small_model), "--shard-size", "2", "--max-steps",
            "30", "--device", "cpu", "--conformers", "2", "--thermo", "--solvent", "water",
            "--workers", "1", "--quiet",
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    for table in ("molecules", "conformers"):
        keys = ["record", "variant", *(["conformer"] if table == "conformers" else [])]
        here, there = (pl.read_parquet(tmp_path / e / table).sort(keys) for e in ("local", "ray"))
        assert here.equals(there)
        made = {"molecules": "gibbs_energy_ev", "conformers": "solvation_kcal_mol"}[table]
        assert here[made].is_not_null().any()


def test_a_cluster_of_this_host_listens_on_loopback_alone() -> None:
    program = """
import json, psutil
from flows.ray_engine import connect

ray = connect(None)
ray.get(ray.remote(lambda: 1).remote())
found = []
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    found += [c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"]
ray.shutdown()
print(json.dumps(found))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"},
    )  # fmt: skip
    listening = json.loads(ended.stdout.splitlines()[-1])
    assert len(listening) >= 4
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}
