"""Stereo that a SMILES gives, and what of it RDKit does not keep.

RDKit drops marks of stereo without a word, most of them because they mean nothing (an `@` at an
atom with two equal neighbours). Those that do mean something are found by reading the SMILES a
second time, without RDKit's clean-up, and are marked at the atoms, so that the words survive the
choice of a fragment.
"""

import re
from itertools import pairwise
from typing import Final

from rdkit import Chem

from mlff_core.chem.allenes import mark_allenes
from mlff_core.chem.atoms import atoms_of, bonds_of

_PROPERTY: Final = "_mlff_stereo_not_kept"
_UNSPECIFIED: Final = Chem.ChiralType.CHI_UNSPECIFIED
_TETRAHEDRAL: Final = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_CIS: Final = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS: Final = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
_ATROPISOMERS: Final = (Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW)
_NON_TETRAHEDRAL: Final = (
    Chem.ChiralType.CHI_SQUAREPLANAR,
    Chem.ChiralType.CHI_TRIGONALBIPYRAMIDAL,
    Chem.ChiralType.CHI_OCTAHEDRAL,
)
#: Double bonds in smaller rings have no stereo in RDKit: they are cis.
_SMALLEST_RING_WITH_TRANS: Final = 8
#: Atoms of the shortest chain of double bonds, beside a single one, that has two sides.
_SHORTEST_CUMULENE: Final = 4
_BLOCK: Final = re.compile(r"\s\|.*\|")
_WEDGES: Final = re.compile(r"\|.*\bw[UD]:")
#: The marks of hands in a SMILES, one for each atom that has any.
_HANDS: Final = re.compile("@+")
#: RDKit's property of a bond that CXSMILES draws as a wedge, and its values for up and down.
_WEDGE: Final = "_MolFileBondCfg"
_UP_OR_DOWN: Final = (1, 3)
#: "All centres are relative", as ChemAxon writes it into a CXSMILES block; RDKit skips it.
_RELATIVE: Final = re.compile(r"\|(?:.*,)?r(?:,.*)?\|")


def mark_stereo_not_kept(text: str, mol: Chem.Mol) -> None:
    """Mark the atoms of `mol` whose stereo was given in `text`, means something, and is not kept.

    Args:
        text: SMILES or CXSMILES.
        mol: What RDKit read from it.
    """
    if _WEDGES.search(text):
        for atom in _wedges_without_meaning(mol):
            _mark(atom, f"the wedged bond at {_name(atom)}, which says no stereo that RDKit knows")
    if _BLOCK.search(text) and not _is_read(text):
        _mark(mol.GetAtomWithIdx(0), "the CXSMILES block, which cannot be read")
    smiles = text.partition(" ")[0]
    if not any(mark in smiles for mark in "@/\\"):
        return
    if "/" not in smiles and "\\" not in smiles:
        n_kept = sum(atom.GetChiralTag() in _TETRAHEDRAL for atom in atoms_of(mol))
        if n_kept == len(_HANDS.findall(smiles)):  # RDKit adds none
            return
    parameters = Chem.SmilesParserParams()
    parameters.sanitize = False  # type: ignore[assignment]  # the stub errs, here and below
    parameters.removeHs = False  # type: ignore[assignment]
    parameters.parseName = False  # type: ignore[assignment]
    raw = Chem.MolFromSmiles(text.partition(" ")[0], parameters)
    if raw is None:
        return
    raw.UpdatePropertyCache(False)
    Chem.SetBondStereoFromDirections(raw)
    pairs = zip(_heavy(raw), _heavy(mol), strict=True)  # RDKit removes hydrogens, in order
    same = {first.GetIdx(): last.GetIdx() for first, last in pairs}
    held = mark_allenes(text.partition(" ")[0], raw, mol, same)
    atoms = [
        (atom, read)
        for atom in atoms_of(raw)
        if atom.GetChiralTag() != _UNSPECIFIED
        and atom.GetIdx() in same
        and atom.GetIdx() not in held
        and (read := mol.GetAtomWithIdx(same[atom.GetIdx()])).GetChiralTag() not in _TETRAHEDRAL
    ]
    bonds = [
        (bond, read_bond)
        for bond in bonds_of(raw)
        if bond.GetStereo() in (*_CIS, *_TRANS)
        and bond.GetBeginAtomIdx() in same
        and bond.GetEndAtomIdx() in same
        and (
            read_bond := mol.GetBondBetweenAtoms(
                same[bond.GetBeginAtomIdx()], same[bond.GetEndAtomIdx()]
            )
        ).GetStereo()
        not in (*_CIS, *_TRANS)
    ]
    marks = _cumulenes(raw, mol, same)
    if atoms or bonds:  # seldom: nearly all that is given is kept
        marks += _lost(mol, atoms, bonds, {last: first for first, last in same.items()})
    for atom, words in marks:
        _mark(atom, words)


def _lost(
    mol: Chem.Mol,
    atoms: list[tuple[Chem.Atom, Chem.Atom]],
    bonds: list[tuple[Chem.Bond, Chem.Bond]],
    raw_of: dict[int, int],
) -> list[tuple[Chem.Atom, str]]:
    """Of the marks that RDKit dropped those that mean something.

    Args:
        mol: What RDKit read.
        atoms: Atoms with a mark as they were given, and as they were read.
        bonds: The same of double bonds.
        raw_of: Place of an atom as read -> as given.
    """
    possible = {
        (info.type, info.centeredOn)
        for info in Chem.FindPotentialStereo(mol)
        if info.specified != Chem.StereoSpecified.Specified
    }
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False, includeChirality=False))
    marks = []
    in_rings = []  # one alone says nothing: it is relative to another
    for given, read in atoms:
        if (Chem.StereoType.Atom_Tetrahedral, read.GetIdx()) in possible:
            in_rings.append((read, _name(given)))
        elif words := _centre(given, read, ranks):
            marks.append((read, words))
    for given_bond, read_bond in bonds:
        begin, end = given_bond.GetBeginAtom(), given_bond.GetEndAtom()
        first = read_bond.GetBeginAtom()
        if (Chem.StereoType.Bond_Double, read_bond.GetIdx()) in possible:
            in_rings.append((first, f"{_name(begin)}={_name(end)}"))
        elif words := _double_bond(given_bond, read_bond, raw_of):
            marks.append((first, words))
    if len(in_rings) > 1:
        marks += [(atom, f"{name}, relative to others of its ring") for atom, name in in_rings]
    return marks


def _wedges_without_meaning(mol: Chem.Mol) -> list[Chem.Atom]:
    """Atoms at the narrow end of wedges that gave neither a centre nor an axis, and might have."""
    axes = {
        atom.GetIdx()
        for bond in bonds_of(mol)
        if bond.GetStereo() in _ATROPISOMERS
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom())
    }
    narrow = {
        bond.GetBeginAtomIdx(): bond.GetBeginAtom()
        for bond in bonds_of(mol)
        if bond.HasProp(_WEDGE) and bond.GetIntProp(_WEDGE) in _UP_OR_DOWN
    }
    possible = {info.centeredOn for info in Chem.FindPotentialStereo(mol)}
    return [
        atom
        for index, atom in narrow.items()
        if atom.GetChiralTag() not in _TETRAHEDRAL
        and index not in axes
        and (atom.GetHybridization() != Chem.HybridizationType.SP3 or index in possible)
    ]


def _is_read(text: str) -> bool:
    """Whether RDKit reads all of a CXSMILES; by default it leaves out a block that it cannot."""
    parameters = Chem.SmilesParserParams()
    parameters.strictCXSMILES = True  # type: ignore[assignment]
    parameters.sanitize = False  # type: ignore[assignment]
    return Chem.MolFromSmiles(text, parameters) is not None


def clear_axes_without_meaning(mol: Chem.Mol) -> None:
    """Take the hand from axes that have none: with two equal neighbours at one end."""
    axes = [bond for bond in bonds_of(mol) if bond.GetStereo() in _ATROPISOMERS]
    if not axes:
        return
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
    for bond in axes:
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        for end, other in (ends, ends[::-1]):
            beside = [ranks[atom.GetIdx()] for atom in _others(end, other)]
            if len(set(beside)) < len(beside):
                bond.SetStereo(Chem.BondStereo.STEREONONE)


def with_relative_stereo(text: str, mol: Chem.Mol) -> Chem.Mol:
    """The molecule with its centres in a group of relative stereo, if a CXSMILES says `r`."""
    centres = [a.GetIdx() for a in atoms_of(mol) if a.GetChiralTag() in _TETRAHEDRAL]
    if not centres or mol.GetStereoGroups() or not _RELATIVE.search(text):
        return mol
    relative = Chem.RWMol(mol)
    group = Chem.CreateStereoGroup(Chem.StereoGroupType.STEREO_OR, relative, centres)
    relative.SetStereoGroups([group])
    return relative.GetMol()


def stereo_not_kept(mol: Chem.Mol) -> list[str]:
    """What was marked at the atoms of `mol`, in words."""
    return [
        part
        for atom in atoms_of(mol)
        if atom.HasProp(_PROPERTY)
        for part in atom.GetProp(_PROPERTY).split("|")
    ]


def mixture(mol: Chem.Mol) -> str | None:
    """What the enhanced stereo groups of a CXSMILES say, if they say more than the drawing."""
    groups = [
        group
        for group in mol.GetStereoGroups()
        if group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE
    ]
    if not groups:
        return None
    of_groups = {atom.GetIdx() for group in groups for atom in group.GetAtoms()}
    centres = {
        info.centeredOn
        for info in Chem.FindPotentialStereo(mol)
        if info.type == Chem.StereoType.Atom_Tetrahedral
    }
    axes = any(bond.GetStereo() in _ATROPISOMERS for bond in bonds_of(mol))
    mirror_images = len(groups) == 1 and centres <= of_groups and not axes
    kind = "enantiomers" if mirror_images else "stereoisomers"
    kinds = {group.GetGroupType() for group in groups}
    if kinds == {Chem.StereoGroupType.STEREO_OR}:
        count = "one of two" if len(groups) == 1 else "one of several"
        return f"the input is {count} {kind}, not known which: computed as drawn"
    return f"the input is a mixture of {kind}: one of them, as drawn, was computed"


def _heavy(mol: Chem.Mol) -> list[Chem.Atom]:
    return [atom for atom in atoms_of(mol) if atom.GetAtomicNum() != 1]


def _mark(atom: Chem.Atom, words: str) -> None:
    before = f"{atom.GetProp(_PROPERTY)}|" if atom.HasProp(_PROPERTY) else ""
    atom.SetProp(_PROPERTY, before + words)


def _name(atom: Chem.Atom) -> str:
    return f"{atom.GetSymbol()}{atom.GetIdx() + 1}"


def _centre(given: Chem.Atom, atom: Chem.Atom, ranks: list[int]) -> str | None:
    if given.GetChiralTag() in _NON_TETRAHEDRAL or atom.GetChiralTag() in _NON_TETRAHEDRAL:
        return f"the order of the neighbours around {_name(given)}"
    if _is_middle_of_allene(given):
        ends = atom.GetNeighbors()
        if all(_differ(_others(end, atom), ranks, end) for end in ends):
            return f"the axis of the allene at {_name(given)}"
    elif (
        atom.GetAtomicNum() == 7
        and atom.GetTotalDegree() == 3
        and atom.GetFormalCharge() == 0
        and not atom.GetIsAromatic()
        and (atom.GetHybridization() == Chem.HybridizationType.SP3 or _is_bridgehead(atom))
        and _differ(list(atom.GetNeighbors()), ranks, atom)
    ):
        held = "at a bridgehead" if _is_bridgehead(atom) else "that inverts"
        return f"the centre {_name(given)}, a nitrogen {held}"
    return None


def _is_bridgehead(atom: Chem.Atom) -> bool:
    return all(bond.IsInRing() for bond in atom.GetBonds())


def _is_middle_of_allene(atom: Chem.Atom) -> bool:
    bonds = atom.GetBonds()
    return len(bonds) == 2 and all(b.GetBondType() == Chem.BondType.DOUBLE for b in bonds)


def _others(atom: Chem.Atom, without: Chem.Atom) -> list[Chem.Atom]:
    return [n for n in atom.GetNeighbors() if n.GetIdx() != without.GetIdx()]


def _differ(neighbours: list[Chem.Atom], ranks: list[int], centre: Chem.Atom) -> bool:
    """Whether the substituents of a centre differ, among them at most one hydrogen not written."""
    found = [ranks[neighbour.GetIdx()] for neighbour in neighbours]
    return len(set(found)) == len(found) > 0 and centre.GetTotalNumHs() <= 1


def _double_bond(given: Chem.Bond, bond: Chem.Bond, raw_of: dict[int, int]) -> str | None:
    rings = bond.GetOwningMol().GetRingInfo()
    around = [ring for ring in rings.AtomRings() if _goes_through(ring, bond)]
    if not around or len(min(around, key=len)) >= _SMALLEST_RING_WITH_TRANS:
        return None
    ring = {raw_of[atom] for atom in min(around, key=len)}
    trans = given.GetStereo() in _TRANS
    # A stereo atom outside the ring is opposite to the ring's neighbour at that end.
    for atom in given.GetStereoAtoms():
        trans ^= atom not in ring
    name = f"{_name(given.GetBeginAtom())}={_name(given.GetEndAtom())}"
    return f"the double bond {name}, trans in a ring of {len(ring)}: cis instead" if trans else None


def _goes_through(ring: tuple[int, ...], bond: Chem.Bond) -> bool:
    ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    return any({a, b} == ends for a, b in pairwise((*ring, ring[0])))


def _cumulenes(raw: Chem.Mol, mol: Chem.Mol, same: dict[int, int]) -> list[tuple[Chem.Atom, str]]:
    """Chains of three, five ... double bonds in a row whose ends were given as cis or trans."""
    partners: dict[int, list[int]] = {}
    for bond in bonds_of(raw):
        if bond.GetBondType() == Chem.BondType.DOUBLE:
            partners.setdefault(bond.GetBeginAtomIdx(), []).append(bond.GetEndAtomIdx())
            partners.setdefault(bond.GetEndAtomIdx(), []).append(bond.GetBeginAtomIdx())
    marks = []
    for start, ends in partners.items():
        chain = [start, *ends]
        if len(ends) != 1:
            continue
        while len(beyond := [a for a in partners[chain[-1]] if a != chain[-2]]) == 1:
            chain.append(beyond[0])
        has_sides = len(chain) % 2 == 0 and len(chain) >= _SHORTEST_CUMULENE
        if has_sides and start < chain[-1] and all(_has_direction(raw, chain[k]) for k in (0, -1)):
            name = f"{_name(raw.GetAtomWithIdx(start))} to {_name(raw.GetAtomWithIdx(chain[-1]))}"
            marks.append((mol.GetAtomWithIdx(same[start]), f"cis or trans of {name}"))
    return marks


def _has_direction(mol: Chem.Mol, atom: int) -> bool:
    bonds = mol.GetAtomWithIdx(atom).GetBonds()
    return any(bond.GetBondDir() != Chem.BondDir.NONE for bond in bonds)
