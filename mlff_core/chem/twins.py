"""Mirror images among the isomers of a record: they have the same conformers, reflected.

Embedded one by one, two enantiomers would start from different conformers, and the lowest found of
each would differ by a kcal/mol or more, where their energies are equal.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.embed import HOW_IT_WENT
from mlff_core.chem.isomers import mirror_image
from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.status import MoleculeStatus

_REFLECTED = np.array([1.0, 1.0, -1.0], np.float32)


def share_conformers(molecules: Sequence[PreparedMolecule]) -> bool:
    """Give each isomer the reflected conformers of its mirror image, where that comes before it.

    Args:
        molecules: Embedded, all variants of a record among them; their positions are changed, and
            what their messages say of these.

    Returns:
        Whether any were.
    """
    first: dict[tuple[int, str], PreparedMolecule] = {}
    changed = False
    for molecule in molecules:
        if molecule.n_variants < 2 or "@" not in (molecule.smiles or ""):
            continue
        if molecule.status != MoleculeStatus.OK or not len(molecule.positions):
            continue
        smiles = molecule.smiles or ""
        image = mirror_image(Chem.MolFromSmiles(smiles))
        twin = first.get((molecule.record, Chem.MolToSmiles(image)))
        first[molecule.record, smiles] = molecule
        if twin is None or twin is molecule:
            continue
        order = _order(twin, molecule)
        if order is not None:
            molecule.positions = twin.conformers()[:, order] * _REFLECTED
            molecule.message = _with_conformers_of(molecule.message, twin.message)
            changed = True
    return changed


def _with_conformers_of(own: str | None, other: str | None) -> str | None:
    """A message that says how the other's conformers came about, in the place of its own."""
    kept = [words for words in (own or "").split("; ") if not HOW_IT_WENT.fullmatch(words)]
    told = [words for words in (other or "").split("; ") if HOW_IT_WENT.fullmatch(words)]
    return "; ".join(filter(None, [*kept, *told])) or None


def _order(twin: PreparedMolecule, molecule: PreparedMolecule) -> NDArray[np.intp] | None:
    """Of each atom of a molecule the one of its mirror image, if the two are that."""
    image = mirror_image(molecule_of(twin.mapped_smiles or "", twin.numbers, {}))
    own = molecule_of(molecule.mapped_smiles or "", molecule.numbers, {})
    match = image.GetSubstructMatch(own, useChirality=True)
    return np.array(match) if len(match) == len(molecule.numbers) else None
