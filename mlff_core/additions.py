"""Stages between relaxing a shard and writing it, that add columns: water, the teacher, charges.

Each reads the files of the steps before, judges the conformers as the tables will, and leaves a
file of its own. A stage that is run again begins anew.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.chem.molecule import PreparedMolecule, n_records
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.outcome import final_rows
from mlff_core.properties.added import Added, worth_it
from mlff_core.properties.charges import charges_of
from mlff_core.properties.teacher import MOST_CONFORMERS, HasMembers, rescore
from mlff_core.properties.water import solvate
from mlff_core.schema import ConformerRow
from mlff_core.shard import ShardFiles, StepReport
from mlff_core.status import Flag

if TYPE_CHECKING:
    from mlff_core.models.potential import Potential

Progress = Callable[[int], None]


def solvate_shard(
    files: ShardFiles, pool: EmbeddingPool, progress: Progress | None = None
) -> StepReport:
    """Compute the solvation energy in water of each conformer that matters.

    Args:
        files: Of the shard, relaxed.
        pool: Its processes compute, one conformer each at a time; its limit is that of one.
        progress: Called with the records that are through.
    """
    started = time.monotonic()
    molecules, conformers = judged(files)
    charges = {(m.record, m.variant): m.charge or 0 for m in molecules}
    # In vacuum the ions of a zwitterion hold each other, tens of kcal/mol below those apart.
    apart = {(m.record, m.variant) for m in molecules if Flag.ZWITTERION_IN_VACUUM in m.flags}
    wanted = worth_it(conformers, apart)
    tasks = (
        (k, None, "", np.asarray(c.atomic_numbers), c.positions_angstrom.reshape(-1, 3),
         charges[c.record, c.variant])
        for k, c in enumerate(wanted)
    )  # fmt: skip
    rows, n_all = [], n_records(molecules)
    for k, (conformer, found) in enumerate(zip(wanted, pool.map(tasks, solvate), strict=True)):
        row = Added(
            record=conformer.record, variant=conformer.variant, conformer=conformer.conformer
        )
        if isinstance(found, float):
            row.solvation_kcal_mol = found
        else:  # a molecule that failed is how the pool says that a process did not answer
            row.why = f"no solvation energy: {getattr(found, 'message', found)}"
        rows.append(row)
        if progress is not None:
            progress(n_all * (k + 1) // len(wanted))
    write_arrow(table_of(rows, Added), files.water)
    return StepReport(n_all, {"solvate": time.monotonic() - started})


def rescore_shard(
    files: ShardFiles, teacher: HasMembers, progress: Progress | None = None
) -> StepReport:
    """Ask the teacher about the lowest conformers of each molecule.

    Args:
        files: Of the shard, relaxed.
        teacher: Asked.
        progress: Called with the records that are through.
    """
    started = time.monotonic()
    molecules, conformers = judged(files)
    charges = {(m.record, m.variant): m.charge or 0 for m in molecules}
    own: dict[tuple[int, int], list[ConformerRow]] = {}
    for conformer in worth_it(conformers):
        own.setdefault((conformer.record, conformer.variant), []).append(conformer)
    wanted = [
        conformer
        for several in own.values()
        for conformer in sorted(several, key=lambda c: (c.energy_ev, c.conformer))[:MOST_CONFORMERS]
    ]
    answers = rescore(
        [
            (c.atomic_numbers, c.positions_angstrom.reshape(-1, 3), charges[c.record, c.variant])
            for c in wanted
        ],
        teacher,
    )
    rows = []
    for conformer, answer in zip(wanted, answers, strict=True):
        row = Added(
            record=conformer.record, variant=conformer.variant, conformer=conformer.conformer
        )
        if np.isfinite(answer.energy_ev):
            row.teacher_energy_ev = answer.energy_ev
            row.teacher_spread_kcal_mol = answer.spread_kcal_mol
        else:
            row.why = "the teacher gave no finite energy"
        rows.append(row)
    write_arrow(table_of(rows, Added), files.teacher)
    if progress is not None:
        progress(n_records(molecules))
    return StepReport(n_records(molecules), {"rescore": time.monotonic() - started})


def charge_shard(
    files: ShardFiles, potential: "Potential", progress: Progress | None = None
) -> StepReport:
    """Partial charges of conformers that the tables have and that have an energy, where each ended.

    Args:
        files: Of the shard, relaxed.
        potential: What relaxed it; it has charges.
        progress: Called with the records that are through.
    """
    started = time.monotonic()
    molecules, conformers = judged(files)
    rows = [
        Added(record=c.record, variant=c.variant, conformer=c.conformer, charges_e=charges)
        for c, charges in charges_of(molecules, conformers, potential)
    ]
    write_arrow(table_of(rows, Added), files.charges)
    n_all = n_records(molecules)
    if progress is not None:
        progress(n_all)
    return StepReport(n_all, {"charges": time.monotonic() - started})


def judged(files: ShardFiles) -> tuple[list[PreparedMolecule], list[ConformerRow]]:
    """Molecules and conformers of a relaxed shard, as its tables will have them."""
    molecules = rows_of(read_arrow(files.embedded), PreparedMolecule)
    return molecules, final_rows(molecules, rows_of(read_arrow(files.relaxed), ConformerRow))
