"""A screen in which the chemistry and the model are a sleep of their measured cost.

All else is real: the library is read and cut, shards go through the engine and the files between
the stages, parts are written with their checksums, ranges are told, and the tables are proved.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa

import flows.compute
import flows.run
from benchmarks.ingest import write_library
from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.plan import ScreenPlan
from flows.stage import Stage
from flows.watch import Watcher
from mlff_core.arrow import read_arrow, schema_of, table_of, write_arrow
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.library.records import read_records
from mlff_core.schema import ConformerRow, MoleculeRow
from mlff_core.shard import ShardFiles, StepReport
from mlff_core.status import ConformerStatus
from mlff_core.store import open_store
from mlff_core.tables import read_manifest, write_part

#: Seconds of a card for a conformer of 40 atoms: 1,267 of the default model in a second.
COST_S = 1 / 1267
SHARD_SIZE = 10_000


@cache
def molecule(smiles: str) -> PreparedMolecule:
    """The molecule that all records are."""
    return prepare(0, None, smiles, ChemistrySettings())


@cache
def conformers(smiles: str) -> pa.Table:
    """A shard of conformers that no compression makes small: their numbers are random."""
    numbers = molecule(smiles).numbers
    noise = np.random.default_rng(0).normal(size=(SHARD_SIZE, 2, 3 * len(numbers)))
    rows = [
        ConformerRow(
            record=k, variant=0, conformer=0, status=ConformerStatus.CONVERGED,
            energy_ev=-1e4 + k, initial_energy_ev=-1e4 + k, relative_energy_kcal_mol=0.0,
            boltzmann_weight=1.0, max_force_ev_per_angstrom=0.04, n_steps=k % 100,
            rmsd_to_initial_angstrom=0.5, atomic_numbers=numbers, positions_angstrom=noise[k, 0],
            forces_ev_per_angstrom=noise[k, 1], bucket="large", batch_size=1024,
        )
        for k in range(SHARD_SIZE)
    ]  # fmt: skip
    return table_of(rows, ConformerRow)


@cache
def molecules(smiles: str) -> pa.Table:
    """A shard of molecules, but for what the library says of each."""
    row = molecule(smiles)
    row.n_conformers = row.n_converged = 1
    row.best_conformer, row.min_energy_ev = 0, -1e4
    return table_of([row] * SHARD_SIZE, MoleculeRow)


def numbered(table: pa.Table, **columns: Sequence[Any]) -> pa.Table:
    """As many rows of a table, with other values in some columns."""
    table = table.slice(0, len(next(iter(columns.values()))))
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.array(values, table.schema[at].type)
        )
    return table


class Cpu:
    """CPU seconds of a thread, by what it did: what a report's timings are here."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._since = time.thread_time()

    def was(self, what: str) -> None:
        """All since the last word was this."""
        now = time.thread_time()
        self.spent[what] = self.spent.get(what, 0.0) + now - self._since
        self._since = now


def embed(shard: int, work_dir: str, smiles: str) -> StepReport:
    """Read the records of a shard; leave molecules as the chemistry would."""
    cpu = Cpu()
    records = read_records(Path(work_dir), shard)
    cpu.was("between")
    table = numbered(
        molecules(smiles),
        record=[r.record for r in records],
        input_id=[r.input_id for r in records],
        input_smiles=[r.smiles for r in records],
    )
    cpu.was("simulation")
    write_arrow(table, ShardFiles.of(Path(work_dir), shard).embedded)
    cpu.was("between")
    return StepReport(len(records), cpu.spent)


def relax(shard: int, work_dir: str, smiles: str, cost_s: float) -> StepReport:
    """Sleep for as long as a card would be busy."""
    cpu = Cpu()
    files = ShardFiles.of(Path(work_dir), shard)
    records = read_arrow(files.embedded)["record"]
    cpu.was("between")
    time.sleep(cost_s * len(records))
    table = numbered(conformers(smiles), record=records.to_pylist())
    cpu.was("simulation")
    write_arrow(table, files.relaxed)
    cpu.was("between")
    return StepReport(len(records), cpu.spent)


def write(shard: int, work_dir: str, out: str, metadata: dict[str, str]) -> StepReport:
    """Write the parts of a shard, conformers first."""
    cpu = Cpu()
    files = ShardFiles.of(Path(work_dir), shard)
    for row_type, file in ((ConformerRow, files.relaxed), (MoleculeRow, files.embedded)):
        table = read_arrow(file).cast(schema_of(row_type))
        cpu.was("between")
        write_part(table, out, shard, metadata)
        cpu.was("tables")
    n_records = table.num_rows
    files.remove()
    cpu.was("between")
    return StepReport(n_records, cpu.spent, {"ok": n_records})


class Lanes(LocalEngine):
    """Threads that stand for so many cards."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n

    @property
    def lanes(self) -> int:
        """Cards."""
        return self._n


class Stopwatch(Watcher):
    """When a run began to compute and when its last shard was written, by clock and by CPU."""

    begun: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)
    n_ranges: int = 0
    records_bytes: int = 0

    def __init__(self, work: Path) -> None:
        self._work = work
        self.cpu_s = dict.fromkeys(("simulation", "between", "tables"), 0.0)

    def begin(self, n_records: int, done: int) -> None:
        """The library is read, the folder is ours, and what is finished is known."""
        self.begun = self.last = now()
        self.records_bytes = sum(p.stat().st_size for p in self._work.glob("records-*"))

    def advance(self, stage: str, shard: int, report: StepReport) -> None:
        """A stage has ended."""
        self.last = now()
        for what, seconds in report.timings_s.items():
            self.cpu_s[what] += seconds

    def run_range(self, shards: Sequence[int], finish: Callable[[], int]) -> int:
        """Count the ranges: a server would keep a task run for each."""
        self.n_ranges += 1
        return finish()


def now() -> tuple[float, float]:
    """Seconds, and those of this process's CPU with its children's."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(u.ru_utime + u.ru_stime for u in used)


def simulated_stages(
    smiles: str, lanes: int, cost_s: float
) -> Callable[[ScreenPlan], tuple[Stage, ...]]:
    """The three stages, as wide as so many cards would have them."""

    def stages(plan: ScreenPlan) -> tuple[Stage, ...]:
        work = dict(work_dir=plan.work)
        return (
            Stage("embed", embed, work | dict(smiles=smiles), width=2),
            Stage("relax", relax, work | dict(smiles=smiles, cost_s=cost_s), width=lanes),
            Stage("write", write, work | dict(out=plan.out, metadata=plan.part_metadata())),
        )

    return stages


def call_of(folder: Path, n_records: int, *, resume: bool = False) -> ScreenCall:
    """A library of so many records, and a call to screen it."""
    library = folder / "library.smi.gz"
    if not library.exists():
        write_library(library, n_records)
    return ScreenCall(
        library=str(library), out=str(folder / "out"), model="small", device="cpu",
        shard_size=SHARD_SIZE, resume=resume,
    )  # fmt: skip


def measured(
    folder: Path, n_records: int, smiles: str, lanes: int, cost_s: float, *, resume: bool
) -> dict[str, Any]:
    """One screen in this process, which is fresh: its memory is what the screen takes."""
    call = call_of(folder, n_records, resume=resume)
    flows.compute.stages = simulated_stages(smiles, lanes, cost_s)  # type: ignore[assignment]
    before, imports = now(), peak_mib()
    watch = Stopwatch(folder / "out" / ".mlff-screen")
    report, flows.run.leave_report = flows.run.leave_report, lambda store: True
    manifest = flows.run.run_screen(call, Lanes(lanes), watch, watch.run_range)
    proved, at_the_proof = now(), peak_mib()
    if not report(open_store(call.out)):
        raise ArithmeticError("there is no report")
    after = now()
    n_bytes = sum(p.stat().st_size for p in Path(call.out).glob("*/part-*"))
    times = {
        name: {"s": b[0] - a[0], "cpu_s": b[1] - a[1]}
        for name, a, b in (
            ("until the first shard", before, watch.begun),
            ("shards", watch.begun, watch.last),
            ("proof", watch.last, proved),
            ("report", proved, after),
        )
    }
    return {
        "records": n_records,
        "atoms": len(molecule(smiles).numbers),
        "lanes": lanes,
        "sleep_s": n_records * cost_s / lanes,
        "task_runs": watch.n_ranges,
        "ok": manifest.counts["status"]["ok"],
        "bytes": n_bytes,
        "records_bytes": watch.records_bytes,
        "peak_mib_of_imports": imports,
        "peak_mib": at_the_proof,
        "peak_mib_with_report": peak_mib(),
        "times": times,
        "cpu_s": watch.cpu_s,
    }


def cut_off(folder: Path, part: float) -> list[str]:
    """Take the last shards of a finished run away, as if it had been killed; those that stay."""
    out = folder / "out"
    names = sorted(p.name for p in out.glob("molecules/part-*"))
    n_kept = round(part * len(names))
    for name in names[n_kept:]:
        (out / "molecules" / name).unlink()
    manifest = read_manifest(out)
    assert manifest is not None
    manifest.finished = None
    manifest.write(out)
    return names[:n_kept]


def resumed(folder: Path, n_records: int, smiles: str, lanes: int, cost_s: float) -> dict[str, Any]:
    """A run that is nine tenths done, gone on with; refuses if it did anything again."""
    kept = cut_off(folder, 0.9)
    molecules = folder / "out" / "molecules"
    before = {name: (molecules / name).stat().st_mtime_ns for name in kept}
    found = measured(folder, n_records, smiles, lanes, cost_s, resume=True)
    if any((molecules / name).stat().st_mtime_ns != when for name, when in before.items()):
        raise ArithmeticError("a finished shard was done again")
    return found | {"resumed": True, "shards_kept": len(kept)}


def peak_mib() -> float:
    """The most memory that this process had in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    what, given = sys.argv[1], json.loads(sys.argv[2])
    given["folder"] = Path(given["folder"])
    found = measured(**given, resume=False) if what == "whole" else resumed(**given)
    print(json.dumps(found))
