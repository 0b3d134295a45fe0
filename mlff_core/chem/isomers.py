"""All stereoisomers of a molecule that can exist, where its SMILES leaves stereo open.

RDKit enumerates them: undefined stereocentres and double bonds, and the relative groups of a
CXSMILES. What inverts or turns by itself is left open: nitrogen in rings of three and of ammonium,
C=N of amidines, C=N-H, and C=C between amines and strong acceptors. So is P or S of an acid, which
a proton alone tells apart. What the rings do not allow is found by embedding, with few attempts.
RDKit's own `tryEmbedding` has no limit; it was seen to take minutes for a molecule.

Allenes and hindered axes are not enumerated: RDKit's enumeration does not know them.
"""

import random
from collections.abc import Iterable
from typing import Final, NamedTuple

from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import (
    EnumerateStereoisomers,
    GetStereoisomerCount,
    StereoEnumerationOptions,
)

from mlff_core.chem.changing import undefined_stereo
from mlff_core.chem.hypervalent import hypervalent_bounds
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.stereo import forget_side

#: Isomers that are looked at, if so many are not wanted.
_LOOKED_AT: Final = 64
#: Isomers that are looked at for each that is wanted: of 1-adamantanes one in eight can exist.
_FOR_EACH: Final = 4
#: Attempts to embed an isomer that the rings may not allow. With 5, isomers of quinine are lost;
#: with 100, and with no limit, those of thirteen ring systems that were tried are the same.
_ATTEMPTS: Final = 20
#: Limit of these in seconds, after which the isomer counts as possible.
_SECONDS: Final = 2
_UNSPECIFIED: Final = Chem.ChiralType.CHI_UNSPECIFIED
_MIRRORED: Final = {
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: Chem.ChiralType.CHI_TETRAHEDRAL_CCW,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: Chem.ChiralType.CHI_TETRAHEDRAL_CW,
}
_TIMED_OUT: Final = int(rdDistGeom.EmbedFailureCauses.EXCEEDED_TIMEOUT)


class Isomers(NamedTuple):
    """What a molecule with open stereo may be.

    Attributes:
        mols: Isomers, sorted by their SMILES; empty if nothing is open, or none was found.
        n_open: How many there are before it is asked whether they can exist; an upper bound where
            `exact` is false.
        exact: Whether that many is known, or no more than that.
        n_impossible: How many of those that were looked at cannot exist.
    """

    mols: list[Chem.Mol]
    n_open: int
    exact: bool
    n_impossible: int


def isomers(mol: Chem.Mol, settings: ChemistrySettings, seed: int) -> Isomers:
    """The stereoisomers that differ in what `mol` leaves open.

    Args:
        mol: Without its hydrogens; it is not changed.
        settings: Whether mirror images are one, and how many are wanted at most. Where there are
            more, those are taken that come first in an order that the seed decides.
        seed: Of the random numbers.
    """
    limit = settings.expansion.max_variants
    one_of_two = settings.expansion.stereo == "diastereomers"
    pinned = Chem.Mol(mol)
    atoms, bonds = _pin(pinned)
    at_most = max(_LOOKED_AT, _FOR_EACH * limit)
    options = StereoEnumerationOptions(
        unique=True, onlyUnassigned=True, maxIsomers=at_most, rand=seed
    )
    n_open = GetStereoisomerCount(pinned, options)
    if n_open <= 1:
        return Isomers([], 1, True, 0)
    strained = _may_be_impossible(pinned)
    found: dict[str, Chem.Mol] = {}
    for isomer in EnumerateStereoisomers(pinned, options):
        _unpin(isomer, atoms, bonds)
        smiles = Chem.MolToSmiles(isomer)
        if one_of_two and min(smiles, mirrored(isomer)) in found:
            continue
        found[min(smiles, mirrored(isomer)) if one_of_two else smiles] = isomer
    exact = n_open <= at_most
    n_open = len(found) if exact else n_open
    order = sorted(found)
    random.Random(seed).shuffle(order)
    possible: list[str] = []
    n_impossible = 0
    for smiles in order[: _FOR_EACH * limit if len(order) > limit else None]:
        if len(possible) == limit:
            break
        if strained and not _can_exist(found[smiles], seed):
            n_impossible += 1
        else:
            possible.append(smiles)
    if len(order) == 1 and possible:  # what looked open is not: the other "isomers" are the same
        return Isomers([], 1, True, 0)
    return Isomers([found[smiles] for smiles in sorted(possible)], n_open, exact, n_impossible)


def mirrored(mol: Chem.Mol) -> str:
    """Canonical SMILES of the mirror image."""
    return Chem.MolToSmiles(mirror_image(mol))


def mirror_image(mol: Chem.Mol) -> Chem.Mol:
    """The mirror image, its atoms in the same order; conformers are left as they are."""
    image = Chem.Mol(mol)
    for atom in image.GetAtoms():
        atom.SetChiralTag(_MIRRORED.get(atom.GetChiralTag(), atom.GetChiralTag()))
    return image


def _pin(mol: Chem.Mol) -> tuple[list[int], list[int]]:
    """Give what inverts or turns by itself any stereo, so that it is not enumerated."""
    atoms, bonds = [], []
    changing = undefined_stereo(mol).changing
    for info in Chem.FindPotentialStereo(mol):
        if info.specified == Chem.StereoSpecified.Specified:
            continue
        if info.type == Chem.StereoType.Atom_Tetrahedral:
            atom = mol.GetAtomWithIdx(info.centeredOn)
            if _inverts(atom) or (info.type, info.centeredOn) in changing:
                atom.SetChiralTag(Chem.ChiralType.CHI_TETRAHEDRAL_CW)
                atoms.append(atom.GetIdx())
        elif info.type == Chem.StereoType.Bond_Double:
            bond = mol.GetBondWithIdx(info.centeredOn)
            first, last = info.controllingAtoms[0], info.controllingAtoms[2]
            open_ended = (info.type, info.centeredOn) in changing or _is_imine(bond)
            if open_ended and Chem.Atom.NOATOM not in (first, last):
                bond.SetStereoAtoms(first, last)
                bond.SetStereo(Chem.BondStereo.STEREOCIS)
                bonds.append(bond.GetIdx())
    return atoms, bonds


def _unpin(mol: Chem.Mol, atoms: Iterable[int], bonds: Iterable[int]) -> None:
    for index in atoms:
        mol.GetAtomWithIdx(index).SetChiralTag(_UNSPECIFIED)
    for index in bonds:
        forget_side(mol.GetBondWithIdx(index))
    if atoms or bonds:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _inverts(atom: Chem.Atom) -> bool:
    """Nitrogen in a ring of three inverts, and one with a hydrogen."""
    if atom.GetAtomicNum() != 7:
        return False
    return atom.GetTotalNumHs() > 0 or atom.IsInRingSize(3)


def _is_imine(bond: Chem.Bond) -> bool:
    """C=N-H, which inverts at nitrogen."""
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    return any(end.GetAtomicNum() == 7 and end.GetTotalNumHs() > 0 for end in ends)


def _may_be_impossible(mol: Chem.Mol) -> bool:
    """Whether rings may forbid an isomer: an open centre where rings meet, or an open bond in one.

    Args:
        mol: With what inverts or turns given some stereo.
    """
    rings = mol.GetRingInfo()
    return any(
        rings.NumAtomRings(info.centeredOn) > 1
        if info.type == Chem.StereoType.Atom_Tetrahedral
        else rings.NumBondRings(info.centeredOn) > 0
        for info in Chem.FindPotentialStereo(mol)
        if info.specified != Chem.StereoSpecified.Specified
        and info.type in (Chem.StereoType.Atom_Tetrahedral, Chem.StereoType.Bond_Double)
    )


def _can_exist(mol: Chem.Mol, seed: int) -> bool:
    hydrogenated = Chem.AddHs(mol)
    if hypervalent_bounds(hydrogenated) is not None:  # the usual embedding knows how
        return True
    parameters = rdDistGeom.ETKDGv3()
    for name, value in (
        ("randomSeed", seed),
        ("maxIterations", _ATTEMPTS),
        ("timeout", _SECONDS),
        ("trackFailures", True),
    ):
        setattr(parameters, name, value)
    if rdDistGeom.EmbedMolecule(hydrogenated, parameters) >= 0:
        return True
    return bool(parameters.GetFailureCounts()[_TIMED_OUT])
