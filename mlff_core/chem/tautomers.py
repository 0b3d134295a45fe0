"""Tautomers of a molecule that a chemist would look at: RDKit's enumeration, filtered.

RDKit lists the imidic acid of every amide and the enol of every ketone. Left out is what has fewer
amides, acids, esters, aromatic rings or tetrahedral centres of the input's stereo than the input, a
new C=NH, a new enol that no second carbonyl holds, and what needs hydrogen to move from one carbon
to another (ketose to aldose). RDKit's "canonical" tautomer is a hash, not the stable
one; nothing here makes use of it.
"""

from typing import Final, NamedTuple

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

#: Tautomers and transforms at most: of approved drugs 6 % have more, and 1,000 take 11 s.
_MOST_TAUTOMERS: Final = 32
_MOST_TRANSFORMS: Final = 200

#: Amides, acids and esters.
_ACYL: Final = Chem.MolFromSmarts("[CX3;!a](=[O,S])[NX3,NX4+,OX2,OX1-]")
_ENOL: Final = Chem.MolFromSmarts("[OX2H1,SX2H1,NX3H2][CX3;!a]=[CX3;!a]")
_HELD_ENOL: Final = Chem.MolFromSmarts(
    "[OX2H1,SX2H1,NX3H2][CX3;!a]=[CX3;!a][$([#6]=[O,N,S]),$(C#N),$([N+](=O)[O-]),$(S(=O)=O)]"
)
_BARE_IMINE: Final = Chem.MolFromSmarts("[NX2H1]=[#6]")
_UNSPECIFIED: Final = Chem.ChiralType.CHI_UNSPECIFIED


class Tautomers(NamedTuple):
    """What became of a molecule.

    Attributes:
        mols: Tautomers other than the input, by SMILES.
        complete: Whether RDKit got to the end of its list.
    """

    mols: list[Chem.Mol]
    complete: bool


def tautomers(mol: Chem.Mol) -> Tautomers:
    """The other tautomers of a molecule.

    Args:
        mol: Without hydrogens; it is not changed.

    Raises:
        RuntimeError: RDKit failed, as it does for some nitroalkenes.
    """
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(_MOST_TAUTOMERS)
    enumerator.SetMaxTransforms(_MOST_TRANSFORMS)
    enumerator.SetRemoveSp3Stereo(False)
    enumerator.SetRemoveBondStereo(False)
    found = enumerator.Enumerate(mol)
    complete = found.status == rdMolStandardize.TautomerEnumeratorStatus.Completed
    own = Chem.MolToSmiles(mol, isomericSmiles=False)
    kept = {}
    for candidate in found.tautomers:
        other = Chem.Mol(candidate)
        Chem.AssignStereochemistry(other, cleanIt=True, force=True)
        smiles = Chem.MolToSmiles(other)
        is_other = Chem.MolToSmiles(other, isomericSmiles=False) != own
        if is_other and _keeps_stereo(mol, other) and _is_likely(mol, other):
            kept[smiles] = other
    return Tautomers([kept[smiles] for smiles in sorted(kept)], complete)


def _keeps_stereo(mol: Chem.Mol, other: Chem.Mol) -> bool:
    """Whether every centre that was specified is the same centre still; atoms keep their places."""
    return all(
        atom.GetChiralTag() in (_UNSPECIFIED, twin.GetChiralTag())
        for atom, twin in zip(mol.GetAtoms(), other.GetAtoms(), strict=True)
    )


def _is_likely(mol: Chem.Mol, other: Chem.Mol) -> bool:
    return (
        _count(other, _ACYL) >= _count(mol, _ACYL)
        and _n_aromatic_rings(other) >= _n_aromatic_rings(mol)
        and _count(other, _BARE_IMINE) <= _count(mol, _BARE_IMINE)
        and _loose_enols(other) <= _loose_enols(mol)
        and _n_carbons_changed(mol, other) <= 1
        and _n_charges(other) <= _n_charges(mol)
    )


def _loose_enols(mol: Chem.Mol) -> int:
    return len(
        {match[0] for match in mol.GetSubstructMatches(_ENOL)}
        - {match[0] for match in mol.GetSubstructMatches(_HELD_ENOL)}
    )


def _count(mol: Chem.Mol, pattern: Chem.Mol) -> int:
    return len(mol.GetSubstructMatches(pattern))


def _n_aromatic_rings(mol: Chem.Mol) -> int:
    return sum(
        all(mol.GetBondWithIdx(bond).GetIsAromatic() for bond in ring)
        for ring in mol.GetRingInfo().BondRings()
    )


def _n_carbons_changed(mol: Chem.Mol, other: Chem.Mol) -> int:
    """Carbons that have more or fewer hydrogens; atoms keep their places."""
    return sum(
        atom.GetAtomicNum() == 6 and atom.GetTotalNumHs() != twin.GetTotalNumHs()
        for atom, twin in zip(mol.GetAtoms(), other.GetAtoms(), strict=True)
    )


def _n_charges(mol: Chem.Mol) -> int:
    return sum(abs(atom.GetFormalCharge()) for atom in mol.GetAtoms())
