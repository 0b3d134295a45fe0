"""How many conformers a molecule is worth.

A power law of the rotatable bonds, 8.481 n^1.642, is the mean number of conformers within 5 to 6
kcal/mol of the lowest (L. Chan, G. M. Morris, G. R. Hutchison, J. Chem. Theory Comput. 2021, 17,
2099). Rings that pucker count as well, which the law leaves out.
"""

from typing import Final

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from mlff_core.chem.molecule import ChemistrySettings

_FACTOR: Final = 8.481
_EXPONENT: Final = 1.642
#: Conformers of a molecule without any rotor: a small ring still puckers, an N still inverts.
_FEWEST: Final = 8
#: Sizes of rings that count as one rotor; a larger one counts for each atom above six.
_PUCKERING: Final = range(5, 9)


def n_rotors(mol: Chem.Mol) -> int:
    """Rotatable bonds, rings that pucker counted: one of 5 to 8 atoms as one, larger ones as n - 6.

    Args:
        mol: Without explicit hydrogens.
    """
    n = rdMolDescriptors.CalcNumRotatableBonds(
        mol, rdMolDescriptors.NumRotatableBondsOptions.Strict
    )
    for ring in mol.GetRingInfo().BondRings():
        if all(mol.GetBondWithIdx(bond).GetIsAromatic() for bond in ring):
            continue
        if len(ring) in _PUCKERING:
            n += 1
        elif len(ring) >= _PUCKERING.stop:
            n += len(ring) - 6
    return n


def conformers_of(mol: Chem.Mol, settings: ChemistrySettings, notes: list[str]) -> int:
    """Conformers to embed of a molecule; `notes` gets a sentence if its flexibility asks for more.

    Args:
        mol: With or without explicit hydrogens.
        settings: Say how many, or that the molecule does, and how many at most.
        notes: Appended to.
    """
    if settings.n_conformers is not None:
        return settings.n_conformers
    wanted = max(_FEWEST, round(_FACTOR * n_rotors(Chem.RemoveHs(mol)) ** _EXPONENT))
    if wanted > settings.max_conformers:
        notes.append(
            f"at most {settings.max_conformers} conformers to begin with, where its rotatable "
            f"bonds and rings suggest {wanted} (--max-conformers)"
        )
    return min(wanted, settings.max_conformers)
