"""One run of the screen, step by step: in this process, or as the Prefect flow of screen.py.

Shards of the library move through three stages, embed -> relax -> write, and the stages overlap:
while one shard is relaxed, the next is embedded and the last is written. What is finished is told
by the files alone, not by who ran them.
"""

import shutil
import time
from datetime import UTC, datetime

from flows.append import append_screen
from flows.call import ScreenCall
from flows.compute import compute, open_model
from flows.engines import Engine
from flows.plan import OpenedCall, ScreenPlan, make_plan, open_call
from flows.ranges import RunRange, plainly
from flows.report.write import leave_report
from flows.watch import Watcher
from mlff_core.errors import OutputError
from mlff_core.store import open_store
from mlff_core.tables import Manifest, open_output, reconcile
from tasks import opened as live
from tasks.ingest import ingest


def run_screen(
    call: ScreenCall, engine: Engine, watcher: Watcher, run_range: RunRange = plainly
) -> Manifest:
    """Turn a library of SMILES into relaxed 3D conformers with energies and forces.

    Args:
        call: What is asked for.
        engine: Who computes.
        watcher: Who is told.
        run_range: Runs each range of shards.

    Raises:
        MlffError: What the call names cannot be used, or the tables do not add up.
    """
    if call.append:
        return append_screen(call, engine, watcher, run_range)
    opened = open_call(call)
    for sentence in opened.sentences():
        watcher.tell(sentence)
    try:
        device = open_model(opened, engine, watcher)
        watcher.tell(f"starting geometries: {opened.embedder(device)}")
        # Two runs that write into one folder would take each other's files away.
        with open_store(opened.out_dir).lock("run"):
            plan = read_library(opened, device)
            for note in plan.library.notes[len(opened.library.notes) :]:
                watcher.tell(f"library: {note}")
            manifest = claim_output(plan)
            watcher.tell(f"{plan.library.n_records:,} records in shards of {plan.shard_size:,}")
            started = time.monotonic()
            compute(plan, manifest, engine, watcher, run_range)
            manifest.counts = reconcile(
                open_store(plan.out), plan.library.n_records, plan.run_key
            ).to_dict()
            manifest.add_timings({"total": time.monotonic() - started})
            release_output(plan, manifest)
            leave_report(open_store(opened.out_dir))
            watcher.end(manifest, opened.out_dir)
    finally:
        live.close(str(opened.work_dir))
    return manifest


def read_library(opened: OpenedCall, device: str) -> ScreenPlan:
    """Read the library, once: its records lie in shards, and the plan is known.

    Raises:
        LibraryError: The library breaks off or cannot be read on.
    """
    if opened.work_dir.is_symlink():  # who put it there would have us write elsewhere
        raise OutputError(f"{opened.work_dir}: is a symbolic link; remove it")
    shutil.rmtree(opened.work_dir, ignore_errors=True)  # of a run that was cut off
    shard_size = opened.shard_size(device)
    try:
        opened.work_dir.mkdir(parents=True)
        read = ingest(opened.library, str(opened.work_dir), shard_size, opened.call.limit)
    except BaseException:
        shutil.rmtree(opened.work_dir, ignore_errors=True)
        raise
    return make_plan(opened, read, shard_size=shard_size, device=device)


def claim_output(plan: ScreenPlan) -> Manifest:
    """Make the output folder ours and leave an unfinished manifest in it.

    Raises:
        OutputError: It cannot be written, or holds results that are in the way.
    """
    call = plan.parameters
    try:
        return open_output(
            open_store(plan.out), plan.manifest(), overwrite=call.overwrite, resume=call.resume
        )
    except BaseException:
        shutil.rmtree(plan.work, ignore_errors=True)
        raise


def release_output(plan: ScreenPlan, manifest: Manifest) -> None:
    """Mark the run finished and remove the intermediate files."""
    manifest.finished = datetime.now(UTC).isoformat(timespec="seconds")
    manifest.write(open_store(plan.out))
    shutil.rmtree(plan.work, ignore_errors=True)
