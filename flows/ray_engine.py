"""The engine `ray`: each card of a host or a cluster is a lane; shards go where there is room.

A lane is an actor on a node: one card with its share of the node's cores, or a node's cores where
there are no cards. The model is loaded once in it, the processes that prepare molecules are its
children, and several shards are in it at a time, one a stage, as in a run on one card. A lane that
dies is started again; the stage that was in it goes to another lane, because what is between two
stages lies in files that all lanes see. Ray places, restarts and counts; what is finished is told
by the tables alone.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from flows.stage import Stage, run_stage
from mlff_core.cores import usable_cores
from mlff_core.errors import DeviceError
from mlff_core.shard import StepReport

log = logging.getLogger(__name__)

#: Shards in a lane at a time: as many as a run on one card has under way.
SHARDS_A_LANE: Final = 4
#: Lanes that may die under a stage of a shard, one after the other: it may be what kills them.
DEATHS: Final = 4
#: Of Ray's store of objects, which would else take a third of the memory: shards go through files.
STORE_BYTES: Final = 128 << 20


def connect(address: str | None) -> Any:
    """The package Ray, connected to a cluster, or to one of its own on this host.

    Args:
        address: As Ray knows it: "auto", "host:6379", "ray://..."; None starts one on this host,
            which listens on loopback alone. One that is named listens as it was told to; who calls
            it must know the token that Ray keeps in the home of the user.

    Raises:
        ValueError: Ray is not installed.
        DeviceError: There is no such cluster.
    """
    # Read when Ray is imported: no report of its use leaves the host.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:  # or it takes the host's address in the place of 127.0.0.1
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError(f'engine ray: {error}: pip install "mlff-screen[ray]"') from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = dict(configure_logging=False, log_to_driver=False)
    try:
        if address is None:
            ray.init(
                address="local",  # or it connects to whatever cluster was begun here last
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                num_cpus=usable_cores(),  # Ray counts those that others have, too
                object_store_memory=STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(f"engine ray: no cluster at {address}: {first}") from error
    return ray


def _keep_to(cores: Collection[int]) -> None:
    """Hold every thread of this process to some cores; what they start inherits it."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cores)


class Lane:
    """What runs in an actor: the stages of some shards, each as wide as it is on one card.

    Args:
        place: Which lane of its node it is.
        n_cores: Cores that it may keep busy; None for all.
    """

    def __init__(self, place: int, n_cores: int | None) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if n_cores is not None:  # what is started in it inherits them
            own = cores[place * n_cores : (place + 1) * n_cores]
            _keep_to(own or cores[:n_cores])
        self._lock = threading.Lock()
        self._room: dict[str, threading.Semaphore] = {}

    def ready(self) -> int:
        """Its process."""
        return os.getpid()

    def run(self, stage: Stage, shard: int) -> StepReport:
        """Run a stage of a shard when there is room in it."""
        with self._lock:
            room = self._room.setdefault(stage.name, threading.Semaphore(stage.width))
        with room:
            return run_stage(stage, shard)


@dataclass(eq=False)
class _Handle:
    """A lane, seen from the process that gives it work.

    Attributes:
        actor: Ray's handle.
        n_inside: Stages that were given to it and have not ended.
        up: Whether it is known to be alive.
    """

    actor: Any
    n_inside: int = 0
    up: bool = True


@dataclass(eq=False)
class _Job:
    """A stage of a shard, until it has ended."""

    stage: Stage
    shard: int
    answer: Future[StepReport] = field(default_factory=Future)
    deaths: int = 0


class RayEngine:
    """Lanes on the nodes of a Ray cluster.

    Args:
        address: Of the cluster; None starts one on this host.
        cores: Cores of a lane; by default a node's, shared among its cards.
        restarts: How often Ray starts a lane anew; -1 for ever.
    """

    def __init__(
        self, address: str | None = None, cores: int | None = None, *, restarts: int = -1
    ) -> None:
        self._ray = connect(address)
        self._owns = address is None
        self._cores = cores
        self._restarts = restarts
        self._lock = threading.RLock()
        self._lanes: list[_Handle] = []
        self._lane_of: dict[int, _Handle] = {}
        self._closed = False

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
        """The type of the lanes' device: cuda where the cluster has cards, unless cpu is wanted.

        Raises:
            DeviceError: Cards are wanted, and there are none.
        """
        n_cards = int(self._ray.cluster_resources().get("GPU", 0))
        if wanted == "cuda" and not n_cards:
            raise DeviceError("engine ray: cuda was asked for, and no node of the cluster has any")
        device: Literal["cpu", "cuda"] = "cuda" if n_cards and wanted != "cpu" else "cpu"
        self._start(device)
        return device

    @property
    def lanes(self) -> int:
        """Shards of one card's pace that are computed side by side."""
        return len(self._lanes)

    def _start(self, device: str) -> None:
        """Start the lanes, each on a node that it may leave if the node is lost."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._ray.remote(Lane)
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            cores = int(node["Resources"].get("CPU", 0))
            cards = int(node["Resources"].get("GPU", 0)) if device == "cuda" else 0
            if device == "cuda":
                n_lanes = cards
                share = self._cores or cores // max(cards, 1)
            else:
                n_lanes = max(cores // self._cores, 1) if self._cores else 1
                share = min(self._cores or cores, cores)
            if not cores:  # a head that takes no work
                continue
            for place in range(n_lanes):
                options = actor.options(
                    num_cpus=share,
                    num_gpus=1 if cards else 0,
                    max_restarts=self._restarts,
                    max_task_retries=0,
                    max_concurrency=SHARDS_A_LANE + 1,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True),
                )
                self._lanes.append(_Handle(options.remote(place, share or None)))
        if not self._lanes:
            raise DeviceError("engine ray: no node of the cluster has cores to give")

    def __enter__(self) -> Self:
        if not self._lanes:
            self.device("auto")
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        for lane in self._lanes:
            self._ray.kill(lane.actor)
        if self._owns:
            self._ray.shutdown()

    def submit(self, stage: Stage, shard: int) -> Future[StepReport]:
        """Give a stage of a shard to the lane that has the shard, or to one with room."""
        job = _Job(stage, shard)
        self._give(job)
        return job.answer

    def _give(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                job.answer.cancel()
                return
            lane = self._lane_of.get(job.shard)
            if lane is None or not lane.up:
                # None is up where all are being started again: Ray keeps the call until one is.
                up = [lane for lane in self._lanes if lane.up] or self._lanes
                lane = self._lane_of[job.shard] = min(up, key=lambda lane: lane.n_inside)
            lane.n_inside += 1
            call = lane.actor.run.remote(job.stage, job.shard)
        call.future().add_done_callback(self._heard(job, lane))

    def _heard(self, job: _Job, lane: _Handle) -> Callable[[Future[StepReport]], None]:
        def hear(call: Future[StepReport]) -> None:
            from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

            with self._lock:
                lane.n_inside -= 1
            error = call.exception()
            if error is None:
                job.answer.set_result(call.result())
            elif isinstance(error, RayActorError) and not self._closed:
                self._mourn(lane, for_good=isinstance(error, ActorDiedError))
                job.deaths += 1
                if job.deaths > DEATHS:
                    job.answer.set_exception(
                        RuntimeError(
                            f"{job.stage.name} of shard {job.shard}: {job.deaths} lanes died under "
                            f"it, the last: {str(error).splitlines()[0]}"
                        )
                    )
                    return
                log.warning("%s of shard %d: its lane died", job.stage.name, job.shard)
                self._give(job)
            elif isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
                job.answer.set_exception(error.cause)
            else:
                job.answer.set_exception(error)

        return hear

    def _mourn(self, lane: _Handle, *, for_good: bool) -> None:
        """Give a lane no work until it has been started again."""
        with self._lock:
            if not lane.up:
                return
            lane.up = False
            if for_good:
                self._lanes.remove(lane)
                return
        again = lane.actor.ready.remote()

        def risen(call: Future[int]) -> None:
            if call.exception() is None:
                lane.up = True
            elif not self._closed and len(self._lanes) > 1:
                with self._lock:
                    if lane in self._lanes:
                        self._lanes.remove(lane)

        again.future().add_done_callback(risen)
