"""Hindered axes of biaryls that the coordinates of an entry show, though no wedge draws them.

RDKit reads an axis from coordinates only where one of the bonds beside it is a wedge. Files with
three dimensions seldom have any, and their SMILES would be that of both hands.
"""

from typing import Final

import numpy as np
from rdkit import Chem

_AXIS: Final = Chem.MolFromSmarts("[a]-!@[a]")
#: Of the four places beside an axis so many have to be taken: with fewer it turns as one breathes.
_FEWEST_TAKEN: Final = 3
_FLUORINE: Final = 9  # hardly larger than hydrogen
#: Å³ that the atoms along an axis span at least; flat is 0, at right angles some 2.
_SMALLEST_VOLUME: Final = 0.8


def see_hindered_axes(mol: Chem.Mol) -> None:
    """Give biaryl axes the hand that the first conformer shows, if they have none and can keep one.

    Args:
        mol: Without hydrogens, with coordinates in three dimensions; it is changed.
    """
    x = mol.GetConformer().GetPositions()
    ranks: list[int] = []
    for begin, end in mol.GetSubstructMatches(_AXIS):
        bond = mol.GetBondBetweenAtoms(begin, end)
        if bond.GetStereo() != Chem.BondStereo.STEREONONE:
            continue
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        sides = [_beside(mol, begin, end), _beside(mol, end, begin)]
        if sum(_is_taken(mol.GetAtomWithIdx(a)) for side in sides for a in side) < _FEWEST_TAKEN:
            continue
        ranks = ranks or list(Chem.CanonicalRankAtoms(mol, breakTies=False))
        if any(len({ranks[a] for a in side}) < 2 for side in sides):
            continue
        # RDKit's tag refers to the neighbour of the lowest index at each end.
        a, b, c, d = x[[min(sides[0]), begin, end, min(sides[1])]]
        volume = float((a - d) @ np.cross(b - d, c - d))
        if abs(volume) > _SMALLEST_VOLUME:
            turns = Chem.BondStereo.STEREOATROPCCW, Chem.BondStereo.STEREOATROPCW
            bond.SetStereo(turns[volume < 0])


def _beside(mol: Chem.Mol, atom: int, other: int) -> list[int]:
    around = mol.GetAtomWithIdx(atom).GetNeighbors()
    return [n.GetIdx() for n in around if n.GetIdx() != other]


def _is_taken(atom: Chem.Atom) -> bool:
    """Whether an atom beside an axis carries more than a hydrogen or fluorine, or a second ring."""
    return atom.GetDegree() > 2 and all(n.GetAtomicNum() != _FLUORINE for n in atom.GetNeighbors())
