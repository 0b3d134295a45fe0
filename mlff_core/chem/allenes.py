"""The hand of an allene, which OpenSMILES can say and RDKit does not keep.

`CC=[C@]=CC` says: seen from the first of the four groups, the other three follow each other
counterclockwise, as around a stereocentre (opensmiles.org, "Tetrahedral Allene-like Systems").
RDKit drops the mark. It is kept here at the atom in the middle, relative to the order of the atoms,
and is put into the SMILES that are written.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from rdkit import Chem

from mlff_core.chem.atoms import atoms_of

_SIGN: Final = "_mlff_allene"
#: An atom of a SMILES: what is in brackets, or one of those that need none.
_ATOM: Final = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
#: A carbon with a mark and no hydrogen; it is an allene's if it has two double bonds.
_MARKED: Final = re.compile(r"\[\d*C@(@|AL1|AL2)?(?::\d+)?\]")
_COUNTERCLOCKWISE: Final = {None: 1, "AL1": 1, "@": -1, "AL2": -1}
_CARBON: Final = re.compile(r"^\[?(\d*C)(:\d+)?\]?$")
#: Place of a hydrogen that is no atom: `AddHs` puts it behind all others.
_HYDROGEN: Final = 1 << 30


def mark_allenes(text: str, raw: Chem.Mol, mol: Chem.Mol, same: dict[int, int]) -> set[int]:
    """Mark the allenes of `mol` whose hand a SMILES gives.

    Args:
        text: SMILES.
        raw: What RDKit reads from it without clean-up.
        mol: What it makes of it.
        same: Place of an atom in `raw` -> in `mol`; hydrogens that are no atoms there are missing.

    Returns:
        Places in `raw` of the allenes' middles.
    """
    held: set[int] = set()
    if not _MARKED.search(text):
        return held
    ranks: list[int] | None = None
    for middle, token in enumerate(_ATOM.findall(text)):
        marked = _MARKED.fullmatch(token)
        if not marked or middle not in same:
            continue
        groups = _groups(raw, middle)
        if groups is None:
            continue
        ranks = ranks or list(Chem.CanonicalRankAtoms(mol, breakTies=False))
        places = [same.get(atom, _HYDROGEN) for atom in groups]
        first, last = places[:2], places[2:]
        if any(len({ranks[a] if a < _HYDROGEN else a for a in end}) < 2 for end in (first, last)):
            continue
        sign = _COUNTERCLOCKWISE[marked[1]] * _order(first) * _order(last)
        mol.GetAtomWithIdx(same[middle]).SetIntProp(_SIGN, sign)
        held.add(middle)
    return held


def allene_marks(mol: Chem.Mol) -> list[int]:
    """Places of the middles of the allenes that are marked."""
    return [k for k in range(mol.GetNumAtoms()) if mol.GetAtomWithIdx(k).HasProp(_SIGN)]


def allene_rows(mol: Chem.Mol, places: Iterable[int] | None = None) -> list[list[int]]:
    """Atoms a b c d at the ends of each marked allene: (a-d, b-d, c-d) has a positive determinant.

    Args:
        mol: With all hydrogens that are at these ends.
        places: Where to look; everywhere if None.
    """
    rows = []
    for middle in allene_marks(mol) if places is None else places:
        atom = mol.GetAtomWithIdx(middle)
        if not atom.HasProp(_SIGN):
            continue
        row = [
            group
            for end in sorted(n.GetIdx() for n in atom.GetNeighbors())
            for group in sorted(n.GetIdx() for n in mol.GetAtomWithIdx(end).GetNeighbors())
            if group != middle
        ]
        if len(row) == 4:
            rows.append(row if atom.GetIntProp(_SIGN) > 0 else [row[1], row[0], *row[2:]])
    return rows


def with_allenes(text: str, mol: Chem.Mol) -> str:
    """A SMILES that RDKit has just written of `mol`, with the marks of its allenes."""
    order = [int(k) for k in mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")]
    middles = {
        k: place for k, place in enumerate(order) if mol.GetAtomWithIdx(place).HasProp(_SIGN)
    }
    if not middles:
        return text
    raw = _raw(text)
    tokens = _ATOM.findall(text)
    for k, place in middles.items():
        groups, plain = _groups(raw, k), _CARBON.match(tokens[k])
        if groups is None or plain is None:
            continue
        places = [order[atom] if atom < _HYDROGEN else atom for atom in groups]
        sign = mol.GetAtomWithIdx(place).GetIntProp(_SIGN) * _order(places[:2]) * _order(places[2:])
        tokens[k] = f"[{plain[1]}{'@' if sign > 0 else '@@'}{plain[2] or ''}]"
    waiting = iter(tokens)
    return _ATOM.sub(lambda _: next(waiting), text)


def may_have_allenes(text: str) -> bool:
    """Whether a SMILES may give the hand of an allene."""
    return "@" in text and _MARKED.search(text) is not None


def read_back(smiles: str) -> Chem.Mol:
    """The molecule of a SMILES that was written here, its allenes marked."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is not None and may_have_allenes(smiles):
        raw = _raw(smiles.partition(" ")[0])
        heavy = [[a.GetIdx() for a in atoms_of(m) if a.GetAtomicNum() != 1] for m in (raw, mol)]
        mark_allenes(smiles, raw, mol, dict(zip(*heavy, strict=True)))
    return mol


def _raw(text: str) -> Chem.Mol:
    parameters = Chem.SmilesParserParams()
    parameters.sanitize = False  # type: ignore[assignment]  # the stub errs, here and below
    parameters.removeHs = False  # type: ignore[assignment]
    parameters.parseName = False  # type: ignore[assignment]
    return Chem.MolFromSmiles(text, parameters)


def _order(two: Sequence[int]) -> int:
    """+1 where two places stand in ascending order, -1 where not."""
    return 1 if two[0] < two[1] else -1


def _groups(raw: Chem.Mol, middle: int) -> list[int] | None:
    """The four groups of an allene in the order in which its SMILES names them.

    Returns:
        Atoms of `raw`, _HYDROGEN for a hydrogen that is none; None if it is no allene, or one whose
        order is not plain.
    """
    atom = raw.GetAtomWithIdx(middle)
    bonds = atom.GetBonds()
    # Which of the ends comes first does not matter: two swaps at once change nothing.
    n_chain = raw.GetNumAtoms() - len(Chem.GetMolFrags(raw))  # bonds that close rings come last
    if len(bonds) != 2 or any(bond.GetBondType() != Chem.BondType.DOUBLE for bond in bonds):
        return None
    groups: list[int] = []
    for end in sorted(n.GetIdx() for n in atom.GetNeighbors()):
        if raw.GetAtomWithIdx(end).GetAtomicNum() != 6:
            return None
        before: list[int] = []
        closures: list[int] = []
        after: list[int] = []
        for bond in raw.GetAtomWithIdx(end).GetBonds():
            other = bond.GetOtherAtomIdx(end)
            if other == middle:
                continue
            if bond.GetBondType() == Chem.BondType.DOUBLE:
                return None  # a longer cumulene
            chain = before if other < end else after
            (chain if bond.GetIdx() < n_chain else closures).append(other)
        found = len(before) + len(closures) + len(after)
        if len(closures) > 1 or not 1 <= found <= 2:
            return None
        hidden = [_HYDROGEN] * (2 - found)
        groups += [*before, *hidden, *closures, *sorted(after)]
    return groups
