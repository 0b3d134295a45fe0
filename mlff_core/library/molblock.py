"""A mol block to SMILES with its stereo, or the words why there is none."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from typing import Final

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolTransforms

from mlff_core.elements import SYMBOLS
from mlff_core.library.hindered import see_hindered_axes

#: What plain SMILES cannot say: groups of centres of unknown hand, axes that cannot turn.
_EXTENSIONS: Final = Chem.CXSmilesFields.CX_ENHANCEDSTEREO | Chem.CXSmilesFields.CX_BOND_ATROPISOMER
#: What is like them in the period above, for which RDKit knows wedges: Se as S, As as P.
_SEEN_AS: Final = {34: 16, 33: 15}
_NOBLE_GASES: Final = frozenset({2, 10, 18, 36, 54, 86})
#: With three bonds these keep their hand: P, As.
_PYRAMIDS: Final = frozenset({15, 33})
#: How a note ends that says which stereo of an entry is lost.
NOT_KEPT: Final = "that the entry shows is not kept"
_HANDED: Final = "the handedness of an allene"
#: RDKit's property of a bond, of V2000 and of V3000, and its values for wedges up and down.
_DRAWN: Final = {"_MolFileBondStereo": (1, 6), "_MolFileBondCfg": (1, 3)}
#: How the headings of RDKit's longer messages begin.
_KINDS_OF_ERROR: Final = ("Pre-condition", "Post-condition", "Invariant", "Range Error")
#: Lines of a mol block before its atoms: title, program, comment, counts.
_HEADER_LINES: Final = 4
#: Lines after which a text follows that may be blank: an alias, a group abbreviation.
_TEXT_FOLLOWS: Final = ("A  ", "G  ")


def smiles_of(entry: Sequence[str], *, posed: bool = False) -> tuple[str | None, str | None]:
    """Return the SMILES of an SD entry's mol block, and what there is to say of it.

    What RDKit reads but does not accept, such as five bonds to a carbon, is written as it stands:
    the chemistry then rejects the record and says why.

    Args:
        entry: Lines of the entry, at least up to `M  END`.
        posed: Whether its geometry is kept, and so is stereo that no SMILES says.

    Returns:
        SMILES or CXSMILES, "" for a blank entry, None if it cannot be read; and a note or None,
        which says what is wrong if it cannot be read.
    """
    if not any(line.strip() for line in entry):
        return "", None
    block = block_of(entry)
    with rdBase.BlockLogs():
        mol = _parsed(block, sanitize=True)
        strange = mol is None
        if mol is None:
            mol = _parsed(block, sanitize=False)
    if mol is None:
        return None, f"the mol block cannot be read: {_words(block)}"
    if mol.GetNumAtoms() == 0:
        return "", "the mol block holds no atom"
    if _has_no_bonds(mol):
        return None, (
            f"the mol block has {mol.GetNumAtoms()} atoms but no bonds: it does not say which "
            "molecule this is; write the file with bonds"
        )
    if strange:
        return str(Chem.MolToSmiles(mol)), None
    _see_pyramids(mol)
    _see_wedges(mol, block)
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        see_hindered_axes(mol)
    return _written(mol), _told(mol, posed)


def is_solid(entry: Sequence[str]) -> bool:
    """Whether the mol block of an SD entry has coordinates in three dimensions."""
    with rdBase.BlockLogs():
        mol = _parsed(block_of(entry), sanitize=False)
    if mol is None or mol.GetNumConformers() == 0:
        return False
    return bool(abs(mol.GetConformer().GetPositions()[:, 2]).max(initial=0.0) > 1e-3)


def block_of(entry: Sequence[str]) -> str:
    """The mol block of an entry, without blank lines among atoms, bonds and properties."""
    end = next((i for i, line in enumerate(entry) if line.split()[:2] == ["M", "END"]), None)
    last = ["M  END"]
    if end is None:  # RDKit will say so
        end, last = next((i for i, line in enumerate(entry) if line[:1] == ">"), len(entry)), []
    lines = [
        line
        for i, line in enumerate(entry[:end])
        if line.strip() or i < _HEADER_LINES or entry[i - 1].startswith(_TEXT_FOLLOWS)
    ]
    return "\n".join([*lines, *last, ""])


def _parsed(block: str, sanitize: bool) -> Chem.Mol | None:
    # A bad block gives None or, for some counts lines, an exception of several kinds.
    with suppress(RuntimeError, ValueError):
        return Chem.MolFromMolBlock(block, sanitize=sanitize, removeHs=sanitize)
    return None


def _words(block: str) -> str:
    """RDKit's own words why it cannot read a block, in one line."""
    heard = io.StringIO()
    rdBase.LogToPythonStderr()  # part of them are warnings, which no capture of errors hears
    try:
        with redirect_stderr(heard):
            _parsed(block, sanitize=False)
    finally:
        rdBase.LogToCppStreams()
    lines = [
        line.partition("] ")[2] if line[:1] == "[" else line
        for line in heard.getvalue().splitlines()
    ]
    messages = [" ".join(line.split()) for line in lines if line.strip("* ")]
    messages = [line for line in messages if not line.startswith(_KINDS_OF_ERROR)]
    beyond = [line for line in messages if line.startswith("Failed Expression: ")]
    if heard.getvalue().count("Range Error") and beyond:
        return f"a number is out of range: not {beyond[0].partition(': ')[2]}"
    return messages[0] if messages else "RDKit does not say why"


def _see_pyramids(mol: Chem.Mol) -> None:
    """Take the hand of P, As and N in small rings from 3D coordinates, where RDKit does not look.

    RDKit does so for S with three bonds and a charge, so each is shown to it as one of these.
    """
    if not (mol.GetNumConformers() and mol.GetConformer().Is3D()):
        return
    pyramids = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if (atom.GetAtomicNum() in _PYRAMIDS or (atom.GetAtomicNum() == 7 and atom.IsInRingSize(3)))
        and atom.GetTotalDegree() == atom.GetDegree() == 3
        and atom.GetFormalCharge() == 0
        and atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED
    ]
    if not pyramids:
        return
    seen = Chem.RWMol(mol)
    for i in pyramids:
        seen.GetAtomWithIdx(i).SetAtomicNum(16)
        seen.GetAtomWithIdx(i).SetFormalCharge(1)
    Chem.AssignAtomChiralTagsFromStructure(seen)
    for i in pyramids:
        mol.GetAtomWithIdx(i).SetChiralTag(seen.GetAtomWithIdx(i).GetChiralTag())
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _see_wedges(mol: Chem.Mol, block: str) -> None:
    """Take the hand of Se and As from wedges, where RDKit does not look: each is shown as S or P.

    Args:
        mol: What RDKit read; hydrogens of the block are gone from it.
        block: The mol block.
    """
    unseen = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() in _SEEN_AS
        and atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED
    ]
    if not unseen or mol.GetConformer().Is3D():
        return
    drawn = _parsed(block, sanitize=False)
    if drawn is None:
        return
    seen = Chem.RWMol(drawn)
    for atom in seen.GetAtoms():
        atom.SetAtomicNum(_SEEN_AS.get(atom.GetAtomicNum(), atom.GetAtomicNum()))
    with suppress(ValueError):  # not all that Se can be is possible with S
        Chem.SanitizeMol(seen)
        Chem.ReapplyMolBlockWedging(seen)
        Chem.AssignChiralTypesFromBondDirs(seen)
        seen = Chem.RemoveHs(seen)
        for i in unseen:
            mol.GetAtomWithIdx(i).SetChiralTag(seen.GetAtomWithIdx(i).GetChiralTag())
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _has_no_bonds(mol: Chem.Mol) -> bool:
    """Whether several atoms stand side by side that would have bonds if the file had any."""
    return (
        mol.GetNumAtoms() > 1
        and mol.GetNumBonds() == 0
        and not all(a.GetFormalCharge() or a.GetAtomicNum() in _NOBLE_GASES for a in mol.GetAtoms())
    )


def _written(mol: Chem.Mol) -> str:
    """SMILES, or CXSMILES if there is something that plain SMILES cannot say."""
    groups = mol.GetStereoGroups()
    axes = any(bond.GetStereo() in _AXES for bond in mol.GetBonds())
    open_groups = any(g.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE for g in groups)
    # A repeating unit is no molecule: with its brackets in the SMILES the chemistry can say so.
    brackets = len(Chem.GetMolSubstanceGroups(mol)) > 0
    if not (axes or open_groups or brackets):
        return str(Chem.MolToSmiles(mol))
    fields = _EXTENSIONS | Chem.CXSmilesFields.CX_POLYMER if brackets else _EXTENSIONS
    return str(Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), fields))


_AXES: Final = frozenset({Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW})


def _told(mol: Chem.Mol, posed: bool) -> str | None:
    """What a reader of the row must know: atoms by themselves, and stereo that SMILES lose."""
    notes = []
    loose = [
        f"{SYMBOLS[atom.GetAtomicNum()]}{atom.GetIdx()}"
        for atom in mol.GetAtoms()
        if atom.GetDegree() == 0 and atom.GetAtomicNum() in (1, 6) and not atom.GetFormalCharge()
    ]
    if loose and mol.GetNumAtoms() > 1:
        notes.append(f"no bond leads to {', '.join(loose[:5])}: each is a molecule of its own")
    if posed:
        lost = []
    elif mol.GetNumConformers() and mol.GetConformer().Is3D():
        lost = [*_lost_double_bonds(mol), *(_HANDED for _ in _allenes(mol))]
    else:
        wedged = {b.GetBeginAtomIdx() for b in mol.GetBonds() if _is_wedge(b)}
        lost = [_HANDED for allene in _allenes(mol) if wedged & {allene[0], allene[2]}]
    notes += [f"{what} {NOT_KEPT}" for what in lost]
    return "; ".join(notes) or None


def _lost_double_bonds(mol: Chem.Mol) -> list[str]:
    """Double bonds that coordinates show as trans in a ring that RDKit takes for too small."""
    found = []
    conformer, rings = mol.GetConformer(), mol.GetRingInfo()
    for bond in mol.GetBonds():
        b, c = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if bond.GetBondType() != Chem.BondType.DOUBLE or bond.GetIsAromatic():
            continue
        for ring in rings.AtomRings():
            if (
                len(ring) in (6, 7)
                and b in ring
                and c in ring
                and rings.IsBondInRingOfSize(bond.GetIdx(), len(ring))
            ):
                a = next(n for n in _neighbours(mol, b) if n in ring and n != c)
                d = next(n for n in _neighbours(mol, c) if n in ring and n != b)
                if abs(rdMolTransforms.GetDihedralDeg(conformer, a, b, c, d)) > 90:
                    found.append(f"the trans double bond in a ring of {len(ring)}")
                break
    return found


_ALLENE: Final = Chem.MolFromSmarts("[#6;!H2]=[#6]=[#6;!H2]")


def _allenes(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    """The three atoms of each allene that has a hand, which no SMILES of RDKit says."""
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
    found = []
    for first, middle, last in mol.GetSubstructMatches(_ALLENE):
        ends = [[n for n in _neighbours(mol, end) if n != middle] for end in (first, last)]
        if all(len(end) == 1 or len({ranks[n] for n in end}) == 2 for end in ends):
            found.append((first, middle, last))
    return found


def _is_wedge(bond: Chem.Bond) -> bool:
    return any(
        bond.HasProp(name) and bond.GetIntProp(name) in values for name, values in _DRAWN.items()
    )


def _neighbours(mol: Chem.Mol, atom: int) -> list[int]:
    return [n.GetIdx() for n in mol.GetAtomWithIdx(atom).GetNeighbors()]
