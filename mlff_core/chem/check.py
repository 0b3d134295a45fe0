"""Is this a molecule that the model knows? Elements, charge, closed shell."""

from collections.abc import Iterable
from typing import Final

from rdkit import Chem

from mlff_core.chem.atoms import atoms_of, bonds_of
from mlff_core.chem.graph import OTHER, Graph
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule, rejected
from mlff_core.chem.seen import seen_by
from mlff_core.chem.trust import trust_flags
from mlff_core.elements import SYMBOLS, symbols
from mlff_core.status import Flag, Reason

#: Bonds of queries (`~`), and those that only say that two atoms belong together.
_UNKNOWN_BONDS: Final = (Chem.BondType.UNSPECIFIED, Chem.BondType.ZERO, Chem.BondType.OTHER)
#: Halogens that have several bonds in under a hundred of two million training molecules.
_HALOGENS: Final = (17, 35, 53)
#: What a singlet carbene can be written as, which has no unpaired electrons.
_CARBENE: Final = "; a carbene beside nitrogen is [C-]=[N+], an isocyanide [C-]#[N+]"


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
    if OTHER in graph.orders:
        for bond in bonds_of(graph.mol):
            if bond.GetBondType() in _UNKNOWN_BONDS:
                raise rejected(
                    Reason.INVALID_SMILES,
                    f"the order of the bond {_name(bond.GetBeginAtom())}-"
                    f"{_name(bond.GetEndAtom())} is not said",
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
    atoms = atoms_of(graph.mol) if "[" in (molecule.smiles or "") else []
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in atoms)
    if unpaired:
        where = " ".join(_name(atom) for atom in atoms if atom.GetNumRadicalElectrons())
        raise rejected(
            Reason.RADICAL,
            f"{unpaired} unpaired electron{'s' if unpaired > 1 else ''} ({where}): if it is no "
            "radical, an atom in brackets lacks its hydrogens or its charge"
            + (_CARBENE if any(a.GetNumRadicalElectrons() == 2 for a in atoms) else ""),
        )
    n_electrons = sum(numbers) + (molecule.n_atoms or 0) - len(numbers) - charge
    if n_electrons % 2:  # RDKit sees no radical in F[P-](F)(F)(F)F
        raise rejected(
            Reason.RADICAL,
            f"{n_electrons} electrons, an odd number: an atom has a charge that its bonds do not "
            "go with, or lacks one",
        )
    seen = seen_by(settings.model_sha256)
    molecule.flags += trust_flags(graph.mol, molecule.smiles or "", seen, graph)
    if Flag.OUTSIDE_TRAINING not in molecule.flags and (several := _halogen_with_bonds(graph)):
        molecule.flags.append(Flag.OUTSIDE_TRAINING)
        notes.append(
            f"{several} is a halogen with several bonds, of which the models have hardly seen any: "
            "they may pull one apart"
        )
    names = {f"{a.GetIsotope()}{SYMBOLS[a.GetAtomicNum()]}" for a in atoms if a.GetIsotope()}
    if names:
        notes.append(f"isotopes {', '.join(sorted(names))} are computed as the plain elements")


def _halogen_with_bonds(graph: Graph) -> str | None:
    """The name of the first halogen with more than one neighbour, if there is one."""
    for k, (number, around) in enumerate(zip(graph.numbers, graph.neighbours, strict=True)):
        if number in _HALOGENS and len(around) > 1:
            return f"{SYMBOLS[number]}{k + 1}"
    return None


def _name(atom: Chem.Atom) -> str:
    return f"{atom.GetSymbol()}{atom.GetIdx() + 1}"


def _names(numbers: Iterable[int]) -> str:
    """Write symbols as `symbols` does, and say what `*` stands for."""
    return symbols(numbers).replace("*", "* (wildcard or attachment point)")
