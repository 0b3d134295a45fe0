"""Add to tables what a library has and they do not: one generation, of new structures only.

The order of a plain run, run.py, with two differences: the library is compared with the tables
first, and the manifest keeps the tables that readers see until the generation is whole.
"""

import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.call import ScreenCall
from flows.compute import compute, open_model
from flows.engines import Engine
from flows.plan import OpenedCall, ScreenPlan, make_plan, open_call
from flows.ranges import RunRange, plainly
from flows.watch import Watcher
from mlff_core.errors import OutputError
from mlff_core.library import Library, open_library
from mlff_core.library.ingest import IngestReport
from mlff_core.library.recognise import library_files
from mlff_core.store import Store, open_store
from mlff_core.tables import Manifest, read_manifest, reconcile
from mlff_core.tables.generations import (
    Generation,
    close_cut_off,
    entries_of,
    generations_of,
    key_of,
)
from tasks import opened as live

if TYPE_CHECKING:
    from mlff_core.append import NewReport


def append_screen(
    call: ScreenCall, engine: Engine, watcher: Watcher, run_range: RunRange = plainly
) -> Manifest:
    """Screen the structures of a library, or of a folder of them, that the tables do not have.

    Raises:
        MlffError: What the call names cannot be used, the tables were made with other settings, or
            they do not add up.
    """
    files = library_files(call.library)
    opened = open_call(call.model_copy(update={"library": files[0]}))
    libraries = [
        opened.library,
        *(open_library(file, call.smiles_column, call.id_column) for file in files[1:]),
    ]
    for sentence in opened.sentences():
        watcher.tell(sentence)
    store = open_store(opened.out_dir)
    try:
        with store.lock("run"):
            manifest, generations = _earlier(store, opened)
            before = dict(manifest.library.get("files", {})) if manifest else {}
            found = {library.sha256(): library for library in libraries}
            unread = {sha: library for sha, library in found.items() if sha not in before}
            if manifest is not None and not unread and all(g.finished for g in generations):
                watcher.tell("nothing new: every library was read before")
                watcher.end(manifest, opened.out_dir)
                return manifest
            device = open_model(opened, engine, watcher)
            if manifest is None:
                manifest = _plan(opened, device).manifest()
                manifest.library["n_records"] = 0
            generations = close_cut_off(store, generations, _now())
            _put(store, manifest, generations)
            plan = _read_new(opened, device, store, unread, generations, watcher)
            if plan.library.n_records:
                _compute(store, plan, manifest, generations, engine, watcher, run_range)
            manifest.library["files"] = before | {sha: one.file for sha, one in unread.items()}
            _put(store, manifest, generations)
            watcher.end(manifest, opened.out_dir)
    finally:
        live.close(str(opened.work_dir))
        shutil.rmtree(opened.work_dir, ignore_errors=True)
    return manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _earlier(store: Store, opened: OpenedCall) -> tuple[Manifest | None, list[Generation]]:
    """What is there to be added to.

    Raises:
        OutputError: It is of another kind, or a plain run that is not finished.
    """
    manifest = read_manifest(store)
    if manifest is None:
        if store.list("molecules"):
            raise OutputError(f"{store.location}: holds tables of an unknown run")
        return None, []
    generations = generations_of(manifest)
    if not generations and "files" not in manifest.library:
        raise OutputError(f"{store.location}: holds a run unfinished; --resume ends it first")
    # Who embeds is of the settings; the device is not, and torch, which knows it, takes seconds.
    device = "cuda" if opened.embedder("cuda") == "card" else "cpu"
    _check_settings(store, manifest, _plan(opened, device))
    if not manifest.generations and manifest.library.get("hashed") == "file":
        manifest.library.setdefault(
            "files", {manifest.library["sha256"]: manifest.library["location"]}
        )
    return manifest, generations


def _check_settings(store: Store, manifest: Manifest, plan: ScreenPlan) -> None:
    was, now = (_flat(settings) for settings in (manifest.settings, plan.manifest().settings))
    differ = [
        f"{name} was {was.get(name)}, is {now.get(name)}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    if differ:
        raise OutputError(
            f"{store.location}: cannot be added to, its tables were made otherwise "
            f"({'; '.join(differ)}); choose another folder"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of settings by their own names."""
    return {
        name: value
        for outer, inner in settings.items()
        for name, value in (inner if isinstance(inner, dict) else {outer: inner}).items()
    }


def _plan(
    opened: OpenedCall, device: str, new: "NewReport | None" = None, after: Generation | None = None
) -> ScreenPlan:
    """The plan of a generation; without one, of nothing, for the settings."""
    shard_size = opened.shard_size(device)
    n_new, sha256 = (new.n_new, new.sha256) if new else (0, "")
    read = IngestReport(
        n_records=n_new,
        shard_size=shard_size,
        n_shards=-(-n_new // shard_size),
        sha256=sha256,
        hashed="records",
        smiles_column=opened.library.smiles_column,
        id_column=opened.library.id_column,
        notes=opened.library.notes,
    )
    plan = make_plan(opened, read, shard_size=shard_size, device=device)
    if after is None:
        return plan
    return plan.model_copy(
        update={
            "first_record": after.first_record + after.n_records,
            "first_shard": after.shards.stop,
        }
    )


def _read_new(
    opened: OpenedCall,
    device: str,
    store: Store,
    unread: dict[str, Library],
    generations: list[Generation],
    watcher: Watcher,
) -> ScreenPlan:
    """Write what is new as records into the work folder; the plan of their generation."""
    if opened.work_dir.is_symlink():  # who put it there would have us write elsewhere
        raise OutputError(f"{opened.work_dir}: is a symbolic link; remove it")
    shutil.rmtree(opened.work_dir, ignore_errors=True)  # of a run that was cut off
    opened.work_dir.mkdir(parents=True)
    # Polars and the hashes of the tables are of use here only.
    from mlff_core.append import known_structures, write_new

    last = generations[-1] if generations else None
    begin = _plan(opened, device, None, last)
    new = write_new(
        unread.values(),
        known_structures(store, range(begin.first_shard)),
        begin.chemistry,
        opened.work_dir,
        shard_size=begin.shard_size,
        first_record=begin.first_record,
        first_shard=begin.first_shard,
        limit=opened.call.limit,
        workers=opened.call.workers,
    )
    watcher.tell(
        f"{new.n_new:,} new structures among {new.n_read:,} entries, after "
        f"{begin.first_record:,} records"
    )
    return _plan(opened, device, new, last)


def _compute(
    store: Store,
    plan: ScreenPlan,
    manifest: Manifest,
    generations: list[Generation],
    engine: Engine,
    watcher: Watcher,
    run_range: RunRange,
) -> None:
    """Compute a generation, prove that nothing is missing, and let readers see it."""
    generations.append(
        Generation(
            plan.run_key,
            plan.first_record,
            plan.library.n_records,
            plan.first_shard,
            plan.shard_size,
            _now(),
        )
    )
    manifest.generations = entries_of(generations)
    manifest.write(store)
    started = time.monotonic()
    compute(plan, manifest, engine, watcher, run_range)
    n_records = plan.first_record + plan.library.n_records
    manifest.counts = reconcile(store, n_records, key_of(generations)).to_dict()
    manifest.add_timings({"total": time.monotonic() - started})
    generations[-1].finished = _now()


def _put(store: Store, manifest: Manifest, generations: list[Generation]) -> None:
    """Write what readers see from now on: finished generations."""
    manifest.generations = entries_of(generations)
    manifest.library["n_records"] = sum(g.n_records for g in generations)
    if not manifest.counts and not generations:
        manifest.counts = reconcile(store, 0).to_dict()
    manifest.finished = _now() if all(g.finished for g in generations) else None
    manifest.write(store)
