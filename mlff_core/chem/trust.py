"""How far a model's numbers for a molecule can be trusted, from the molecule alone.

A model cannot say how wrong it is: where two of ours differ, they do so by anything from nothing to
all of the error. What says it is how often the training met such charges. Energies between
molecules (tautomers, protonation states) are what suffers; geometries and the order of a molecule's
conformers hardly do.
"""

import re
from collections.abc import Sequence
from typing import Final

from rdkit import Chem

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.graph import Graph
from mlff_core.chem.seen import Seen, charged_groups, environments
from mlff_core.status import Flag

#: The training sets hold molecules of so many heavy atoms and more ...
FEWEST_HEAVY_ATOMS: Final = 3
#: ... but hardly any of fewer than these.
FEW_HEAVY_ATOMS: Final = 8
#: Largest absolute total charge of which the training sets hold many molecules.
LARGEST_COMMON_CHARGE: Final = 2
#: Share of the training's molecules below which an element is rare.
RARE_ELEMENT: Final = 0.02
#: The same of a combination of charged groups.
RARE_COMBINATION: Final = 0.002
#: Molecules of the training below which the surroundings of a charged atom are rare.
RARE_ENVIRONMENT: Final = 5

#: A SMILES without any of these has neither a charge nor phosphorus.
_WORTH_A_LOOK: Final = re.compile(r"[+-]\d*\]|[Pp]")


def composition_flags(numbers: Sequence[int], charge: int, seen: Seen | None) -> list[Flag]:
    """What of a molecule's atoms and charge the training hardly saw, wherever the bonds are.

    Args:
        numbers: Atomic numbers; hydrogens may be left out.
        charge: Total charge in e.
        seen: What the training of the model saw; None where nothing says.
    """
    flags = []
    n_heavy_atoms = sum(number > 1 for number in numbers)
    if n_heavy_atoms < FEWEST_HEAVY_ATOMS:
        flags.append(Flag.OUTSIDE_TRAINING)
    if seen is not None:
        if FEWEST_HEAVY_ATOMS <= n_heavy_atoms < FEW_HEAVY_ATOMS:
            flags.append(Flag.FEW_HEAVY_ATOMS)
        few = RARE_ELEMENT * seen.n_molecules
        if any(seen.elements.get(number, few) < few for number in set(numbers)):
            flags.append(Flag.RARE_ELEMENT)
    if abs(charge) > LARGEST_COMMON_CHARGE:
        flags.append(Flag.CHARGE_BEYOND_2)
    return flags


def trust_flags(
    mol: Chem.Mol, smiles: str, seen: Seen | None, graph: Graph | None = None
) -> list[Flag]:
    """What of a molecule the training hardly saw.

    Args:
        mol: The molecule, sanitised, without the hydrogens that its SMILES leaves out.
        smiles: Its SMILES.
        seen: What the training of the model saw; None where nothing says.
        graph: Of the molecule, if it is known.
    """
    numbers = graph.numbers if graph else [atom.GetAtomicNum() for atom in atoms_of(mol)]
    flags = composition_flags(numbers, Chem.GetFormalCharge(mol), seen)
    if not _WORTH_A_LOOK.search(smiles):
        return flags
    groups = charged_groups(mol)
    if min(groups) > 0:
        flags.append(Flag.ZWITTERION_IN_VACUUM)
    if seen is not None:
        if seen.combinations.get(groups, 0) < RARE_COMBINATION * seen.n_molecules:
            flags.append(Flag.RARE_CHARGE_COMBINATION)
        if any(seen.environments.get(e, 0) < RARE_ENVIRONMENT for e in environments(mol)):
            flags.append(Flag.RARE_CHARGE_ENVIRONMENT)
    return flags
