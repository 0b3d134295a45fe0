"""Which part of a salt or a mixture is computed, and which mixtures are none but a metal complex.

1. A metal that is no plain counter-ion means a complex written in pieces (cisplatin, ferrocene):
   its ligands alone are not what was asked for, the record is rejected.
2. Parts with carbon go before parts without.
3. Parts that are not on the list of salts and solvents (`salts.smi`) go before those that are.
4. Then the number of heavy atoms decides, rings, weight and at last the SMILES: never the order in
   which the parts were written.
"""

from collections import Counter
from functools import cache
from importlib.resources import files
from typing import Final

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.molecule import rejected
from mlff_core.status import Reason

#: Elements that are no metal; the others form complexes.
_NON_METALS: Final = frozenset(
    [0, 1, 2, *range(5, 11), *range(14, 19), *range(33, 37), 53, 54, 85, 86]
)
_HALOGENS: Final = frozenset([9, 17, 35, 53])
#: Metals whose bare ions are plain counter-ions: alkali metals, and alkaline earths from Mg on.
_ALKALI: Final = frozenset([3, 11, 19, 37, 55, 87])
_ALKALINE_EARTH: Final = frozenset([12, 20, 38, 56, 88])
#: Metals whose ions are counter-ions beside anions of oxygen acids and halides, and centres of
#: complexes beside everything else: Al, Zn, Ag, Bi. All of them are on ChEMBL's list.
_COUNTER_IONS_OF_OXYGEN_ACIDS: Final = frozenset([13, 30, 47, 83])
#: An O- that belongs to an oxygen acid: carboxylate, sulfonate, phosphate, nitrate, borate.
_ACID_OXYGEN: Final = Chem.MolFromSmarts("[OX1-][C,S,P,N+,Cl,Br,I]=O")
_CARBANION: Final = Chem.MolFromSmarts("[C-,c-;!$(C#N)]")
#: Atoms of neutral ligands that bind a metal, and acids, which may be written without their charge.
_DONOR: Final = Chem.MolFromSmarts(
    "[$([NX3;!$(N-[C,S,P]=[O,S])]),$([NX2]),$([nX2]),$([PX3]),$([AsX3]),$([SX2])]"
)
_ACID: Final = Chem.MolFromSmarts("[OX2H1][C,S,P]=O")
_NITROGEN_ANION: Final = Chem.MolFromSmarts("[N-,n-;!$([N-]=[N+]=*);!$([N-]S(=O)=O)]")
#: A glycine arm; two or more of them hold any metal but an alkali one: EDTA, DTPA, DOTA.
_CHELATING_ARM: Final = Chem.MolFromSmarts("[NX3;!$(N[C,S,P]=[O,S])][CH2]C(=O)[OX1-,OX2H1]")
#: Names are told for parts of at least so many heavy atoms; smaller ones everybody can read.
_NAMED_FROM: Final = 4
_LONGEST_LIST: Final = 200


def largest_fragment(mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
    """The part of a mixture that is computed; what was left out is added to `notes`.

    Raises:
        NotOkError: A metal complex is written in pieces.
    """
    fragments = Chem.GetMolFrags(mol, asMols=True)
    if len(fragments) == 1:
        return mol
    smiles = [Chem.MolToSmiles(fragment) for fragment in fragments]
    ranks = [_rank(fragment, text) for fragment, text in zip(fragments, smiles, strict=True)]
    best = max(range(len(fragments)), key=lambda k: ranks[k])
    _refuse_complexes(fragments, smiles, best)
    left_out = Counter(smiles)
    n_alike = left_out.pop(smiles[best])
    by_size = max(
        (fragment.GetNumHeavyAtoms() for fragment in fragments if _has_carbon(fragment)),
        default=0,
    )
    organic = "organic " if _has_carbon(fragments[best]) else ""
    passed_over = fragments[best].GetNumHeavyAtoms() < by_size
    text = ", ".join(_named(name, count) for name, count in left_out.items())
    details = []
    if n_alike > 1:
        details.append(f"one of {n_alike} that are alike")
    if text:
        details.append(
            "left out " + (text if len(text) <= _LONGEST_LIST else f"{text[:_LONGEST_LIST]}...")
        )
    notes.append(
        f"kept the largest {organic}fragment of {len(fragments)}"
        + (" that is no known salt or solvent" if passed_over else "")
        + f", {', '.join(details)}"
    )
    return fragments[best]


def known_salt(mol: Chem.Mol) -> str | None:
    """The name of a fragment on the list of salts, counter-ions and solvents; None if not there."""
    return _salts().get(_skeleton(mol))


def _rank(mol: Chem.Mol, smiles: str) -> tuple:
    """What decides, the most important first; the largest rank is computed."""
    return (
        _has_carbon(mol),
        known_salt(mol) is None,
        mol.GetNumHeavyAtoms(),
        mol.GetRingInfo().NumRings(),
        round(rdMolDescriptors.CalcExactMolWt(mol), 3),
        smiles,
    )


def _has_carbon(mol: Chem.Mol) -> bool:
    return any(atom.GetAtomicNum() == 6 for atom in atoms_of(mol))


def _named(smiles: str, count: int) -> str:
    mol = Chem.MolFromSmiles(smiles)
    name = known_salt(mol) if mol is not None and mol.GetNumHeavyAtoms() >= _NAMED_FROM else None
    return (f"{count} x " if count > 1 else "") + smiles + (f" ({name})" if name else "")


@cache
def _salts() -> dict[str, str]:
    """Skeleton -> name of all that is on the list."""
    lines = (files("mlff_core.chem") / "salts.smi").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return {_skeleton(Chem.MolFromSmiles(smiles)): name for smiles, name in rows}


def _skeleton(mol: Chem.Mol) -> str:
    """Elements and bonds of a molecule as text, without hydrogens, charges, isotopes and stereo."""
    bare = Chem.RWMol(mol)
    for atom in atoms_of(bare):
        atom.SetFormalCharge(0)
        atom.SetIsotope(0)
        atom.SetNumExplicitHs(0)
        atom.SetNoImplicit(True)
        atom.SetNumRadicalElectrons(0)
        atom.SetAtomMapNum(0)
    return Chem.MolToSmiles(bare, isomericSmiles=False)


def _metals(mol: Chem.Mol) -> set[int]:
    return {atom.GetAtomicNum() for atom in atoms_of(mol)} - _NON_METALS


def _refuse_complexes(fragments: tuple[Chem.Mol, ...], smiles: list[str], kept: int) -> None:
    for k, (fragment, text) in enumerate(zip(fragments, smiles, strict=True)):
        metals = _metals(fragment)
        if not metals:
            continue
        others = [other for j, other in enumerate(fragments) if j != k]
        plain_metal = fragment.GetNumAtoms() == 1 and metals <= _ALKALI | _ALKALINE_EARTH
        if k == kept and plain_metal:  # nothing but ions: the check of the elements names it
            continue
        if k == kept or not _is_counter_ion(fragment, metals, others, fragments[kept]):
            raise rejected(
                Reason.UNSUPPORTED_ELEMENT,
                f"{text} makes this a metal complex written in pieces, and the model does not know "
                "the metal; to compute a ligand give it alone, without the metal",
            )


def _is_counter_ion(
    fragment: Chem.Mol, metals: set[int], others: list[Chem.Mol], kept: Chem.Mol
) -> bool:
    """Whether a fragment with a metal is the plain counter-ion of the others."""
    ligands = {atom.GetAtomicNum() for atom in atoms_of(fragment)} - metals
    if fragment.GetNumAtoms() > 1:
        if not ligands <= {1, 8, *_HALOGENS}:
            return False
        if Chem.GetFormalCharge(fragment) < 0:  # a complex anion, of a cation: FeCl4-, SbF6-
            return Chem.GetFormalCharge(kept) > 0
    if metals <= _ALKALI - {3}:
        return True
    if any(len(other.GetSubstructMatches(_CHELATING_ARM)) > 1 for other in others):
        return False
    if metals <= _ALKALI | _ALKALINE_EARTH:
        # Of Li and Mg with carbon, or with two nitrogens as in a porphyrin, the rest alone is none.
        return not any(
            other.HasSubstructMatch(_CARBANION)
            or len(other.GetSubstructMatches(_NITROGEN_ANION)) > 1
            for other in others
        )
    if not (metals <= _COUNTER_IONS_OF_OXYGEN_ACIDS and all(map(_is_oxygen_acid, others))):
        return False
    # Nothing but a charge of its own makes the rest more than a ligand: ZnCl2 and bipyridine.
    charged = Chem.GetFormalCharge(kept) != 0 or kept.HasSubstructMatch(_ACID)
    return charged or not kept.HasSubstructMatch(_DONOR)


def _is_oxygen_acid(mol: Chem.Mol) -> bool:
    """Whether all its anionic atoms are oxygens of acids; so are water, halides and plain ions."""
    if mol.GetNumHeavyAtoms() <= 1:
        (number,) = {atom.GetAtomicNum() for atom in atoms_of(mol)} - {1} or {1}
        plain = _ALKALI | _ALKALINE_EARTH | _COUNTER_IONS_OF_OXYGEN_ACIDS
        return number == 8 or number in _HALOGENS or number in plain
    acids = {match[0] for match in mol.GetSubstructMatches(_ACID_OXYGEN)}
    return all(atom.GetFormalCharge() >= 0 or atom.GetIdx() in acids for atom in atoms_of(mol))
