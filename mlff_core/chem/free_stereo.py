"""Undefined stereo that may be chosen without a geometry, since either choice can exist.

A carbon outside of rings, or in one where no other meets it, has both hands: to swap two of its
neighbours strains nothing. That is so in two thirds of the molecules whose SMILES leave stereo
open. Where rings meet, one hand may be impossible, and a geometry has to decide.
"""

import random
from typing import Final

from rdkit import Chem

from mlff_core.chem.changing import TETRAHEDRAL, Undefined
from mlff_core.chem.graph import Graph, atom_kind
from mlff_core.chem.stereo import words_of_choice

_HANDS: Final = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_CARBON: Final = 6
#: Bonds in rings that an atom of a single ring has; where rings meet there are more.
_IN_ONE_RING: Final = 2


def is_free(graph: Graph, undefined: Undefined) -> bool:
    """Whether each choice of what is undefined can exist.

    Args:
        graph: Of the molecule with all its hydrogens.
        undefined: From `undefined_stereo` of the same.
    """
    for kind, index in undefined.open:
        if kind != TETRAHEDRAL or graph.numbers[index] != _CARBON:
            return False
        if atom_kind(graph.atom_kinds[index]).n_ring_bonds > _IN_ONE_RING:
            return False
    return True


def choose_freely(mol: Chem.Mol, undefined: Undefined, seed: int) -> str:
    """Assign undefined centres as a seed has it; says in words what that was.

    Args:
        mol: With all its hydrogens; it is changed.
        undefined: What is open in it: tetrahedral centres only, see `is_free`.
        seed: Of the choice.
    """
    hands = random.Random(seed)
    centres = sorted(index for _, index in undefined.open)
    for index in centres:
        mol.GetAtomWithIdx(index).SetChiralTag(hands.choice(_HANDS))
    # What only looked like a centre loses its hand again: both ends of it may be the same by now.
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    n_chosen = sum(mol.GetAtomWithIdx(index).GetChiralTag() in _HANDS for index in centres)
    return words_of_choice(n_chosen, 0)
