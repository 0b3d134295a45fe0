"""Atoms and bonds of a molecule as lists.

RDKit's own sequences take five calls in Python for each member: of a molecule that is prepared in
milliseconds they would be a tenth.
"""

from rdkit import Chem


def atoms_of(mol: Chem.Mol) -> list[Chem.Atom]:
    """All atoms, in their order."""
    return [mol.GetAtomWithIdx(k) for k in range(mol.GetNumAtoms())]


def bonds_of(mol: Chem.Mol) -> list[Chem.Bond]:
    """All bonds, in their order."""
    return [mol.GetBondWithIdx(k) for k in range(mol.GetNumBonds())]
