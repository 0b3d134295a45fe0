"""Which part of a salt or a mixture is computed."""

from collections import Counter

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize


def largest_fragment(mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
    """The largest organic fragment; what was left out is added to `notes`."""
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) == 1:
        return mol
    kept = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)
    left_out = Counter(
        Chem.MolToSmiles(fragment) for fragment in Chem.GetMolFrags(mol, asMols=True)
    )
    left_out.subtract([Chem.MolToSmiles(kept)])
    names = [f"{count} x {name}" if count > 1 else name for name, count in (+left_out).items()]
    text = ", ".join(names)
    notes.append(
        f"kept the largest organic fragment of {len(fragments)}, left out "
        + (text if len(text) <= 200 else f"{text[:200]}...")
    )
    return kept
