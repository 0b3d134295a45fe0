"""Which part of a molecule's stereo is in the way, where no geometry could be found with it."""

from collections.abc import Iterable
from typing import Final

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.atoms import atoms_of

_UNSPECIFIED: Final = Chem.ChiralType.CHI_UNSPECIFIED
_TETRAHEDRAL: Final = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
#: Attempts and seconds that the question is worth.
_ATTEMPTS: Final = 20
_SECONDS: Final = 1


def stereo_in_the_way(mol: Chem.Mol, seed: int) -> str | None:
    """The centres that come out the other way where stereo is free; None if nothing embeds so.

    Args:
        mol: With all hydrogens and the stereo that was given; atoms in the order of `smiles`.
        seed: Of the random numbers.
    """
    given = {
        atom.GetIdx(): atom.GetChiralTag()
        for atom in atoms_of(mol)
        if atom.GetChiralTag() in _TETRAHEDRAL
    }
    if not given:
        return None
    free = Chem.Mol(mol)
    for atom in given:
        free.GetAtomWithIdx(atom).SetChiralTag(_UNSPECIFIED)
    parameters = rdDistGeom.ETKDGv3()
    for name, value in (("randomSeed", seed), ("maxIterations", _ATTEMPTS), ("timeout", _SECONDS)):
        setattr(parameters, name, value)
    if rdDistGeom.EmbedMolecule(free, parameters) < 0:
        return None
    Chem.AssignAtomChiralTagsFromStructure(free)
    found = {atom: free.GetAtomWithIdx(atom).GetChiralTag() for atom in given}
    # Of the two mirror images the one that is more like what was given.
    differ = [atom for atom in given if found[atom] in _TETRAHEDRAL and found[atom] != given[atom]]
    agree = [atom for atom in given if found[atom] == given[atom]]
    names = _names(mol, differ if len(differ) <= len(agree) else agree)
    if not names:
        return None
    return (
        f"with its stereo left free it embeds, {names} the other way (atoms counted from 1 in "
        "smiles): give other stereo there, or none"
    )


def _names(mol: Chem.Mol, atoms: Iterable[int]) -> str:
    return " ".join(f"{mol.GetAtomWithIdx(k).GetSymbol()}{k + 1}" for k in atoms)
