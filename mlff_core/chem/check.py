"""Is this a molecule that the model knows? Elements, charge, closed shell."""

from collections.abc import Iterable
from typing import Final

from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule, rejected
from mlff_core.elements import SYMBOLS, symbols
from mlff_core.status import Flag, Reason

#: The training sets hold molecules of so many heavy atoms and more.
_FEWEST_HEAVY_ATOMS: Final = 3


def check_domain(
    molecule: PreparedMolecule, graph: Graph, settings: ChemistrySettings, notes: list[str]
) -> None:
    """Reject what the model does not know. Isotopes pass: they share the plain element's energy."""
    numbers = graph.numbers
    elements = {*numbers, 1} if molecule.n_atoms != len(numbers) else {*numbers}
    unknown = sorted(elements.difference(settings.elements))
    if unknown:
        raise rejected(
            Reason.UNSUPPORTED_ELEMENT,
            f"the model does not know {_names(unknown)}, it knows {symbols(settings.elements)}",
        )
    charge = molecule.charge or 0
    if not settings.min_charge <= charge <= settings.max_charge:
        raise rejected(
            Reason.UNSUPPORTED_CHARGE,
            f"total charge {charge:+d}, the model knows {settings.min_charge:+d} "
            f"to {settings.max_charge:+d}",
        )
    if molecule.n_heavy_atoms == 0 and charge == molecule.n_atoms:
        raise rejected(Reason.UNSUPPORTED_CHARGE, "there is no electron in it")
    # A SMILES without brackets holds neither radicals nor isotopes: looking at them costs time.
    atoms = list(graph.mol.GetAtoms()) if "[" in (molecule.smiles or "") else []
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in atoms)
    if unpaired:
        where = " ".join(
            f"{atom.GetSymbol()}{atom.GetIdx() + 1}"
            for atom in atoms
            if atom.GetNumRadicalElectrons()
        )
        raise rejected(
            Reason.RADICAL,
            f"{unpaired} unpaired electron{'s' if unpaired > 1 else ''} ({where}): if it is no "
            "radical, an atom in brackets lacks its hydrogens or its charge",
        )
    if (molecule.n_heavy_atoms or 0) < _FEWEST_HEAVY_ATOMS:
        molecule.flags.append(Flag.OUTSIDE_TRAINING)
    names = {f"{a.GetIsotope()}{SYMBOLS[a.GetAtomicNum()]}" for a in atoms if a.GetIsotope()}
    if names:
        notes.append(f"isotopes {', '.join(sorted(names))} are computed as the plain elements")


def _names(numbers: Iterable[int]) -> str:
    """Write symbols as `symbols` does, and say what `*` stands for."""
    return symbols(numbers).replace("*", "* (wildcard or attachment point)")
