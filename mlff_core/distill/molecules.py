"""Which molecules are learnt from, and which are held out.

The split is by connectivity: the first block of the standard InChIKey, which stereoisomers,
protonation states and most tautomers share, so that no variant of a test molecule is trained on.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from rdkit import Chem, RDLogger

#: Elements of the teacher that no SMILES table at hand holds: written in place of a relative.
SUBSTITUTES: Final = {16: 34, 15: 33}

_CHARGE = re.compile(r"([+-]+)(\d?)(?=[:\]])")


@dataclass(frozen=True)
class Choice:
    """One molecule of the selection.

    Attributes:
        smiles: Isomeric SMILES, one fragment.
        charge: Total charge in e.
        n_atoms: Number of atoms, hydrogens counted.
        key: First block of the InChIKey.
        held_out: Whether it is kept from training.
    """

    smiles: str
    charge: int
    n_atoms: int
    key: str
    held_out: bool


def is_held_out(key: str, share: float, salt: str) -> bool:
    """Whether a connectivity key belongs to the held-out share; the same on every machine."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def smiles_charge(smiles: str) -> int:
    """Total charge that the brackets of a SMILES add up to, without parsing the molecule."""
    total = 0
    for signs, digit in _CHARGE.findall(smiles):
        size = int(digit) if digit else len(signs)
        total += size if signs[0] == "+" else -size
    return total


def choose(
    smiles: str,
    *,
    elements: frozenset[int],
    max_atoms: int,
    max_charge: int,
    held_out_share: float,
    salt: str,
) -> Choice | str:
    """The molecule of a SMILES, or the reason why it is left out.

    Args:
        smiles: One record of the table.
        elements: Atomic numbers that may occur.
        max_atoms: Largest number of atoms, hydrogens counted.
        max_charge: Largest absolute total charge in e.
        held_out_share: Share of connectivity keys that is held out, 0 to 1.
        salt: Distinguishes this split from others.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return "invalid_smiles"
    if len(Chem.GetMolFrags(mol)) > 1:
        return "mixture"
    if any(atom.GetAtomicNum() not in elements for atom in mol.GetAtoms()):
        return "element"
    if any(atom.GetNumRadicalElectrons() or atom.GetIsotope() for atom in mol.GetAtoms()):
        return "radical_or_isotope"
    n_atoms = mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if n_atoms > max_atoms:
        return "too_large"
    charge = Chem.GetFormalCharge(mol)
    if abs(charge) > max_charge:
        return "charge"
    key = Chem.MolToInchiKey(mol)[:14]
    if not key:
        return "no_inchikey"
    return Choice(smiles, charge, n_atoms, key, is_held_out(key, held_out_share, salt))


def substitute(smiles: str, old: int, new: int) -> str | None:
    """The molecule with every atom of one element replaced by a heavier relative of its group.

    None where the molecule has no such atom in a bonding situation that both elements share: for
    sulfur, two neighbours at most (thiols, thioethers, thiophenes).
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    atoms = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == old]
    if not atoms or (old == 16 and any(atom.GetDegree() > 2 for atom in atoms)):
        return None
    for atom in atoms:
        atom.SetAtomicNum(new)
    try:
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    return Chem.MolToSmiles(mol)


def quiet_rdkit() -> None:
    """Stop RDKit from writing to stderr; what matters is counted instead."""
    RDLogger.DisableLog("rdApp.*")
