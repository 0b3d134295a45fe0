"""Columns that a stage of its own adds to conformers: water around them, the teacher's opinion,
charges.

Such a stage judges the relaxed conformers of a shard as the tables will, computes what is asked for
of those that matter, and leaves a file of `Added` rows. Whoever writes the tables takes them over.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.properties.ensemble import populations
from mlff_core.schema import ConformerRow, MoleculeRow, column
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL

#: Conformers that a message names.
_MOST_NAMED: Final = 3


@dataclass(kw_only=True)
class Added:
    """What was computed of one conformer; the columns are those of `ConformerRow`."""

    KEY: ClassVar[tuple[str, ...]] = ("record", "variant", "conformer")

    record: int = column("int64", "record", required=True)
    variant: int = column("int16", "variant", required=True)
    conformer: int = column("int16", "conformer", required=True)
    solvation_kcal_mol: float | None = column("float64", "as there", "kcal/mol")
    teacher_energy_ev: float | None = column("float64", "as there", "eV")
    teacher_spread_kcal_mol: float | None = column("float64", "as there", "kcal/mol")
    charges_e: NDArray[np.float32] = column("list<float32>", "as there", "e")
    why: str | None = column("string", "why there is none")


#: What a stage computes; all else follows from it.
COMPUTED: Final = ("solvation_kcal_mol", "teacher_energy_ev", "teacher_spread_kcal_mol")


def worth_it(
    conformers: Iterable[ConformerRow], everywhere: Collection[tuple[int, int]] = ()
) -> list[ConformerRow]:
    """Judged conformers that a property is computed of: in the window, and no duplicates.

    Args:
        conformers: Of several molecules.
        everywhere: Record and variant of molecules of which all usable ones count.
    """
    return [
        c
        for c in conformers
        if c.duplicate_of is None
        and (
            c.in_window
            or ((c.record, c.variant) in everywhere and c.relative_energy_kcal_mol is not None)
        )
    ]


def add(
    molecules: Sequence[PreparedMolecule],
    conformers: Sequence[ConformerRow],
    added: Iterable[Added],
) -> None:
    """Take over what was computed into the rows of a shard, and what follows from it.

    Args:
        molecules: All of the shard, judged.
        conformers: All of theirs.
        added: What was computed, of some.
    """
    rows = {(c.record, c.variant, c.conformer): c for c in conformers}
    owners = {(m.record, m.variant): m for m in molecules}
    failed: dict[tuple[int, int], list[str]] = {}
    touched: dict[tuple[int, int], dict[int, ConformerRow]] = {}
    for one in added:
        key = one.record, one.variant
        row = rows[one.record, one.variant, one.conformer]
        touched.setdefault(key, {})[one.conformer] = row
        if one.why is not None:
            failed.setdefault(key, []).append(f"conformer {one.conformer}: {one.why}")
        for name in COMPUTED:
            if (value := getattr(one, name)) is not None:
                setattr(row, name, value)
        if len(one.charges_e):
            row.charges_e = one.charges_e
    for key, own in touched.items():
        _in_water(owners[key], list(own.values()))
        _by_the_teacher(owners[key], list(own.values()))
    for key, sentences in failed.items():
        more = len(sentences) - _MOST_NAMED
        told = sentences[:_MOST_NAMED] + ([f"and {more} more alike"] if more > 0 else [])
        molecule = owners[key]
        molecule.message = "; ".join(filter(None, (molecule.message, *told)))


def _in_water(molecule: MoleculeRow, conformers: Sequence[ConformerRow]) -> None:
    """Order and populations with the energy that water gives."""
    found = [c for c in conformers if c.solvation_kcal_mol is not None]
    if not found:
        return
    energy = [_energy(c) + (c.solvation_kcal_mol or 0.0) / EV_KCAL_MOL for c in found]
    lowest = min(energy)
    best = found[energy.index(lowest)]
    molecule.best_conformer_water, molecule.min_energy_water_ev = best.conformer, lowest
    for c, value in zip(found, energy, strict=True):
        c.relative_energy_water_kcal_mol = (value - lowest) * EV_KCAL_MOL
    weighed = [k for k, c in enumerate(found) if c.status == ConformerStatus.CONVERGED]
    if weighed:
        degeneracy = [found[k].degeneracy or 1 for k in weighed]
        weights = populations([energy[k] for k in weighed], degeneracy).weights
        for k, weight in zip(weighed, weights, strict=True):
            found[k].boltzmann_weight_water = float(weight)


def _by_the_teacher(molecule: MoleculeRow, conformers: Sequence[ConformerRow]) -> None:
    """Order by the teacher, and how far the model is from it where it is lowest."""
    found = [c for c in conformers if c.teacher_energy_ev is not None]
    if not found:
        return
    lowest = min(c.teacher_energy_ev or 0.0 for c in found)
    for c in found:
        assert c.teacher_energy_ev is not None
        c.relative_energy_teacher_kcal_mol = (c.teacher_energy_ev - lowest) * EV_KCAL_MOL
        if c.conformer == molecule.best_conformer:
            error = (_energy(c) - c.teacher_energy_ev) * EV_KCAL_MOL
            molecule.energy_above_teacher_kcal_mol = error


def _energy(conformer: ConformerRow) -> float:
    """Energy in eV of a conformer in the window, which has one."""
    assert conformer.energy_ev is not None
    return conformer.energy_ev
