"""What looks like stereo and changes by itself: a proton that moves makes it, or a turn."""

from typing import Final, NamedTuple

from rdkit import Chem

from mlff_core.chem.atoms import atoms_of

#: Centres of acids whose oxygens a proton or a way of drawing tells apart: P, S, As, Se.
_OF_ACIDS: Final = frozenset([15, 16, 33, 34])
_CARBON: Final = 6
_NITROGEN: Final = 7
_OXYGEN: Final = 8
#: Neighbours that may have a proton or not: N, O, S.
_TAKE_PROTONS: Final = frozenset([7, 8, 16])
TETRAHEDRAL: Final = Chem.StereoType.Atom_Tetrahedral
DOUBLE_BOND: Final = Chem.StereoType.Bond_Double
STEREO_TYPES: Final = (TETRAHEDRAL, DOUBLE_BOND)
#: Property of an atom of a changed molecule: its number before.
_FORMER: Final = "_former"


class Undefined(NamedTuple):
    """Kind and atom or bond of each centre and double bond whose stereo is not defined.

    Attributes:
        open: Those that can be chosen.
        changing: Those that have no stereo to speak of.
    """

    open: set[tuple[Chem.StereoType, int]]
    changing: set[tuple[Chem.StereoType, int]]


def undefined_stereo(mol: Chem.Mol) -> Undefined:
    """What of a molecule's stereo is not defined, and what of that changes by itself.

    A proton makes it, moving at the atom itself or far from it, or it turns by itself: the carbon
    of C(P(=O)(O)O)P(=O)(O)[O-] has one of two hands only until the proton is at the other end.
    """
    undefined, changing = set(), set()
    for info in Chem.FindPotentialStereo(mol):
        if info.type in STEREO_TYPES and info.specified != Chem.StereoSpecified.Specified:
            undefined.add((info.type, info.centeredOn))
    for kind, index in undefined:
        by_itself = (
            moves_its_proton(mol.GetAtomWithIdx(index))
            if kind == TETRAHEDRAL
            else turns(mol.GetBondWithIdx(index))
        )
        if by_itself:
            changing.add((kind, index))
    if len(changing) < len(undefined) and (neutral := _neutral(mol)) is not None:
        stays = {
            (info.type, _place(neutral, info.type, info.centeredOn))
            for info in Chem.FindPotentialStereo(neutral)
        }
        changing.update(
            (kind, index)
            for kind, index in undefined
            if (kind, _place(mol, kind, index)) not in stays
        )
    return Undefined(undefined - changing, changing)


def _place(mol: Chem.Mol, kind: Chem.StereoType, index: int) -> tuple[int, ...]:
    """The atoms of a centre or a double bond, as `_neutral` names them."""
    atoms = (
        [mol.GetAtomWithIdx(index)]
        if kind == TETRAHEDRAL
        else [mol.GetBondWithIdx(index).GetBeginAtom(), mol.GetBondWithIdx(index).GetEndAtom()]
    )
    named = (a.GetIntProp(_FORMER) if a.HasProp(_FORMER) else a.GetIdx() for a in atoms)
    return tuple(sorted(named))


def _neutral(mol: Chem.Mol) -> Chem.Mol | None:
    """Without the charges that a proton makes; None where there are none of these."""
    charged = [atom for atom in atoms_of(mol) if atom.GetFormalCharge()]
    ions = [atom.GetIdx() for atom in charged if _is_by_proton(atom)]
    if not ions:
        return None
    neutral = Chem.RWMol(mol)
    for atom in atoms_of(neutral):
        atom.SetIntProp(_FORMER, atom.GetIdx())
    gone = set()
    for index in ions:
        atom = neutral.GetAtomWithIdx(index)
        if atom.GetFormalCharge() > 0:
            hydrogens = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
            gone.update(hydrogens[:1])
            if not hydrogens:
                atom.SetNumExplicitHs(max(atom.GetNumExplicitHs() - 1, 0))
        else:
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() + 1)
        atom.SetFormalCharge(0)
    for index in sorted(gone, reverse=True):
        neutral.RemoveAtom(index)
    # With all hydrogens inside, as the others are: those that are atoms would tell two acids apart.
    neutral = Chem.RWMol(Chem.RemoveHs(neutral, sanitize=False))
    neutral.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(neutral)
    return neutral


def _is_by_proton(atom: Chem.Atom) -> bool:
    """Whether the atom is charged because of a proton too many or too few."""
    charge, number = atom.GetFormalCharge(), atom.GetAtomicNum()
    if charge == 0 or number not in _TAKE_PROTONS:
        return False
    if charge > 0:
        return number == _NITROGEN and atom.GetTotalNumHs(includeNeighbors=True) > 0
    return all(neighbour.GetFormalCharge() <= 0 for neighbour in atom.GetNeighbors())


def moves_its_proton(atom: Chem.Atom) -> bool:
    """Whether a proton that comes and goes makes the atom no stereocentre.

    An ammonium ion inverts: both of its hands are conformers of one molecule. At P, S, As and Se
    two neighbours may differ in a proton or in how a charge is drawn, and in nothing else:
    P(=O)(OH)OR, P(=O)([O-])OR, S(=O)OH, S(=O)(=NH)NH2.
    """
    if atom.GetAtomicNum() == _NITROGEN:
        return atom.GetFormalCharge() > 0 and atom.GetTotalNumHs(includeNeighbors=True) > 0
    if atom.GetAtomicNum() not in _OF_ACIDS:
        return False
    seen = set()
    for end in atom.GetNeighbors():
        if end.GetAtomicNum() in _TAKE_PROTONS and _n_heavy_neighbours(end) == 1:
            kind = (end.GetAtomicNum(), end.GetIsotope())
            if kind in seen:
                return True
            seen.add(kind)
    return False


def _n_heavy_neighbours(atom: Chem.Atom) -> int:
    return sum(neighbour.GetAtomicNum() > 1 for neighbour in atom.GetNeighbors())


def turns(bond: Chem.Bond) -> bool:
    """C=N of amidines and guanidines, and push-pull C=C.

    An ethylene with two amines at one end and an acceptor at the other (ranitidine), or with one
    and two, turns within seconds or less (J. Sandström, Top. Stereochem. 1983, 14, 83).
    """
    first, last = bond.GetBeginAtom(), bond.GetEndAtom()
    if first.GetAtomicNum() == last.GetAtomicNum() == _CARBON:
        return _is_push_pull(first, last) or _is_push_pull(last, first)
    carbon, nitrogen = sorted((first, last), key=lambda atom: atom.GetAtomicNum())
    if (carbon.GetAtomicNum(), nitrogen.GetAtomicNum()) != (_CARBON, _NITROGEN):
        return False
    beside = {n.GetAtomicNum() for n in carbon.GetNeighbors() if n.GetIdx() != nitrogen.GetIdx()}
    # An amidoxime keeps its geometry.
    oxime = any(n.GetAtomicNum() == _OXYGEN for n in nitrogen.GetNeighbors())
    return _NITROGEN in beside and not oxime


def _is_push_pull(rich: Chem.Atom, poor: Chem.Atom) -> bool:
    """Whether one carbon of a double bond has amines and the other acceptors, three in all."""
    amines = sum(n.GetAtomicNum() == 7 and n.GetFormalCharge() == 0 for n in rich.GetNeighbors())
    acceptors = sum(_accepts(n) for n in poor.GetNeighbors() if n.GetIdx() != rich.GetIdx())
    return min(amines, acceptors) > 0 and amines + acceptors > 2


def _accepts(atom: Chem.Atom) -> bool:
    """Carbon, nitrogen or sulfur with a double or triple bond to oxygen, sulfur or nitrogen."""
    return atom.GetAtomicNum() in (6, 7, 16) and any(
        bond.GetBondTypeAsDouble() >= 2.0 and bond.GetOtherAtom(atom).GetAtomicNum() in (7, 8, 16)
        for bond in atom.GetBonds()
    )
