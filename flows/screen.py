"""The flow `screen`: a library of SMILES -> relaxed conformers with energies and forces -> Parquet.

The steps are those of run.py. What Prefect adds is here: a form, a task run for each range of
shards, a page to watch.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

from flows.call import ScreenCall, takes
from flows.engines import engine_of
from flows.reach import check_reach
from flows.report.write import NAME
from flows.run import run_screen
from flows.server import check_server
from flows.summary import markdown_summary
from flows.watch import Watcher, Watchers, current_watcher
from mlff_core.shard import StepReport
from mlff_core.store import Location, one_line, place_of
from mlff_core.tables import Manifest

T = TypeVar("T")

#: An update of the artifact costs some milliseconds and a row in the server's event table, so it
#: waits for this part of the time that the run has taken; two seconds at least.
SECONDS_BETWEEN_UPDATES = 2.0
PART_BETWEEN_UPDATES = 0.01
#: The run waits for a server that answers slowly, or not at all, for this part of its time.
MOST_OF_THE_TIME = 0.05


#: Where a browser finds what lies in the working folder of the worker, such as
#: http://127.0.0.1:8080: a page of a server may not open a file.
REPORTS_URL = "MLFF_SCREEN_REPORTS_URL"

#: Flow runs of this process that have not ended.
_running: set[UUID] = set()


def _run_name() -> str:
    """The library and the minute, which is what tells one night's run from the next."""
    library = Path(str(flow_run.parameters.get("library", ""))).name
    return f"{library} {datetime.now():%Y-%m-%d %H:%M}"


@flow(name="screen", flow_run_name=_run_name, persist_result=False)
@takes(ScreenCall)
def screen(**parameters: Any) -> dict[str, Any]:
    """Turn a library of SMILES into relaxed 3D conformers with energies and forces.

    1. Check the call; open the library and the model.
    2. Read the library, cut it into shards, claim the output folder.
    3. For each shard of each range: embed on all cores, relax on the device, write its tables.
    4. Reconcile the tables with the library: every record exactly once.
    5. Leave the manifest, and the summary as artifacts.
    """
    call = ScreenCall.of_form(parameters)
    if deployment.id is not None:  # asked for on a form, or by whoever reaches the server
        check_reach(call)
    if (flow_run.run_count or 1) > 1 and not call.append:  # which goes on by itself
        # A retry of this very run finishes what it began, whatever it was told about older results.
        call = call.model_copy(update={"overwrite": False, "resume": True})
    watchers = Watchers([Page(call.library), current_watcher()])
    this_run = UUID(str(flow_run.id))
    _running.add(this_run)
    try:
        engine = engine_of(call.engine, call.ray_address, call.workers)
        manifest = run_screen(call, engine, watchers, as_task_run)
    finally:
        _running.discard(this_run)
    out = place_of(call.out)
    return {"out": str(out), "n_records": manifest.library["n_records"], **manifest.counts}


def cancel_runs() -> None:
    """Tell the server that the runs of this process were stopped: it cannot know otherwise."""
    with get_client(sync_client=True) as client:
        for run in _running:
            client.set_flow_run_state(run, Cancelled(message="stopped by Ctrl-C"), force=True)


# Stages are tried again by themselves, and finished work is found by looking at the disk, so
# Prefect need not remember any result.
@task(name="shards", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_range(name: str, finish: Callable[[], int]) -> int:
    """Finish a range of shards; returns its records."""
    return finish()


def as_task_run(shards: Sequence[int], finish: Callable[[], int]) -> int:
    """Finish a range of shards as a Prefect task."""
    first, last = shards[0], shards[-1]
    return run_range(f"shard {first}" if first == last else f"shards {first} to {last}", finish)


def artifact_key(library: str, run: str, what: str) -> str:
    """A key of an artifact: the library's name, the begin of the run's id, and what it is."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(library).name.lower()).strip("-")[:40].strip("-")
    return "-".join(filter(None, (name, run[:8], what)))


def report_url(out: Location) -> str | None:
    """Where a browser finds the report of a run; None where nothing says."""
    base = os.environ.get(REPORTS_URL, "").rstrip("/")
    if not base or not isinstance(out, Path) or not out.is_relative_to(Path.cwd()):
        return None
    return f"{base}/{quote((out / NAME).relative_to(Path.cwd()).as_posix())}"


class Page(Watcher):
    """The flow run's page: its log, its progress, and what came of it."""

    def __init__(self, library: str) -> None:
        self._log = get_run_logger()
        self._key = partial(artifact_key, library, str(flow_run.id))
        self._n_records, self._done = 1, 0
        self._begun = self._next = time.monotonic()
        with get_client(sync_client=True) as client:
            self._url = str(client.api_url)
        self._progress: UUID | None = None

    def tell(self, sentence: str) -> None:
        """Write it into the log."""
        self._log.info(sentence)

    def begin(self, n_records: int, done: int) -> None:
        """Put a progress bar into the timeline."""
        self._n_records, self._done = max(n_records, 1), done
        # Prefect types it as perhaps a coroutine; in a flow that is not async it is none.
        self._progress = self._told(
            lambda: cast(
                UUID,
                create_progress_artifact(
                    self._percent(), key=self._key("progress"), description=self._count()
                ),
            )
        )

    def advance(self, stage: str, shard: int, report: StepReport) -> None:
        """Count records that are finished, written and all."""
        if stage == "write":
            self._done += report.n_records
            if time.monotonic() > self._next:
                self._update()

    def end(self, manifest: Manifest, out: Location) -> None:
        """Leave the summary, and a link to the report where a browser can follow one."""
        self._update()
        self._told(partial(self._sum_up, manifest, out))

    def _sum_up(self, manifest: Manifest, out: Location) -> None:
        create_markdown_artifact(
            markdown_summary(manifest, out), key=self._key("summary"), description=str(out)
        )
        if url := report_url(out):
            create_link_artifact(
                url, link_text=f"Report of {Path(out).name}", key=self._key("report"),
                description="Counts, reasons, distributions, molecules drawn and in space",
            )  # fmt: skip

    def _update(self) -> None:
        progress = self._progress
        if progress is None:
            return
        begun = time.monotonic()
        self._told(
            lambda: update_progress_artifact(progress, self._percent(), description=self._count())
        )
        now = time.monotonic()
        longer = (PART_BETWEEN_UPDATES * (now - self._begun), (now - begun) / MOST_OF_THE_TIME)
        self._next = now + max(SECONDS_BETWEEN_UPDATES, *longer)

    def _told(self, tell: Callable[[], T]) -> T | None:
        """Tell the server; one that is gone is no reason to end a run, whose files need none."""
        try:
            check_server(self._url)  # Prefect would ask again for a minute
            return tell()
        except Exception as error:
            self._log.warning("the page was not told: %s", one_line(error))
            return None

    def _count(self) -> str:
        return f"{self._done:,} of {self._n_records:,} records"

    def _percent(self) -> float:
        return 100.0 * self._done / self._n_records


if __name__ == "__main__":
    print(screen())
