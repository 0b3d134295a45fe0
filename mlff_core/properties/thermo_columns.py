"""Thermochemistry of a shard's best conformers, as columns of its molecules.

A stage of its own between the relaxation and the tables: it reads what both left, computes, and
writes the molecules with these columns filled in.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.symmetry import symmetry_number
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.cores import usable_cores
from mlff_core.models.force_field import ForceField
from mlff_core.moves.settings import RelaxSettings
from mlff_core.properties.saddles import leave_saddles
from mlff_core.properties.thermo import ThermoSettings, thermochemistry
from mlff_core.properties.vibrations import (
    ROUNDING_PER_CM,
    Geometry,
    hessians,
    n_imaginary,
    wavenumbers,
)
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus, Flag, MoleculeStatus
from mlff_core.units import EV_KCAL_MOL

#: Molecules whose Hessians are in memory at once; one of 250 atoms has 5 MB.
_AT_ONCE: Final = 256
_MOST_THREADS: Final = 8
#: How often a saddle point is relaxed on: the next stationary point may be one again.
_ROUNDS: Final = 3

_Chosen = tuple[PreparedMolecule, ConformerRow]
#: Hessian and wavenumbers; None where it does not fit into memory.
_Vibrations = tuple[np.ndarray | None, np.ndarray | None]


def add_thermochemistry(
    embedded_file: Path,
    relaxed_file: Path,
    potential: ForceField,
    settings: ThermoSettings,
    relaxation: RelaxSettings,
) -> None:
    """Fill in the columns of a shard's molecules whose best conformer converged.

    A conformer that turns out to be a saddle point is relaxed on first.

    Args:
        embedded_file: The molecules; written anew.
        relaxed_file: Their conformers; written anew if one was relaxed on.
        potential: What computes forces.
        settings: Temperature and pressure.
        relaxation: How the conformers were relaxed.
    """
    molecules = rows_of(read_arrow(embedded_file), PreparedMolecule)
    conformers = rows_of(read_arrow(relaxed_file), ConformerRow)
    chosen = best_minima(molecules, conformers)
    threads = min(_MOST_THREADS, usable_cores())
    with ThreadPoolExecutor(threads) as pool:

        def vibrate(some: Sequence[_Chosen]) -> list[_Vibrations]:
            geometries = [_geometry(*one) for one in some]
            found = hessians(geometries, potential, batching=relaxation.batching)
            jobs = [pool.submit(_modes, *one) for one in zip(geometries, found, strict=True)]
            return [(h, job.result()) for h, job in zip(found, jobs, strict=True)]

        moved = False
        for first in range(0, len(chosen), _AT_ONCE):
            some = chosen[first : first + _AT_ONCE]
            vibrations = vibrate(some)
            for _ in range(_ROUNDS):
                again = _relax_on(some, vibrations, potential, relaxation)
                for k, one in zip(again, vibrate([some[k] for k in again]), strict=True):
                    vibrations[k] = one
                moved = moved or bool(again)
            for (molecule, conformer), (_, modes) in zip(some, vibrations, strict=True):
                _fill(molecule, conformer, modes, settings)
    if moved:
        _rewrite(table_of(conformers, ConformerRow), relaxed_file)
    _rewrite(table_of(molecules, PreparedMolecule), embedded_file)


def _rewrite(table: pa.Table, file: Path) -> None:
    whole = file.with_suffix(".whole")
    write_arrow(table, whole)
    os.replace(whole, file)


def _geometry(molecule: PreparedMolecule, conformer: ConformerRow) -> Geometry:
    x = conformer.positions_angstrom.reshape(-1, 3)
    return conformer.atomic_numbers, x, molecule.charge or 0


def _relax_on(
    some: Sequence[_Chosen],
    vibrations: Sequence[_Vibrations],
    potential: ForceField,
    relaxation: RelaxSettings,
) -> list[int]:
    """Relax saddle points on along their softest mode; returns those that led somewhere."""
    saddles = [
        (k, hessian, n_imaginary(modes))
        for k, (hessian, modes) in enumerate(vibrations)
        if hessian is not None and modes is not None and n_imaginary(modes)
    ]
    if not saddles:
        return []
    ends = leave_saddles(
        [_geometry(*some[k]) for k, _, _ in saddles],
        [some[k][1].energy_ev or 0.0 for k, _, _ in saddles],
        [hessian for _, hessian, _ in saddles],
        [_topology(some[k][0]) for k, _, _ in saddles],
        potential,
        relaxation,
    )
    moved = []
    for (k, _, n), end in zip(saddles, ends, strict=True):
        if end is None:
            continue
        molecule, conformer = some[k]
        lower = ((conformer.energy_ev or 0.0) - end.energy) * EV_KCAL_MOL
        _add(
            molecule,
            f"its best conformer was a saddle point with {n} imaginary mode{'s' if n > 1 else ''}, "
            f"and was relaxed on from there, by {abs(lower):.2f} kcal/mol",
        )
        conformer.energy_ev, conformer.max_force_ev_per_angstrom = end.energy, end.max_force
        conformer.positions_angstrom = end.positions
        conformer.forces_ev_per_angstrom = end.forces
        conformer.n_steps = (conformer.n_steps or 0) + end.n_steps
        moved.append(k)
    return moved


def best_minima(
    molecules: Sequence[PreparedMolecule], conformers: Sequence[ConformerRow]
) -> list[tuple[PreparedMolecule, ConformerRow]]:
    """The conformer of each molecule that its row will call the best, if it is a minimum.

    Those that are none are told in the molecule's message.
    """
    of = {(m.record, m.variant): m for m in molecules if m.status == MoleculeStatus.OK}
    own: dict[tuple[int, int], list[ConformerRow]] = {}
    for c in conformers:
        own.setdefault((c.record, c.variant), []).append(c)
    # One that was embedded may have been rejected since.
    rows = [
        c
        for c in conformers
        if c.status == ConformerStatus.CONVERGED and (c.record, c.variant) in of
    ]
    topologies = []
    for c in rows:
        topologies.append(_topology(of[c.record, c.variant]))
    changes = rearrangements([c.positions_angstrom for c in rows], topologies) if rows else []
    best: dict[tuple[int, int], ConformerRow] = {}
    for c, change in zip(rows, changes, strict=True):
        key = c.record, c.variant
        if change is None and (key not in best or _order(c) < _order(best[key])):
            best[key] = c
    chosen = []
    for key, molecule in of.items():
        if any(c.status is None for c in own.get(key, [])):
            continue  # it did not fit into memory, and fails
        if key not in best:
            _tell(molecule, "no conformer converged")
        elif best[key].protons_held:
            _tell(molecule, "its best conformer is held by springs, and no minimum")
        elif len(molecule.frozen):
            _tell(molecule, "atoms were frozen")
        else:
            chosen.append((molecule, best[key]))
    return chosen


def _topology(molecule: PreparedMolecule) -> Topology:
    return Topology(molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)


def _order(conformer: ConformerRow) -> tuple[float, int]:
    assert conformer.energy_ev is not None
    return conformer.energy_ev, conformer.conformer


def _modes(
    geometry: tuple[np.ndarray, np.ndarray, int], hessian: np.ndarray | None
) -> np.ndarray | None:
    return None if hessian is None else wavenumbers(geometry[0], geometry[1], hessian)


def _fill(
    molecule: PreparedMolecule,
    conformer: ConformerRow,
    modes: np.ndarray | None,
    settings: ThermoSettings,
) -> None:
    if modes is None or not np.isfinite(modes).all():
        _tell(molecule, "its Hessian does not fit into memory or is not finite")
        return
    x = conformer.positions_angstrom.reshape(-1, 3)
    molecule.wavenumbers_per_cm = modes.astype(np.float32)
    molecule.lowest_wavenumber_per_cm = float(modes.min()) if len(modes) else None
    molecule.n_imaginary = n_imaginary(modes)
    if molecule.n_imaginary:
        molecule.flags.append(Flag.SADDLE_POINT)
        _tell(
            molecule,
            f"its best conformer has {molecule.n_imaginary} imaginary modes beyond "
            f"{ROUNDING_PER_CM:g}i cm-1, down to {-modes.min():.0f}i, and is no minimum",
        )
        return
    molecule.symmetry_number = symmetry_number(molecule.numbers, x, molecule.bonds)
    assert conformer.energy_ev is not None
    found = thermochemistry(
        molecule.numbers, x, conformer.energy_ev, modes, settings, molecule.symmetry_number
    )
    molecule.zero_point_energy_ev = found.zero_point_energy_ev
    molecule.enthalpy_ev = found.enthalpy_ev
    molecule.entropy_cal_mol_k = found.entropy_ev_k * EV_KCAL_MOL * 1000.0
    molecule.gibbs_energy_ev = found.gibbs_energy_ev


def _tell(molecule: PreparedMolecule, why: str) -> None:
    _add(molecule, f"no thermochemistry: {why}")


def _add(molecule: PreparedMolecule, sentence: str) -> None:
    molecule.message = f"{molecule.message}; {sentence}" if molecule.message else sentence
