"""Whether a molecule is its own mirror image."""

from typing import Final

from rdkit import Chem

from mlff_core.chem.allenes import may_have_allenes

#: Stereo that inverting tetrahedral centres does not mirror: other centres, and that of a block of
#: CXSMILES, as of atropisomers.
_BEYOND: Final = ("@SP", "@TB", "@OH", "@AL", " |")


def is_chiral(smiles: str) -> bool:
    """Whether the mirror image of a molecule is another one.

    A meso form is its own. Stereo other than that of tetrahedral centres counts as chiral, so that
    "no" can be relied on.

    Args:
        smiles: With all its stereo.

    Raises:
        ValueError: RDKit does not read it.
    """
    if any(sign in smiles for sign in _BEYOND) or may_have_allenes(smiles):
        return True
    if "@" not in smiles:
        return False
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"smiles: expected what RDKit reads, found {smiles!r}")
    mirror = Chem.Mol(mol)
    for atom in mirror.GetAtoms():
        atom.InvertChirality()
    return bool(Chem.MolToSmiles(mirror) != Chem.MolToSmiles(mol))
