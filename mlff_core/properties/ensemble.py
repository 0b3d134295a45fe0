"""A molecule's relaxed conformers as an ensemble at 298.15 K.

A conformer that several starts came to counts once. A conformer of a molecule that is not chiral
has a mirror image of equal energy, unless it is its own: it counts twice (degeneracy 2), without
which populations are off by RT ln 2, 0.41 kcal/mol. Vibrations, rotations and water are left out.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.duplicates import are_own_mirror_images, duplicates_of, sites
from mlff_core.chem.mirror import is_chiral
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus
from mlff_core.units import BOLTZMANN_EV_K, EV_KCAL_MOL, ROOM_TEMPERATURE_K

#: kcal/mol above the lowest conformer up to which one is in the window: of neutral molecules, and
#: of charged ones, whose order in vacuum says less of their order in water.
WINDOW_KCAL_MOL: Final = 6.0
CHARGED_WINDOW_KCAL_MOL: Final = 12.0


class Populations(NamedTuple):
    """What the energies of distinct conformers tell.

    Attributes:
        weights: Population of each, degeneracy counted, float64 [n_conformers]; they sum to 1.
        free_energy_ev: -kT ln Σ g exp(-E/kT).
        entropy_ev_k: -k Σ p ln(p/g), in eV/K.
    """

    weights: NDArray[np.float64]
    free_energy_ev: float
    entropy_ev_k: float


def populations(
    energy_ev: Sequence[float],
    degeneracy: Sequence[int] | None = None,
    temperature_k: float = ROOM_TEMPERATURE_K,
) -> Populations:
    """Boltzmann's statistics over distinct conformers.

    Args:
        energy_ev: [n_conformers], at least one.
        degeneracy: How often each counts, [n_conformers]; once if not given.
        temperature_k: In K.

    Raises:
        ValueError: There is no conformer.
    """
    energy = np.asarray(energy_ev, np.float64)
    if not len(energy):
        raise ValueError("energy_ev: expected at least one conformer, found none")
    times = np.ones(len(energy)) if degeneracy is None else np.asarray(degeneracy, np.float64)
    kt = BOLTZMANN_EV_K * temperature_k
    lowest = energy.min()
    factors = times * np.exp(-(energy - lowest) / kt)
    total = factors.sum()
    weights = factors / total
    free_energy = lowest - kt * np.log(total)
    entropy = ((weights * energy).sum() - free_energy) / temperature_k
    return Populations(weights, float(free_energy), float(entropy))


def judge_ensemble(molecule: PreparedMolecule, conformers: Sequence[ConformerRow]) -> None:
    """Fill in what only a molecule's conformers together tell, in its row and in theirs.

    Args:
        molecule: Accepted; not None: its SMILES.
        conformers: All of its conformers, each with its energy relative to the best if it has one.
    """
    window = CHARGED_WINDOW_KCAL_MOL if molecule.charge else WINDOW_KCAL_MOL
    for conformer in conformers:
        above = conformer.relative_energy_kcal_mol
        if above is not None:
            conformer.in_window = above <= window
    converged = [c for c in conformers if c.status == ConformerStatus.CONVERGED]
    if not converged:
        return
    if len(converged) == 1:  # as most screens have them: all of it is this one
        converged[0].boltzmann_weight, molecule.n_unique_conformers = 1.0, 1
        return
    _mark_duplicates(molecule, converged)
    new = [c for c in converged if c.duplicate_of is None]
    told = populations(
        [_energy(c) for c in new],
        [c.degeneracy for c in new if c.degeneracy is not None] or None,
    )
    for conformer, weight in zip(new, told.weights, strict=True):
        conformer.boltzmann_weight = float(weight)
    molecule.n_unique_conformers = len(new)
    molecule.ensemble_free_energy_ev = told.free_energy_ev
    molecule.conformational_entropy_cal_mol_k = told.entropy_ev_k * EV_KCAL_MOL * 1000.0


def _mark_duplicates(molecule: PreparedMolecule, converged: Sequence[ConformerRow]) -> None:
    """Say of relaxed conformers which are one another again, and how often the others count."""
    assert molecule.smiles is not None
    these = sites(molecule.numbers, molecule.bonds)
    positions = np.stack([c.positions_angstrom.reshape(-1, 3) for c in converged])
    fmax = max(c.max_force_ev_per_angstrom or 0.0 for c in converged)
    mirrored = not is_chiral(molecule.smiles)
    energies = [_energy(c) * EV_KCAL_MOL for c in converged]
    answers = duplicates_of(positions, energies, these, fmax, mirrored=mirrored)
    new = [k for k, answer in enumerate(answers) if answer is None]
    degeneracy = np.ones(len(new), np.int16)
    if mirrored:
        degeneracy += ~are_own_mirror_images(positions[new], these, fmax)
    for conformer, answer in zip(converged, answers, strict=True):
        conformer.duplicate_of = None if answer is None else converged[answer].conformer
    for k, times in zip(new, degeneracy.tolist(), strict=True):
        converged[k].degeneracy = times


def _energy(conformer: ConformerRow) -> float:
    """Energy in eV of a conformer that ended as it should, and so has one."""
    assert conformer.energy_ev is not None
    return conformer.energy_ev
