"""Minima of a student beside its teacher's, from the same starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mlff_core.batch import MolBatch
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.evaluation import within_molecule
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.force_field import ForceField, evaluate_checked
from mlff_core.moves.relax import RelaxResult, relax
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL

#: Fields of `RelaxedConformers` that are of all conformers and not one a conformer.
COUNTS = (
    "n_started",
    "n_teacher_converged",
    "n_student_converged",
    "n_teacher_rearranged",
    "n_student_rearranged",
)
#: Which centres and double bonds are as they were is not asked here: most SMILES do not say.
NO_STEREO = (np.empty((0, 4), np.int16), np.empty((0, 5), np.int16))


@dataclass(frozen=True)
class RelaxedConformers:
    """Conformers relaxed by the teacher and by a student from the same start.

    Each array has one entry a conformer. Left out are conformers that did not converge, and those
    that broke or formed a bond, which are conformers of another molecule: a screen calls them
    rearranged.

    Attributes:
        molecule: Place of the molecule in the held-out list.
        charge: e.
        energy: The teacher's, at its own minimum, in eV.
        student_energy_there: The student's at the teacher's minimum, in eV.
        student_energy: The student's at its own minimum, in eV.
        rmsd: Between the two minima over all atoms, best superposition, in Å.
        heavy_rmsd: The same over the heavy atoms.
        n_started: How many conformers there were.
        n_teacher_converged: How many of them the teacher's relaxation brought to a minimum.
        n_student_converged: The same of the student's.
        n_teacher_rearranged: How many of the teacher's minima have other bonds than the molecule.
        n_student_rearranged: The same of the student's.
    """

    molecule: np.ndarray
    charge: np.ndarray
    energy: np.ndarray
    student_energy_there: np.ndarray
    student_energy: np.ndarray
    rmsd: np.ndarray
    heavy_rmsd: np.ndarray
    n_started: int
    n_teacher_converged: int
    n_student_converged: int
    n_teacher_rearranged: int
    n_student_rearranged: int

    def select(self, conformers: np.ndarray) -> "RelaxedConformers":
        """Some of the conformers, bool [n]; the counts are those of all."""
        columns = {
            f.name: getattr(self, f.name)[conformers] for f in fields(self) if f.name not in COUNTS
        }
        return replace(self, **columns)


def compare_minima(
    teacher: LabelsMolecules,
    student: ForceField,
    molecules: Iterable[Embedded],
    *,
    fmax: Sequence[float] = (0.05, 0.005),
    max_steps: int = 500,
) -> list[RelaxedConformers]:
    """Relax every conformer with the teacher and with the student, and compare where they end.

    Args:
        teacher: Its mean labels; on the student's device.
        student: What is compared with it.
        molecules: With the conformers to start from.
        fmax: Where a relaxation has converged, in eV/Å, from loose to tight: each method goes on
            from where it was, and is compared at each.
        max_steps: Longest relaxation from one to the next.
    """
    index, started, topologies = [], [], []
    for molecule in sorted(molecules, key=lambda m: m.index):
        topology = topology_of(molecule)
        for x in molecule.positions:
            index.append(molecule.index)
            started.append((molecule.numbers, x, molecule.charge))
            topologies.append(topology)
    start = MolBatch.from_arrays(started, device=student.device)
    in_place = TeacherForceField(teacher, teacher.device, teacher.sha256)
    theirs, ours = start, start
    found = []
    for limit in fmax:
        their_end = relax(theirs, in_place, fmax=limit, max_steps=max_steps)
        our_end = relax(ours, student, fmax=limit, max_steps=max_steps)
        found.append(_compared(np.array(index), topologies, their_end, our_end, student))
        theirs, ours = their_end.batch, our_end.batch
    return found


def _compared(
    molecule: np.ndarray,
    topologies: list[Topology],
    theirs: RelaxResult,
    ours: RelaxResult,
    student: ForceField,
) -> RelaxedConformers:
    converged = [_converged(ends) for ends in (theirs, ours)]
    rearranged = [have_other_bonds(ends.batch, topologies) for ends in (theirs, ours)]
    both = np.flatnonzero(converged[0] & converged[1] & ~rearranged[0] & ~rearranged[1]).tolist()
    at_theirs, at_ours = theirs.batch.select(both), ours.batch.select(both)
    there = evaluate_checked(student, at_theirs).energy if both else theirs.energy[:0]
    return RelaxedConformers(
        molecule=molecule[both],
        charge=at_theirs.charge.cpu().numpy(),
        energy=theirs.energy[both].cpu().numpy(),
        student_energy_there=there.cpu().numpy(),
        student_energy=ours.energy[both].cpu().numpy(),
        rmsd=superposed_rmsd(at_theirs, at_ours),
        heavy_rmsd=superposed_rmsd(at_theirs, at_ours, heavy=True),
        n_started=len(molecule),
        n_teacher_converged=int(converged[0].sum()),
        n_student_converged=int(converged[1].sum()),
        n_teacher_rearranged=int((converged[0] & rearranged[0]).sum()),
        n_student_rearranged=int((converged[1] & rearranged[1]).sum()),
    )


def _converged(ends: RelaxResult) -> np.ndarray:
    return np.array([status == ConformerStatus.CONVERGED for status in ends.status])


def topology_of(molecule: Embedded) -> Topology:
    """The bonds that a geometry of the molecule has. Centres and double bonds are left open."""
    return Topology(molecule.numbers, molecule.bonds, *NO_STEREO)


def have_other_bonds(batch: MolBatch, topologies: Sequence[Topology]) -> np.ndarray:
    """Which geometries broke or formed a bond, bool [n_mols]: a screen calls them rearranged."""
    positions = [x.cpu().numpy() for x in batch.split(batch.positions)]
    changes = rearrangements(positions, topologies)
    return np.array([change is not None for change in changes], dtype=bool)


def superposed_rmsd(a: MolBatch, b: MolBatch, *, heavy: bool = False) -> np.ndarray:
    """How far the molecules of two batches are apart after the best superposition, Å [n_mols].

    Args:
        a: Molecules.
        b: The same elsewhere.
        heavy: Leave hydrogens out; 0 where there are no other atoms.
    """
    counted = [numbers > (1 if heavy else 0) for numbers in a.split(a.numbers)]
    here, there = (
        [x[atoms].cpu().numpy() for x, atoms in zip(m.split(m.positions), counted, strict=True)]
        for m in (a, b)
    )
    return aligned_rmsd(here, there)


def join(parts: list[RelaxedConformers]) -> RelaxedConformers:
    """Several comparisons as one."""
    columns: dict[str, Any] = {}
    for field in fields(RelaxedConformers):
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = sum(values) if field.name in COUNTS else np.concatenate(values)
    return RelaxedConformers(**columns)


def summarise_minima(result: RelaxedConformers) -> dict[str, float]:
    """Headline numbers of the minima: energies in kcal/mol, lengths in Å.

    Energies are compared over the molecules that have three different minima or more, once at the
    teacher's minima and once with each at its own.
    """

    def quantile(values: np.ndarray, q: float) -> float:
        return float(np.quantile(values, q)) if len(values) else float("nan")

    out = {
        "n_conformers": float(len(result.energy)),
        "rmsd_median": quantile(result.rmsd, 0.5),
        "rmsd_90_percent": quantile(result.rmsd, 0.9),
        "heavy_rmsd_median": quantile(result.heavy_rmsd, 0.5),
        "heavy_rmsd_90_percent": quantile(result.heavy_rmsd, 0.9),
    }
    result = result.select(different_minima(result.molecule, result.energy))
    _, place, count = np.unique(result.molecule, return_inverse=True, return_counts=True)
    result = result.select(count[place] >= 3)
    out["n_molecules"] = float(len(np.unique(result.molecule)))
    out["n_minima"] = float(len(result.energy))
    for name, energy in (
        ("energy_mae", result.student_energy_there),
        ("own_minima_energy_mae", result.student_energy),
    ):
        error = within_molecule(result.molecule, energy - result.energy)
        out[name] = float(EV_KCAL_MOL * np.abs(error).mean()) if len(error) else float("nan")
    return out


def different_minima(
    molecule: np.ndarray, energy: np.ndarray, apart: float = 0.02 / EV_KCAL_MOL
) -> np.ndarray:
    """One conformer of those that ended at the same energy within `apart` eV, bool [n]."""
    order = np.lexsort((energy, molecule))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(molecule[order]) != 0) | (np.diff(energy[order]) > apart)
    different = np.zeros(len(order), dtype=bool)
    different[order] = new
    return different
