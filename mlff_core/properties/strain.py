"""Strain of given poses: how far above the lowest minimum of its molecule a pose lies.

1. Hydrogens are relaxed, since they were placed by rule.
2. Heavy atoms are relaxed within a flat bottom about the pose: that takes out what a model of bond
   lengths and a crystal structure disagree about, and leaves the conformation.
3. All atoms are relaxed freely, to the minimum that the pose falls into.
4. The molecule's other minima are searched for; those of all its poses are among them.

The recipe is that of StrainRelief 0.5 with a flat bottom for its loose minimisation. In vacuum
charged groups collapse on each other, so charged poses need a solvent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from rdkit import Chem

from mlff_core.chem.held import SANE, stretched
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.models.force_field import ForceField
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.held import relax_where_protons_moved
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.tethered import relax_tethered
from mlff_core.status import ConformerStatus, Flag, FoundBy, MoleculeStatus, Reason
from mlff_core.tables.strain_row import StrainRow
from mlff_core.units import EV_KCAL_MOL

#: Atomic numbers, positions in Å [n_atoms, 3] and charge.
Geometry = tuple[np.ndarray, np.ndarray, int]
#: Energies of solvation of geometries in eV; None where one cannot be computed.
Solvate = Callable[[Sequence[Geometry]], Sequence[float | None]]

#: A search relaxes loosely to this largest force first, eV/Å: about 1 kcal/mol is left (median).
LOOSE: Final = 0.05
#: kcal/mol above the lowest, so relaxed, up to which conformers are relaxed on; and most of them.
WINDOW_KCAL_MOL: Final = 3.0
MOST_RELAXED_ON: Final = 12
#: kcal/mol above the lowest in vacuum up to which a solvent is asked.
SOLVENT_WINDOW_KCAL_MOL: Final = 12.0
#: kcal/mol within which the search has found what a pose fell into.
SAME_KCAL_MOL: Final = 0.1
_ENDED: Final = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)


@dataclass(frozen=True)
class StrainSettings:
    """How strain is computed.

    Attributes:
        reach: Half of the width of the flat bottom about the pose, Å.
        fmax: Largest force left in geometries whose energies are reported, eV/Å.
        max_steps: Of each relaxation.
    """

    reach: float = 0.3
    fmax: float = 0.01
    max_steps: int = 1000

    def relaxation(self) -> RelaxSettings:
        """Of what is reported."""
        return RelaxSettings(fmax=self.fmax, max_steps=self.max_steps)


@dataclass(frozen=True)
class _Minimum:
    """A minimum of a molecule; `total` is its energy with that of solvation, eV."""

    total: float
    positions: np.ndarray
    pose: int | None


def strain(
    poses: Sequence[PreparedMolecule],
    searched: Mapping[str, PreparedMolecule],
    potential: ForceField,
    settings: StrainSettings = StrainSettings(),
    solvate: Solvate | None = None,
) -> list[StrainRow]:
    """One row a pose, in their order.

    Args:
        poses: As `chem.pose.pose` made them. All poses of one molecule are to be given together:
            each is compared with the minima of all of them.
        searched: SMILES -> the molecule with its embedded conformers; where one is missing or not
            ok, the poses' own minima are all there is.
        potential: What computes energies and forces.
        settings: How.
        solvate: Gives energies of solvation; None: in vacuum, where charged poses are rejected.
    """
    rows = [_row(pose, solvate is not None) for pose in poses]
    able = [k for k, row in enumerate(rows) if row.status == MoleculeStatus.OK]
    walks = _walks([poses[k] for k in able], potential, settings)
    totals = _totals(walks, solvate)
    minima: dict[str, list[_Minimum]] = {}
    for k, walk, total in zip(able, walks, totals, strict=True):
        _judge_pose(rows[k], walk, total)
        if rows[k].status == MoleculeStatus.OK and walk.stays and total[-1] is not None:
            here = _Minimum(total[-1], walk.local.positions, k)
            minima.setdefault(poses[k].smiles or "", []).append(here)
    wanted = {
        smiles: searched[smiles]
        for smiles in dict.fromkeys(poses[k].smiles or "" for k in able)
        if smiles in searched and searched[smiles].status == MoleculeStatus.OK
    }
    found, n_relaxed = _search(wanted, potential, settings, solvate)
    for smiles, ends in found.items():
        minima.setdefault(smiles, []).extend(ends)
    for k, total in zip(able, totals, strict=True):
        smiles = poses[k].smiles or ""
        if rows[k].status == MoleculeStatus.OK:
            rows[k].n_search_conformers = n_relaxed.get(smiles, 0)
            if not n_relaxed.get(smiles):
                why = searched[smiles].message if smiles in searched else None
                _tell(rows[k], f"the search found no conformer{f' ({why})' if why else ''}")
            _compare(rows[k], k, total, minima.get(smiles, []), poses, searched)
    return rows


@dataclass(frozen=True)
class _Walk:
    """A pose on its way: as given and hydrogens relaxed, restrained, free."""

    pose: PreparedMolecule
    hydrogens: Relaxed
    restrained: Relaxed
    local: Relaxed
    changes: list[str | None]

    @property
    def stays(self) -> bool:
        """Whether the free minimum is still the molecule."""
        return self.local.status in _ENDED and self.changes[1] is None

    def geometries(self) -> list[Geometry]:
        """As given, hydrogens relaxed, restrained, free."""
        numbers, charge = self.pose.numbers, self.pose.charge or 0
        given = self.pose.conformers()[0]
        ends = (self.hydrogens, self.restrained, self.local)
        return [(numbers, x, charge) for x in (given, *(end.positions for end in ends))]

    def energies(self) -> list[float]:
        """Of these, in vacuum, eV."""
        ends = (self.hydrogens, self.restrained, self.local)
        return [self.hydrogens.initial_energy, *(end.energy for end in ends)]


def is_charged(smiles: str) -> bool:
    """Whether a molecule has charged groups, also if they add up to none.

    Charges side by side are a way to write a neutral group (nitro, N-oxide) and are none.
    """
    mol = Chem.MolFromSmiles(smiles)
    return any(
        atom.GetFormalCharge()
        and all(n.GetFormalCharge() * atom.GetFormalCharge() >= 0 for n in atom.GetNeighbors())
        for atom in mol.GetAtoms()
    )


def _row(pose: PreparedMolecule, solvated: bool) -> StrainRow:
    row = StrainRow(
        record=pose.record,
        solvent="water" if solvated else "none",
        **{name: getattr(pose, name) for name in _SHARED},
        flags=list(pose.flags),
        atomic_numbers=pose.numbers,
    )
    if pose.status == MoleculeStatus.OK and not solvated and is_charged(pose.smiles or ""):
        row.status, row.reason = MoleculeStatus.REJECTED, Reason.CHARGED_IN_VACUUM
        _tell(row, "in vacuum charged groups collapse on each other: --solvent water")
    return row


_SHARED: Final = (
    "input_id", "smiles", "mapped_smiles", "charge", "n_heavy_atoms", "n_rotatable_bonds",
    "status", "reason", "message",
)  # fmt: skip


def _walks(
    poses: Sequence[PreparedMolecule], potential: ForceField, settings: StrainSettings
) -> list[_Walk]:
    """Each pose through its three relaxations, all poses side by side."""
    if not poses:
        return []
    relaxation = settings.relaxation()
    given = [pose.conformers()[0] for pose in poses]
    heavy = [pose.numbers != 1 for pose in poses]

    def at(positions: Sequence[np.ndarray]) -> list[Geometry]:
        return [(p.numbers, x, p.charge or 0) for p, x in zip(poses, positions, strict=True)]

    frozen = [np.flatnonzero(which) for which in heavy]
    hydrogens = _relaxed(at(given), poses, potential, relaxation, frozen)
    restrained = relax_tethered(
        at([end.positions for end in hydrogens]), given, heavy, potential, relaxation,
        reach=settings.reach, held=[pose.held_bonds for pose in poses],
    )  # fmt: skip
    starts = at([end.positions for end in restrained])
    local = _relaxed(starts, poses, potential, relaxation)
    topologies = [_topology(pose) for pose in poses]
    changes = [
        rearrangements([end.positions for end in ends], topologies) for ends in (restrained, local)
    ]
    return [
        _Walk(*one, changes=[changes[0][k], changes[1][k]])
        for k, one in enumerate(zip(poses, hydrogens, restrained, local, strict=True))
    ]


def _relaxed(
    starts: Sequence[Geometry],
    owners: Sequence[PreparedMolecule],
    potential: ForceField,
    settings: RelaxSettings,
    frozen: Sequence[np.ndarray] | None = None,
) -> list[Relaxed]:
    """Relaxed as a screen does it, with protons of charged groups held if need be."""
    ends = relax_conformers(starts, potential, settings, frozen=frozen)
    conformers = [(*s, owner.held_bonds) for s, owner in zip(starts, owners, strict=True)]
    held = relax_where_protons_moved(conformers, ends, potential, settings, frozen)
    return [held.get(k, end) for k, end in enumerate(ends)]


def _totals(walks: Sequence[_Walk], solvate: Solvate | None) -> list[list[float | None]]:
    """Energies of each walk's four geometries, with those of solvation, eV."""
    geometries = [one for walk in walks for one in walk.geometries()]
    energies = [energy for walk in walks for energy in walk.energies()]
    flat = _with_solvent(energies, geometries, solvate)
    return [flat[k : k + 4] for k in range(0, len(flat), 4)]


def _with_solvent(
    energies: Sequence[float], geometries: Sequence[Geometry], solvate: Solvate | None
) -> list[float | None]:
    if solvate is None:
        return [energy if np.isfinite(energy) else None for energy in energies]
    known = [k for k, energy in enumerate(energies) if np.isfinite(energy)]
    found: list[float | None] = [None] * len(energies)
    added = solvate([geometries[k] for k in known])
    for k, more in zip(known, added, strict=True):
        found[k] = None if more is None else energies[k] + more
    return found


def _judge_pose(row: StrainRow, walk: _Walk, totals: Sequence[float | None]) -> None:
    """Fill in what the pose alone tells, or why it cannot be used."""
    row.pose_energy_ev = totals[0]
    lost = walk.hydrogens.status is None or walk.restrained.status is None
    if lost or walk.local.status is None:
        row.status, row.reason = MoleculeStatus.FAILED, Reason.OUT_OF_MEMORY
        _tell(row, "does not fit into the device's memory alone")
        return
    if walk.restrained.status not in _ENDED or walk.changes[0] is not None:
        row.status, row.reason = MoleculeStatus.FAILED, Reason.ALL_CONFORMERS_FAILED
        what = walk.changes[0] or f"its relaxation ended {walk.restrained.status}"
        _tell(row, f"near the pose: {what}")
        return
    if totals[2] is None:
        row.status, row.reason = MoleculeStatus.FAILED, Reason.ALL_CONFORMERS_FAILED
        _tell(row, "the energy of solvation of the pose could not be computed")
        return
    given = walk.pose.conformers()[0]
    heavy = walk.pose.numbers != 1
    ends = [walk.restrained.positions, walk.local.positions]
    moved = aligned_rmsd([given[heavy]] * 2, [end[heavy] for end in ends])
    row.rmsd_restrained_angstrom = float(moved[0])
    row.positions_restrained_angstrom = walk.restrained.positions
    if walk.stays:
        row.rmsd_local_angstrom = float(moved[1])
        row.positions_local_angstrom = walk.local.positions
    else:
        _tell(row, f"relaxed freely: {walk.changes[1] or walk.local.status}")
    if stretched(walk.restrained.positions, walk.pose.numbers, walk.pose.held_bonds, SANE):
        row.flags.append(Flag.PROTONS_HELD)
    if ConformerStatus.MAX_STEPS in (walk.restrained.status, walk.local.status):
        _tell(row, "not converged within the steps allowed")


def _search(
    searched: Mapping[str, PreparedMolecule],
    potential: ForceField,
    settings: StrainSettings,
    solvate: Solvate | None,
) -> tuple[dict[str, list[_Minimum]], dict[str, int]]:
    """Lowest minima of molecules from their embedded conformers, and how many ended well."""
    owners = [m for m in searched.values() for _ in m.conformers()]
    names = [s for s, m in searched.items() for _ in m.conformers()]
    starts = [(m.numbers, x, m.charge or 0) for m in searched.values() for x in m.conformers()]
    loose = replace(settings.relaxation(), fmax=max(settings.fmax, LOOSE))
    ends = _relaxed(starts, owners, potential, loose)
    good = _good(ends, owners)
    counts: dict[str, int] = {}
    for k in good:
        counts[names[k]] = counts.get(names[k], 0) + 1
    if solvate is not None:
        good = _near(good, names, {k: ends[k].energy for k in good}, SOLVENT_WINDOW_KCAL_MOL)
    geometries = [(owners[k].numbers, ends[k].positions, owners[k].charge or 0) for k in good]
    totals = _with_solvent([ends[k].energy for k in good], geometries, solvate)
    ranked = {k: total for k, total in zip(good, totals, strict=True) if total is not None}
    near = _near(list(ranked), names, ranked, WINDOW_KCAL_MOL, MOST_RELAXED_ON)
    tight = _relaxed(
        [(owners[k].numbers, ends[k].positions, owners[k].charge or 0) for k in near],
        [owners[k] for k in near], potential, settings.relaxation(),
    )  # fmt: skip
    still = _good(tight, [owners[k] for k in near])
    totals = _with_solvent(
        [tight[j].energy for j in still],
        [(owners[near[j]].numbers, tight[j].positions, owners[near[j]].charge or 0) for j in still],
        solvate,
    )
    found: dict[str, list[_Minimum]] = {}
    for j, total in zip(still, totals, strict=True):
        if total is not None:
            minimum = _Minimum(total, tight[j].positions, None)
            found.setdefault(names[near[j]], []).append(minimum)
    return found, counts


def _good(ends: Sequence[Relaxed], owners: Sequence[PreparedMolecule]) -> list[int]:
    """Those that ended as they should, and are still the molecule."""
    ended = [k for k, end in enumerate(ends) if end.status in _ENDED]
    if not ended:
        return []
    topologies = [_topology(owners[k]) for k in ended]
    changes = rearrangements([ends[k].positions for k in ended], topologies)
    return [k for k, change in zip(ended, changes, strict=True) if change is None]


def _near(
    these: Sequence[int],
    names: Sequence[str],
    energies: Mapping[int, float],
    window_kcal_mol: float,
    most: int | None = None,
) -> list[int]:
    """Of each molecule those within a window above its lowest, the lowest first."""
    groups: dict[str, list[int]] = {}
    for k in sorted(these, key=lambda k: energies[k]):
        groups.setdefault(names[k], []).append(k)
    return [
        k
        for group in groups.values()
        for k in group[:most]
        if (energies[k] - energies[group[0]]) * EV_KCAL_MOL <= window_kcal_mol
    ]


def _compare(
    row: StrainRow,
    k: int,
    totals: Sequence[float | None],
    minima: Sequence[_Minimum],
    poses: Sequence[PreparedMolecule],
    searched: Mapping[str, PreparedMolecule],
) -> None:
    """Fill in the strain above the lowest minimum of the molecule."""
    if not minima:
        row.status, row.reason = MoleculeStatus.FAILED, Reason.ALL_CONFORMERS_FAILED
        _tell(row, "no minimum of the molecule was found")
        return
    lowest = min(minima, key=lambda one: one.total)
    by_search = [one.total for one in minima if one.pose is None]
    if by_search and (min(by_search) - lowest.total) * EV_KCAL_MOL <= SAME_KCAL_MOL:
        row.global_found_by = FoundBy.SEARCH
    else:
        row.global_found_by = FoundBy.POSE if lowest.pose == k else FoundBy.OTHER_POSE
    row.global_energy_ev = lowest.total
    owner = searched[row.smiles or ""] if lowest.pose is None else poses[lowest.pose]
    if np.array_equal(owner.numbers, row.atomic_numbers):
        row.positions_global_angstrom = lowest.positions
    names = ("strain_h_only_kcal_mol", "strain_restrained_kcal_mol", "strain_local_kcal_mol")
    for name, total in zip(names, totals[1:], strict=True):
        if total is not None and (name != names[2] or len(row.positions_local_angstrom)):
            setattr(row, name, (total - lowest.total) * EV_KCAL_MOL)


def _topology(molecule: PreparedMolecule) -> Topology:
    return Topology(molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)


def _tell(row: StrainRow, more: str) -> None:
    row.message = f"{row.message}; {more}" if row.message else more
