"""Other protonation states of a molecule: the same atoms but for hydrogens, other charges.

A table holds the state that its makers thought likely, so that some combinations of charged groups
and total charge hardly occur in it. Here any group that can be charged may be, likely or not.
"""

import random
from typing import Final

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

#: The atom that loses a proton, first in each pattern.
ACIDS: Final = tuple(
    Chem.MolFromSmarts(pattern)
    for pattern in (
        "[OX2H1][CX3]=O",  # carboxylic acids
        "[OX2H1][P,S,As](=O)",  # phosphates, phosphonates, sulfonic acids and their relatives
        "[OX2H1]c",  # phenols
        "[SX2H1][#6]",  # thiols
        "[NX3;H1,H2]S(=O)(=O)",  # sulfonamides
        "[NX3H1](C=O)C=O",  # imides
        "[nH]",  # azoles
    )
)

#: The atom that takes a proton.
BASES: Final = tuple(
    Chem.MolFromSmarts(pattern)
    for pattern in (
        # Amines: single bonds to carbon alone, none of which is conjugated with it.
        "[NX3;+0;!$(N[!#6;!#1]);!$(N[#6]=,#,:[!#1])]",
        "[NX2;H0,H1;+0]=[CX3][NX3]",  # amidines and guanidines
        "[nX2;H0;+0]",  # pyridines and azoles
    )
)


def sites(mol: Chem.Mol) -> tuple[list[int], list[int]]:
    """Atoms of an uncharged molecule that can lose a proton, and that can take one, ascending."""

    def found(patterns: tuple[Chem.Mol, ...]) -> list[int]:
        return sorted({match[0] for p in patterns for match in mol.GetSubstructMatches(p)})

    return found(ACIDS), found(BASES)


def protomer(
    smiles: str,
    rng: random.Random,
    *,
    max_charge: int,
    max_sites: int = 4,
    both_signs: bool = False,
) -> str | None:
    """The molecule with a proton more or less at groups that are chosen at random.

    Charges that no proton explains, as those of nitro groups and quaternary ammonium, stay. No two
    atoms that took a proton are nearer than four bonds to each other, as those of pyrazine are.

    Args:
        smiles: In any protonation state.
        rng: Chooses.
        max_charge: Largest absolute total charge in e.
        max_sites: Most groups that lose a proton, and most that take one.
        both_signs: Whether some groups shall lose a proton and others take one, three in all at
            least.

    Returns:
        A canonical SMILES; None where the SMILES means nothing or the molecule has no such groups.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    mol = rdMolStandardize.Uncharger().uncharge(mol)
    acids, bases = sites(mol)
    if not acids and not bases:
        return None
    least = int(both_signs)
    if both_signs and not (acids and bases and len(acids) + len(bases) > 2):
        return None
    distance = Chem.GetDistanceMatrix(mol)
    fixed = Chem.GetFormalCharge(mol)
    for _ in range(20):
        lost = rng.sample(acids, rng.randint(least, min(len(acids), max_sites)))
        taken: list[int] = []
        wanted = rng.randint(least, min(len(bases), max_sites))
        for atom in rng.sample(bases, len(bases)):
            if len(taken) < wanted and all(distance[atom][other] >= 4 for other in taken):
                taken.append(atom)
        enough = not both_signs or len(taken) + len(lost) > 2
        if enough and abs(fixed + len(taken) - len(lost)) <= max_charge:
            break
    else:
        return None
    changed = Chem.RWMol(mol)
    for chosen, sign in ((lost, -1), (taken, 1)):
        for index in chosen:
            atom = changed.GetAtomWithIdx(index)
            n_hydrogens = atom.GetTotalNumHs()
            atom.SetFormalCharge(atom.GetFormalCharge() + sign)
            atom.SetNumExplicitHs(n_hydrogens + sign)
            atom.SetNoImplicit(True)
    try:
        Chem.SanitizeMol(changed)
    except (ValueError, RuntimeError):
        return None
    return Chem.MolToSmiles(changed)
