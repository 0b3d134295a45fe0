"""Partial charges of relaxed geometries, by the model that relaxed them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.errors import ModelFileError
from mlff_core.schema import ConformerRow

if TYPE_CHECKING:
    from mlff_core.models.potential import Potential

#: Atoms in one call.
_ATOMS_A_CALL: Final = {"cpu": 2048, "cuda": 40_000}


def partial_charges(
    geometries: Sequence[tuple[NDArray[np.integer], NDArray[np.floating], int]],
    potential: "Potential",
) -> list[NDArray[np.float32]]:
    """Charges of each atom in e, float32 [n_atoms] each, that add up to the molecule's.

    Args:
        geometries: Atomic numbers [n_atoms], positions in Å [n_atoms, 3], total charge in e.
        potential: Computes them.

    Raises:
        ModelFileError: The model has no partial charges.
    """
    from mlff_core.batch import MolBatch  # torch takes seconds

    if not potential.config.charges_after:
        raise ModelFileError(no_charges(potential.name))
    # Of one size at a time, so that a call holds as much as it may.
    order = sorted(range(len(geometries)), key=lambda k: len(geometries[k][0]))
    found: dict[int, NDArray[np.float32]] = {}
    most = _ATOMS_A_CALL[potential.device.type]
    while order:
        n_mols = max(1, most // max(1, len(geometries[order[-1]][0])))
        chosen, order = order[-n_mols:], order[:-n_mols]
        batch = MolBatch.from_arrays([geometries[k] for k in chosen], device=potential.device)
        charges = potential.evaluate(batch.to(potential.device, potential.dtype)).charges
        assert charges is not None
        for k, own in zip(chosen, batch.split(charges), strict=True):
            found[k] = own.cpu().numpy().astype(np.float32)
    return [found[k] for k in range(len(geometries))]


def charges_of(
    molecules: Sequence[PreparedMolecule],
    conformers: Sequence[ConformerRow],
    potential: "Potential",
) -> list[tuple[ConformerRow, NDArray[np.float32]]]:
    """Relaxed conformers that have an energy, with their charges.

    Args:
        molecules: Whose they are, at the least.
        conformers: Relaxed.
        potential: As in `partial_charges`.
    """
    totals = {(m.record, m.variant): m.charge or 0 for m in molecules}
    wanted = [c for c in conformers if c.status is not None and c.energy_ev is not None]
    geometries = [
        (c.atomic_numbers, c.positions_angstrom.reshape(-1, 3), totals[c.record, c.variant])
        for c in wanted
    ]
    return list(zip(wanted, partial_charges(geometries, potential), strict=True))


def no_charges(name: str) -> str:
    """Why a model cannot be asked for charges."""
    return f"charges: {name} has no partial charges; choose a model that was trained with them"
