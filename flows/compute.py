"""Shards of a plan through its stages, whoever runs them: embed -> relax -> write."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Literal

from flows.engines import Engine, pipeline
from flows.plan import OpenedCall, ScreenPlan
from flows.ranges import RunRange, plainly, ranges
from flows.settings import chemistry_of
from flows.stage import Stage
from flows.watch import Watcher
from mlff_core.store import open_store
from mlff_core.tables import Manifest, finished_shards
from mlff_core.tables.timeline import Timeline
from tasks import opened as live
from tasks.charges import charges
from tasks.embed import embed
from tasks.progress import heard_by
from tasks.relax import AT_ONCE as RELAXED_WITH
from tasks.relax import relax
from tasks.rescore import rescore
from tasks.solvate import solvate
from tasks.thermo import thermo
from tasks.write import write
from tasks.writer import WRITERS

#: Shards between the first stage and the last: one in each, another that is embedded, and one that
#: waits for the device, so that the device never waits for it; and where the card embeds.
SHARDS_IN_FLIGHT, IN_FLIGHT_WITH_CARD = 4, 8
#: Shards that are embedded at once, so that the next fills the cores while the last molecules of
#: one end. Where the card embeds, stragglers hold up a shard for seconds; others have the
#: processes meanwhile.
EMBEDDED_AT_ONCE, AT_ONCE_WITH_CARD = 2, 5
#: Shards in the stage that relaxes, one more than have the card at once: it is read meanwhile.
RELAXED_AT_ONCE = RELAXED_WITH["cuda"] + 1


def open_model(opened: OpenedCall, engine: Engine, watcher: Watcher) -> Literal["cpu", "cuda"]:
    """Load the model, which stays loaded for the run; returns the type of its device.

    Where other processes compute, each of them loads it when it has something to do.

    Raises:
        DeviceError: The device or the backend is not available here.
    """
    elsewhere = engine.device(opened.call.device)
    if elsewhere is not None:
        watcher.tell(f"device: {elsewhere}, {engine.lanes} side by side")
        return elsewhere
    # Torch takes seconds to import: the first words of a run do not wait for it.
    from mlff_core.models.potential import choose_device

    device: Literal["cpu", "cuda"] = (
        "cuda" if choose_device(opened.call.device).type == "cuda" else "cpu"
    )
    if opened.embedder(device) == "card":  # its processes take as long to start as the model
        chemistry = chemistry_of(opened.call, opened.model)
        live.embedding_processes(
            str(opened.work_dir), chemistry, opened.call.workers, device
        ).begin()
    models = [opened.model, *([opened.pre_model] if opened.pre_model else [])]
    seconds = live.compile_kernels(
        [model.file for model in models], device, opened.call.backend, opened.call.precision
    )
    if seconds > 1.0:
        watcher.tell(f"kernels compiled for this card in {seconds:.0f} s, which is done once")
    potential = live.potential(
        str(opened.work_dir), opened.model.file, opened.model.sha256, device, opened.call.backend,
        opened.call.precision,
    )  # fmt: skip
    watcher.tell(
        f"device: {potential.device_name}, backend {potential.backend} ({potential.why}), "
        f"{potential.precision}"
    )
    if potential.backend == "numba":
        from mlff_core.ops.numba.message import lie_compiled

        if not lie_compiled():
            watcher.tell(
                "the first molecules wait for kernels that are compiled for this host, once"
            )
    return device


def stages(plan: ScreenPlan) -> tuple[Stage, ...]:
    """What every shard goes through, in order, by reference to the plan."""
    call = plan.parameters
    return (
        Stage(
            "embed",
            embed,
            dict(
                work_dir=plan.work,
                chemistry=plan.chemistry,
                workers=call.workers,
                embedder=plan.embedder,
                device=plan.device,
            ),
            width=AT_ONCE_WITH_CARD if plan.embedder == "card" else EMBEDDED_AT_ONCE,
        ),
        Stage(
            "relax",
            relax,
            dict(**_model(plan), **_pre_model(plan), options=plan.relaxation),
            # One thread has the device: no two shards ever share its memory. Beside a card the next
            # one is read and the last one written meanwhile.
            width=RELAXED_AT_ONCE if plan.device == "cuda" else 1,
            retry_delay_s=5.0,
        ),
        *_properties(plan),
        Stage(
            "write",
            write,
            dict(
                work_dir=plan.work,
                out=plan.out,
                metadata=plan.part_metadata(),
                apart=plan.device == "cuda",
            ),
            width=WRITERS if plan.device == "cuda" else 1,
            retries=2,
        ),
    )


def _model(plan: ScreenPlan) -> dict[str, str]:
    """By what a task finds the model that is loaded."""
    call = plan.parameters
    return dict(
        work_dir=plan.work,
        model=plan.model.file,
        sha256=plan.model.sha256,
        device=plan.device,
        backend=call.backend,
        precision=call.precision,
    )


def _pre_model(plan: ScreenPlan) -> dict[str, str]:
    """The model that is walked with first, if there is one."""
    if plan.pre_model is None:
        return {}
    return dict(pre_model=plan.pre_model.file, pre_sha256=plan.pre_model.sha256)


def _properties(plan: ScreenPlan) -> Iterator[Stage]:
    """Stages that add columns, where these are asked for."""
    call = plan.parameters
    if call.thermo:  # first, as it may relax a conformer on
        yield Stage(
            "thermo",
            thermo,
            dict(
                **_model(plan),
                relaxation=plan.relaxation,
                temperature_k=call.temperature_k,
                pressure_pa=call.pressure_pa,
            ),
            width=1,
            retry_delay_s=5.0,
        )
    if plan.solvent is not None:
        yield Stage(
            "solvate",
            solvate,
            dict(work_dir=plan.work, seconds=call.solvent_seconds, workers=call.workers),
        )
    if plan.teacher is not None:
        yield Stage(
            "rescore",
            rescore,
            dict(
                work_dir=plan.work,
                teacher_file=plan.teacher[0],
                sha256=plan.teacher[1],
                device=plan.device,
            ),
        )
    if call.charges:
        yield Stage("charges", charges, _model(plan), width=1, retry_delay_s=5.0)


def compute(
    plan: ScreenPlan,
    manifest: Manifest,
    engine: Engine,
    watcher: Watcher,
    run_range: RunRange = plainly,
) -> None:
    """Move every unfinished shard through the stages, range by range; fill in the timings."""
    store = open_store(plan.out)
    finished = finished_shards(store, plan.run_key, plan.shards)
    unfinished = [shard for shard in plan.shards if shard not in finished]
    card = plan.embedder == "card"
    in_flight = (IN_FLIGHT_WITH_CARD if card else SHARDS_IN_FLIGHT) * engine.lanes
    watcher.begin(plan.library.n_records, plan.records_in(finished))
    written: dict[int, int] = {}  # shard -> its records
    manifest.timeline, began = Timeline(engine.lanes), time.monotonic()

    def finish(shards: Sequence[int]) -> int:
        """Hear of stages that end, until these shards are written; returns their records."""
        while not all(shard in written for shard in shards):
            stage, shard, report = next(ended)
            manifest.add_timings(report.timings_s)
            if report.slowest:
                manifest.add_slowest(report.slowest)
            now = time.monotonic() - began
            lasted = report.timings_s.get(stage.name, 0.0)
            for what, seconds in report.timings_s.items():
                manifest.timeline.add(what, now - lasted, now, seconds)
            if report.ran is not None and manifest.add_ran(asdict(report.ran)):
                manifest.write(store)  # a run that is cut off says what it ran on, too
            watcher.advance(stage.name, shard, report)
            if stage is last:
                written[shard] = report.n_records
        return sum(written.pop(shard) for shard in shards)

    with engine, heard_by(watcher.inside):
        every = stages(plan)
        last = every[-1]
        ended = pipeline(iter(unfinished), every, engine, in_flight)
        for shards in ranges(unfinished):
            run_range(shards, partial(finish, shards))
