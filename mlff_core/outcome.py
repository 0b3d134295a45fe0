"""What came of a shard's molecules: conformers judged, ranked and weighed, and put in words."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from mlff_core.chem.held import shared_proton
from mlff_core.chem.mishap import mishap
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.chem.topology import Topology, atom_name, rearrangements
from mlff_core.properties.ensemble import judge_ensemble
from mlff_core.schema import ConformerRow, MoleculeRow
from mlff_core.status import ConformerStatus, Flag, MoleculeStatus, Reason, VariantKind
from mlff_core.units import EV_KCAL_MOL

#: Those whose geometry means something.
_USABLE: Final = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)

#: Conformers that a message names.
_MOST_NAMED: Final = 10

#: Where energies of tautomers go, by which they are.
_TAUTOMERS: Final = {
    "min_energy_ev": "relative_tautomer_energy_kcal_mol",
    "min_energy_water_ev": "relative_tautomer_energy_water_kcal_mol",
}

#: What a person may do where no conformer of a molecule is usable, by how most of them ended.
_ADVICE: Final = {
    ConformerStatus.EXPLODED: "another start may do (--conformers 5)",
    ConformerStatus.NON_FINITE: "another start may do (--conformers 5)",
    ConformerStatus.REARRANGED: "the model takes it for another molecule: another start may do "
    "(--conformers 5), or another tautomer or protonation state",
}

#: The same of molecules that no model has seen: another start is no help.
_UNKNOWN: Final = "the models do not know such molecules, quantum chemistry does"


def final_rows(
    molecules: Sequence[PreparedMolecule], conformers: Sequence[ConformerRow]
) -> list[ConformerRow]:
    """Fill in what only the relaxed geometries of a shard tell, in both kinds of row.

    Args:
        molecules: Rows of a shard, as the chemistry left them.
        conformers: What the relaxation knows of their conformers, those of a molecule one after the
            other; one that did not fit into memory has no status.

    Returns:
        The rows of `conformers`: those given, without the ones of molecules that did not fit into
        memory.
    """
    members: dict[tuple[int, int], list[int]] = {}
    for c, conformer in enumerate(conformers):
        members.setdefault((conformer.record, conformer.variant), []).append(c)
    of_key = {(molecule.record, molecule.variant): molecule for molecule in molecules}

    # What needs the geometries is computed for the whole shard at once: the interpreter's lock is
    # then free for the thread that drives the device.
    owners = [of_key[conformer.record, conformer.variant] for conformer in conformers]
    starts = [
        owner.conformers()[conformer.conformer]
        for owner, conformer in zip(owners, conformers, strict=True)
    ]
    topologies = {key: topology_of(molecule) for key, molecule in of_key.items()}
    judged_by = [topologies[conformer.record, conformer.variant] for conformer in conformers]
    ends = [conformer.positions_angstrom for conformer in conformers]
    changes = rearrangements(ends, judged_by)
    rmsd = aligned_rmsd(starts, ends)

    kept: list[ConformerRow] = []
    for key, molecule in of_key.items():
        if molecule.status != MoleculeStatus.OK:
            continue
        own = members.get(key, [])
        if any(conformers[c].status is None for c in own):
            molecule.status = MoleculeStatus.FAILED
            molecule.reason = Reason.OUT_OF_MEMORY
            _tell(
                molecule,
                "does not fit into the device's memory alone: another may have more (--device)",
            )
            continue
        sentences: list[str] = []
        for c in own:
            row = conformers[c]
            row.rmsd_to_initial_angstrom = float(rmsd[c])
            if row.status in _USABLE and changes[c] is not None:
                row.status = ConformerStatus.REARRANGED
                sentences.append(f"conformer {row.conformer}: {changes[c]}")
            elif row.status not in _USABLE:
                what = mishap(starts[c], ends[c], judged_by[c]) or _hardest_pulled(row)
                if what is not None:
                    sentences.append(f"conformer {row.conformer}: {what}")
        for sentence in sentences[:_MOST_NAMED]:
            _tell(molecule, sentence)
        if len(sentences) > _MOST_NAMED:
            _tell(molecule, f"and {len(sentences) - _MOST_NAMED} more conformers alike")
        rows = [conformers[c] for c in own]
        _tell_of_held_protons(molecule, rows)
        _rank(molecule, rows)
        _tell_of_a_shared_proton(molecule, rows)
        kept += rows
    compare_tautomers(molecules, "min_energy_ev")
    return kept


def compare_tautomers(
    molecules: Sequence[MoleculeRow], energy: Literal["min_energy_ev", "min_energy_water_ev"]
) -> None:
    """Energies of tautomers above what stands as given, among molecules of the same atoms.

    Args:
        molecules: All of a shard.
        energy: Which is compared: that in vacuum, or that with solvation in water.
    """
    into = _TAUTOMERS[energy]
    groups: dict[tuple[int, str | None, int | None], list[MoleculeRow]] = {}
    for molecule in molecules:
        if molecule.n_variants > 1 and getattr(molecule, energy) is not None:
            key = molecule.record, molecule.formula, molecule.charge
            groups.setdefault(key, []).append(molecule)
    for group in groups.values():
        is_tautomer = [VariantKind.TAUTOMER in m.variant_kind.split("+") for m in group]
        energies = [getattr(m, energy) for m in group]
        given = [e for e, tautomer in zip(energies, is_tautomer, strict=True) if not tautomer]
        if not given or not any(is_tautomer):
            continue
        for m, e in zip(group, energies, strict=True):
            setattr(m, into, (e - min(given)) * EV_KCAL_MOL)


def _hardest_pulled(conformer: ConformerRow) -> str | None:
    """The atom on which the model's force is largest; None if it is no number."""
    forces = np.linalg.norm(np.reshape(conformer.forces_ev_per_angstrom, (-1, 3)), axis=1)
    if not len(forces) or not np.isfinite(forces).all():
        return None
    atom = int(forces.argmax())
    name = atom_name(atom, conformer.atomic_numbers)
    return f"a force of {forces[atom]:.0f} eV/Å pulled at {name}"


def _tell_of_held_protons(molecule: MoleculeRow, conformers: Sequence[ConformerRow]) -> None:
    held = [c.conformer for c in conformers if c.protons_held and c.status in _USABLE]
    if not held:
        return
    molecule.flags.append(Flag.PROTONS_HELD)
    which = ", ".join(map(str, held[:_MOST_NAMED])) + (" ..." if len(held) > _MOST_NAMED else "")
    _tell(
        molecule,
        f"in vacuum a proton would move, its bond was held in {len(held)} of {len(conformers)} "
        f"conformers ({which})",
    )


def _tell_of_a_shared_proton(
    molecule: PreparedMolecule, conformers: Sequence[ConformerRow]
) -> None:
    """Anions in vacuum draw protons towards them, as water would not let them."""
    if molecule.best_conformer is None or "-]" not in (molecule.smiles or ""):
        return
    [best] = [c for c in conformers if c.conformer == molecule.best_conformer]
    x = best.positions_angstrom.reshape(-1, 3)
    found = shared_proton(x, molecule.numbers, molecule.bonds)
    if found is None:
        return
    heavy, hydrogen, length = found
    names = "-".join(atom_name(atom, molecule.numbers) for atom in (heavy, hydrogen))
    molecule.flags.append(Flag.PROTON_SHARED)
    _tell(
        molecule,
        f"in vacuum a proton lies halfway to another atom in the best conformer ({names} "
        f"{length:.2f} Å)",
    )


def topology_of(molecule: PreparedMolecule) -> Topology:
    """What a molecule's geometries are judged against."""
    return Topology(molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)


def _rank(molecule: PreparedMolecule, conformers: list[ConformerRow]) -> None:
    """Fill in what is relative to the molecule's best conformer, and the molecule's own summary."""
    molecule.n_conformers = len(conformers)
    converged = [c for c in conformers if c.status == ConformerStatus.CONVERGED]
    molecule.n_converged = len(converged)
    usable = converged or [c for c in conformers if c.status == ConformerStatus.MAX_STEPS]
    if not usable:
        counts = Counter(c.status for c in conformers if c.status is not None)
        text = ", ".join(f"{n} {status}" for status, n in counts.items())
        [(most, _)] = counts.most_common(1)
        molecule.status = MoleculeStatus.FAILED
        molecule.reason = Reason.ALL_CONFORMERS_FAILED
        advice = _UNKNOWN if Flag.OUTSIDE_TRAINING in molecule.flags else _ADVICE[most]
        _tell(molecule, f"of {len(conformers)} conformers: {text}; {advice}")
        return
    lowest, best = min((_energy(c), c.conformer) for c in usable)
    molecule.best_conformer, molecule.min_energy_ev = best, lowest
    if not converged:
        _tell(
            molecule,
            "no conformer converged within the steps allowed: more may do (--max-steps)",
        )
    for c in conformers:
        if c.status in _USABLE:
            c.relative_energy_kcal_mol = (_energy(c) - lowest) * EV_KCAL_MOL
    judge_ensemble(molecule, conformers)


def _energy(conformer: ConformerRow) -> float:
    """Energy in eV of a conformer that ended as it should, and so has one."""
    assert conformer.energy_ev is not None
    return conformer.energy_ev


def _tell(molecule: MoleculeRow, more: str) -> None:
    molecule.message = f"{molecule.message}; {more}" if molecule.message else more
