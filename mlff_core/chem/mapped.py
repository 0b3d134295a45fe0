"""The way back: a SMILES with atom map numbers and coordinates -> a molecule with bonds."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.stereo import centres, double_bonds
from mlff_core.chem.topology import Topology, rearranged


def molecule_of(
    mapped_smiles: str,
    atomic_numbers: NDArray[np.integer],
    conformers: Mapping[int, NDArray[np.floating]],
) -> Chem.Mol:
    """An RDKit molecule with all its hydrogens, bonds, charges, stereo and conformers.

    Args:
        mapped_smiles: SMILES or CXSMILES with all hydrogens written and atom map numbers 1..n.
        atomic_numbers: [n_atoms], in the order of the map numbers.
        conformers: Å [n_atoms, 3] by the conformer's id.

    Raises:
        ValueError: The SMILES cannot be read, or its atoms are not those of the geometry.
    """
    mol = _parsed(mapped_smiles)
    maps = [atom.GetAtomMapNum() for atom in atoms_of(mol)]
    if sorted(maps) != list(range(1, len(atomic_numbers) + 1)):
        raise ValueError(
            f"{mapped_smiles}: expected atom map numbers 1 to {len(atomic_numbers)}, each once"
        )
    mol = Chem.RenumberAtoms(mol, np.argsort(maps).tolist())
    for atom in atoms_of(mol):
        atom.SetAtomMapNum(0)
    return _with_conformers(mol, atomic_numbers, conformers, mapped_smiles)


def set_charges(
    conformer: Chem.Conformer, charges_e: Sequence[float] | NDArray[np.floating]
) -> None:
    """Set the property `charges_e` of a conformer, as SD files have it.

    Args:
        conformer: Of a molecule.
        charges_e: Partial charges in e, [n_atoms] in the order of its atoms; without any nothing is
            set.
    """
    if len(charges_e):
        conformer.SetProp("charges_e", " ".join(f"{q:.6f}" for q in charges_e))


def molecule_in_canonical_order(
    smiles: str,
    atomic_numbers: NDArray[np.integer],
    conformers: Mapping[int, NDArray[np.floating]],
) -> Chem.Mol:
    """The same from a SMILES without map numbers, for tables that have no others.

    Their atoms stand in the order of the SMILES, or where stereo was chosen, in that of the SMILES
    without it; the hydrogens follow. Which it is, is seen from the geometry.

    Raises:
        ValueError: It is neither.
    """
    # An imine's hydrogen stands in a SMILES that says where it is, and in no other.
    bare = Chem.RemoveAllHs(Chem.MolFromSmiles(smiles))
    plain = Chem.MolToSmiles(bare, isomericSmiles=False)
    for order in (smiles, plain):
        mol = Chem.AddHs(Chem.MolFromSmiles(order))
        try:
            mol = _with_conformers(mol, atomic_numbers, conformers, smiles)
        except ValueError:
            continue
        if order == plain:
            first = mol.GetConformer(next(iter(conformers))).GetId()
            Chem.AssignStereochemistryFrom3D(mol, first, replaceExistingTags=True)
        topology = Topology(
            np.asarray(atomic_numbers),
            np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))),
            centres(mol),
            double_bonds(mol),
        )
        stayed = all(rearranged(x, *topology) is None for x in conformers.values())
        if stayed and Chem.MolToSmiles(Chem.RemoveHs(mol)) == smiles:
            return mol
    raise ValueError(
        f"{smiles}: in which order its atoms stand cannot be told, and tables of this schema "
        "version do not say it; screen the molecule again"
    )


def _parsed(smiles: str) -> Chem.Mol:
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False  # type: ignore[assignment]  # the stub errs
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, parameters)
    if mol is None:
        raise ValueError(f"{smiles}: is not a SMILES")
    return mol


def _with_conformers(
    mol: Chem.Mol,
    atomic_numbers: NDArray[np.integer],
    conformers: Mapping[int, NDArray[np.floating]],
    smiles: str,
) -> Chem.Mol:
    found = [atom.GetAtomicNum() for atom in atoms_of(mol)]
    if found != list(atomic_numbers):
        raise ValueError(f"{smiles}: its atoms are not those of the geometry")
    for index, positions in conformers.items():
        conformer = Chem.Conformer(len(found))
        conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
        conformer.SetId(int(index))
        mol.AddConformer(conformer)
    return mol
