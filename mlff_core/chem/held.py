"""Bonds to hydrogen that say which protonation state was given.

In vacuum the proton of a zwitterion goes where water would not let it go: the model is right, and
the user has another molecule. These are the bonds by which the given state can be held
(`mlff_core.moves.held`): those of N, O and S to hydrogen in every charged group.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.topology import BROKEN
from mlff_core.elements import COVALENT_RADII

#: A bond below this share of the sum of the covalent radii is sane: 1.22 Å for N-H, 1.16 for O-H.
#: Strong hydrogen bonds stretch N-H to 1.15 Å; a broken bond begins at `BROKEN`.
SANE: Final = 1.2
#: From this share on a proton is no more at its atom than in a strong hydrogen bond: halfway.
SHARED: Final = 1.15
_DONORS: Final = frozenset([7, 8, 16])
#: Bonds from a charged atom to others of its group, where they are not conjugated: in phosphates
#: and amidines the charge is that far away.
_REACH: Final = 2


def held_bonds(mol: Chem.Mol) -> NDArray[np.int16]:
    """Heavy atom and hydrogen of each bond of N, O or S to hydrogen in a charged group, [n, 2].

    A group is what is conjugated with a charged atom or two bonds from it. Charges that stand side
    by side are a way to write a neutral group (nitro, N-oxide) and make none.

    Args:
        mol: With all hydrogens.
    """
    group: set[int] = set()
    for atom in atoms_of(mol):
        charge = atom.GetFormalCharge()
        if charge and all(n.GetFormalCharge() * charge >= 0 for n in atom.GetNeighbors()):
            group |= _group(atom)
    rows = [
        (heavy, neighbour.GetIdx())
        for heavy in sorted(group)
        if mol.GetAtomWithIdx(heavy).GetAtomicNum() in _DONORS
        for neighbour in mol.GetAtomWithIdx(heavy).GetNeighbors()
        if neighbour.GetAtomicNum() == 1
    ]
    return np.array(rows, np.int16).reshape(-1, 2)


def stretched(
    positions: NDArray[np.floating],
    numbers: NDArray[np.integer],
    bonds: NDArray[np.integer],
    share: float = BROKEN,
) -> int:
    """How many of these bonds are longer than this share of the sum of their covalent radii.

    Args:
        positions: Å [n_atoms, 3].
        numbers: Atomic numbers [n_atoms].
        bonds: [n_bonds, 2].
        share: As a rule `BROKEN` or `SANE`.
    """
    if not len(bonds):  # nearly always
        return 0
    i, j = np.asarray(bonds, int).reshape(-1, 2).T
    x = np.asarray(positions, np.float64)
    radii = np.array([COVALENT_RADII[int(z)] for z in numbers])
    return int((np.linalg.norm(x[i] - x[j], axis=1) > share * (radii[i] + radii[j])).sum())


def shared_proton(
    positions: NDArray[np.floating], numbers: NDArray[np.integer], bonds: NDArray[np.integer]
) -> tuple[int, int, float] | None:
    """The bond of N, O or S to hydrogen that is stretched most, if that is by more than `SHARED`.

    Args:
        positions: Å [n_atoms, 3].
        numbers: Atomic numbers [n_atoms].
        bonds: All bonds, [n_bonds, 2].

    Returns:
        Heavy atom, hydrogen and Å between them.
    """
    z, pairs = np.asarray(numbers, int), np.asarray(bonds, int).reshape(-1, 2)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[(z[pairs[:, 1]] == 1) & np.isin(z[pairs[:, 0]], list(_DONORS))]
    if not len(pairs):
        return None
    x = np.asarray(positions, np.float64)
    length = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    usual = np.array([COVALENT_RADII[int(a)] + COVALENT_RADII[1] for a in z[pairs[:, 0]]])
    most = int((length / usual).argmax())
    if length[most] <= SHARED * usual[most]:
        return None
    return int(pairs[most, 0]), int(pairs[most, 1]), float(length[most])


def _group(charged: Chem.Atom) -> set[int]:
    """The charged atom, what is conjugated with it, and what is near."""
    mol = charged.GetOwningMol()
    found, front, n_bonds = {charged.GetIdx()}, [charged.GetIdx()], 0
    while front:
        n_bonds += 1
        beyond = []
        for index in front:
            for bond in mol.GetAtomWithIdx(index).GetBonds():
                other = bond.GetOtherAtomIdx(index)
                if other not in found and (n_bonds <= _REACH or bond.GetIsConjugated()):
                    found.add(other)
                    beyond.append(other)
        front = beyond
    return found
