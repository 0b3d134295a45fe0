"""The flow `screen`: a library of SMILES -> relaxed conformers with energies and forces -> Parquet.

Shards of the library move through three tasks, embed -> relax -> write, and the stages overlap:
while one shard is relaxed, the next is embedded and the last is written. A bounded number of
shards is under way at once, so memory and intermediate files stay bounded. What is finished is
told by the files alone, not by Prefect's states.
"""

import time
from collections.abc import Iterator
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.futures import PrefectConcurrentFuture, as_completed
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import (
    BackendChoice,
    Batching,
    Conformers,
    DeviceChoice,
    Fmax,
    IdColumn,
    LibraryLocation,
    Limit,
    MaxAtoms,
    MaxSteps,
    ModelChoice,
    MoleculeSeconds,
    Optimizer,
    OutputFolder,
    Overwrite,
    PrecisionChoice,
    Resume,
    Seed,
    ShardSize,
    SmilesColumn,
    Workers,
)
from flows.plan import ScreenPlan, make_plan
from flows.progress import Progress
from flows.summary import markdown_summary
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.shard import ShardFiles, StepReport, write_records
from mlff_core.tables import Manifest, finished_shards, reconcile
from tasks.embed import embed
from tasks.relax import relax
from tasks.write import write

#: Shards between reading and writing: one in each stage, and one that waits for the device, so
#: that the device never waits for it.
SHARDS_IN_FLIGHT = 4


@flow(name="screen", persist_result=False)
def screen(
    library: LibraryLocation = "datasets/druglike",
    out: OutputFolder = "out/druglike",
    smiles_column: SmilesColumn = None,
    id_column: IdColumn = None,
    conformers: Conformers = 1,
    optimizer: Optimizer = "lbfgs",
    fmax: Fmax = 0.05,
    max_steps: MaxSteps = 300,
    device: DeviceChoice = "auto",
    backend: BackendChoice = "auto",
    precision: PrecisionChoice = "float32",
    model: ModelChoice = "default",
    batching: Batching = "auto",
    shard_size: ShardSize = None,
    limit: Limit = None,
    max_atoms: MaxAtoms = 250,
    seed: Seed = 20_260_101,
    molecule_seconds: MoleculeSeconds = 60.0,
    workers: Workers = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> dict[str, Any]:
    """Turn a library of SMILES into relaxed 3D conformers with energies and forces.

    1. Check the call, the library and the model; claim the output folder.
    2. For each shard: embed on all cores, relax on the device, write its tables.
    3. Reconcile the tables with the library: every record exactly once.
    4. Leave the manifest, and the summary as artifacts.
    """
    log = get_run_logger()
    # A retry of this very run finishes what it began, whatever it was told about older results.
    retried = (flow_run.run_count or 1) > 1
    plan = make_plan(
        library=library,
        out=out,
        smiles_column=smiles_column,
        id_column=id_column,
        conformers=conformers,
        optimizer=optimizer,
        fmax=fmax,
        max_steps=max_steps,
        device=device,
        backend=backend,
        precision=precision,
        model=model,
        batching=batching,
        shard_size=shard_size,
        limit=limit,
        max_atoms=max_atoms,
        seed=seed,
        molecule_seconds=molecule_seconds,
        workers=workers,
        overwrite=overwrite and not retried,
        resume=resume or retried,
    )
    for note in plan.library.notes:
        log.info("library: %s", note)
    manifest = plan.claim_output()
    log.info(
        "%d records in shards of %d; model %s on %s (%s)",
        plan.n_records, plan.shard_size, plan.potential.name, plan.potential.device,
        plan.potential.backend,
    )  # fmt: skip

    started = time.monotonic()
    run_shards(plan, manifest)
    manifest.counts = reconcile(plan.out_dir, plan.n_records).to_dict()
    manifest.timings_s["total"] = manifest.timings_s.get("total", 0.0) + time.monotonic() - started
    plan.release_output(manifest)

    create_markdown_artifact(markdown_summary(manifest, plan.out_dir), key="screen-summary")
    create_link_artifact(
        plan.out_dir.as_uri(), link_text=str(plan.out_dir), key="screen-tables",
        description="Folder of the tables `molecules` and `conformers`",
    )  # fmt: skip
    return {"out": str(plan.out_dir), "n_records": plan.n_records, **manifest.counts}


def run_shards(plan: ScreenPlan, manifest: Manifest) -> None:
    """Move every unfinished shard through embed, relax and write; fill in the timings."""
    finished = finished_shards(plan.out_dir, plan.run_key)
    waiting = unfinished_shards(plan, finished)
    under_way: dict[PrefectConcurrentFuture[StepReport], tuple[str, ShardFiles]] = {}
    metadata = plan.part_metadata()
    with (
        Progress(plan.n_records, done=plan.records_in(finished)) as progress,
        EmbeddingPool(plan.chemistry, plan.workers) as pool,
        # Two, so that the next shard fills the cores while the last molecules of one finish.
        ThreadPoolTaskRunner[StepReport](max_workers=2) as embedders,
        # One thread has the device: no two shards ever share its memory.
        ThreadPoolTaskRunner[StepReport](max_workers=1) as relaxers,
        ThreadPoolTaskRunner[StepReport](max_workers=1) as writers,
    ):
        while True:
            while len(under_way) < SHARDS_IN_FLIGHT and (files := next(waiting, None)):
                future = embedders.submit(
                    embed, dict(shard=files.shard, records_file=files.records,
                                embedded_file=files.embedded, pool=pool)
                )  # fmt: skip
                under_way[future] = ("embed", files)
            if not under_way:
                return
            future = cast(PrefectConcurrentFuture, next(as_completed(list(under_way))))
            stage, files = under_way.pop(future)
            report = future.result()
            manifest.add_timings(report.timings_s)
            if stage == "embed":
                following = relaxers.submit(
                    relax, dict(shard=files.shard, embedded_file=files.embedded,
                                relaxed_file=files.relaxed, potential=plan.potential,
                                settings=plan.relaxation)
                )  # fmt: skip
                under_way[following] = ("relax", files)
            elif stage == "relax":
                following = writers.submit(
                    write, dict(shard=files.shard, embedded_file=files.embedded,
                                relaxed_file=files.relaxed, out_dir=plan.out_dir,
                                metadata=metadata)
                )  # fmt: skip
                under_way[following] = ("write", files)
            else:
                files.remove()
                progress.advance(report.n_records)


def unfinished_shards(plan: ScreenPlan, finished: set[int]) -> Iterator[ShardFiles]:
    """The files of each shard that is still to do, its records written, in order."""
    for shard, records in plan.library.shards(plan.shard_size, plan.n_records):
        if shard not in finished:
            files = ShardFiles.of(plan.work_dir, shard)
            write_records(records, files.records)
            yield files


if __name__ == "__main__":
    print(screen())
