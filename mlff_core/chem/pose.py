"""A given geometry -> checked molecule with it for a start, or the reason why it cannot be used.

What is checked of a molecule is checked as in `prepare`. Its atoms then stand in the order of its
canonical SMILES, as those of embedded molecules do, and hydrogens that the entry lacks are placed.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import (
    ChemistrySettings,
    NotOkError,
    PreparedMolecule,
    rejected,
)
from mlff_core.chem.parse import first_sentence
from mlff_core.chem.prepare import checked, noting, store_topology
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.status import Flag, MoleculeStatus, Reason

#: Coordinates that differ by less are the same, in Å.
_ON_IT: Final = 1e-3
#: Neighbours of an atom that cannot lie in a plane with it, however bent it is.
_TETRAHEDRAL: Final = 4
#: In a ring of at least so many atoms a tetrahedral one puts others out of the plane.
_PUCKERED_RING: Final = 4
#: Where the second line of a mol block says how many dimensions its coordinates have.
_DIMENSIONS: Final = slice(20, 22)
#: Ways to lay a molecule over itself that are tried where RDKit sees stereo otherwise than we do.
_MOST_MATCHES: Final = 1000
_NUMBERS: Final = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
_ROW: Final = "row"


def pose(
    record: int,
    input_id: str | None,
    smiles: str,
    given: str | None,
    settings: ChemistrySettings,
) -> PreparedMolecule:
    """Check one entry with its geometry; never raises on chemistry.

    Args:
        record: Position in the library, handed through.
        input_id: Identifier in the library, handed through.
        smiles: Of its mol block.
        given: Its mol block, and what it says of frozen atoms behind `M  END`; None for a SMILES.
        settings: What is accepted, and which atoms may move.
    """
    molecule = PreparedMolecule(record, input_id, smiles)
    with noting(molecule) as notes:
        graph = checked(molecule, settings, notes)
        molecule.inchikey = Chem.MolToInchiKey(graph.mol) or None
        if given is None:
            raise rejected(Reason.NOT_3D, "there is no geometry")
        block, _, frozen = given.partition("M  END\n")
        entry = solid(block + "M  END\n")
        n_given = entry.GetNumAtoms()
        whole = Chem.AddHs(entry, addCoords=True)
        hydrogenated = Chem.AddHs(graph.mol)
        store_topology(molecule, graph.with_hydrogens(hydrogenated))
        order, positions = _laid_over(molecule, graph, whole)
        molecule.positions = positions[None].astype(np.float32)
        n_added = int((order >= n_given).sum())
        if n_added:
            notes.append(f"{n_added} of {len(order)} atoms, hydrogens, were missing: placed")
            molecule.flags.append(Flag.HYDROGENS_ADDED)
        if settings.from_3d == "hydrogens":
            molecule.frozen = np.flatnonzero(molecule.numbers != 1).astype(np.int16)
        elif settings.from_3d == "frozen":
            named = frozen_atoms(frozen, n_given)
            if not named:
                notes.append("no frozen atoms are named: all of them may move")
            molecule.frozen = np.flatnonzero(np.isin(order, sorted(named))).astype(np.int16)
    return molecule


def solid(block: str) -> Chem.Mol:
    """The molecule of a mol block with its geometry, hydrogens as they stand there.

    Raises:
        NotOkError: It has no geometry in three dimensions, or bonds that cannot be.
    """
    with rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromMolBlock(block, removeHs=False)
    if mol is None:  # with its hydrogens; RDKit counts bonds without them where it drops them
        raise rejected(
            Reason.INVALID_SMILES,
            f"{first_sentence(log.messages)}: an atom of the entry, counted from 0, has too many "
            "bonds or lacks its charge",
        )
    conformer = mol.GetConformer()
    x = conformer.GetPositions()
    if not np.isfinite(x).all():
        raise rejected(Reason.NOT_3D, "a coordinate is no number")
    spread = np.ptp(x, axis=0)
    if len(x) > 1 and spread.max() < _ON_IT:
        raise rejected(Reason.NOT_3D, "the entry has no coordinates: all atoms are in one place")
    label = [*block.split("\n", 2), "", ""][1][_DIMENSIONS].upper()
    if len(x) > 1 and spread[2] < _ON_IT and (label != "3D" or not _may_be_flat(mol)):
        raise rejected(
            Reason.NOT_3D,
            "the entry is flat, a drawing: without --from-3d, run embeds it",
        )
    conformer.Set3D(True)  # hydrogens are placed as in space, whatever a header says
    return mol


def frozen_atoms(text: str, n_atoms: int) -> set[int]:
    """Atoms that a text names, counted from 0; there they are counted from 1, as in a mol block.

    Args:
        text: Numbers and ranges such as `3-7`, with blanks, commas or line ends between.
        n_atoms: Of the mol block.

    Raises:
        NotOkError: It says something else, or names an atom that is not there.
    """
    rest = _NUMBERS.sub("", text).replace(",", " ").strip()
    if rest:
        raise rejected(
            Reason.INVALID_FROZEN_ATOMS, f"frozen atoms are numbers such as 1 4 7-9, not {rest!a}"
        )
    found: set[int] = set()
    for first, last in _NUMBERS.findall(text):
        ends = int(first), int(last or first)
        if not 1 <= ends[0] <= ends[1] <= n_atoms:
            raise rejected(
                Reason.INVALID_FROZEN_ATOMS,
                f"atoms {'-'.join(filter(None, (first, last)))} are to be frozen, the entry has "
                f"{n_atoms}",
            )
        found.update(range(ends[0] - 1, ends[1]))
    return found


def _may_be_flat(mol: Chem.Mol) -> bool:
    """Whether the atoms of a molecule can lie in a plane: benzene's do, those of ethane do not."""
    rings = mol.GetRingInfo()
    for atom in mol.GetAtoms():
        if atom.GetTotalDegree() < _TETRAHEDRAL:
            continue
        sizes = rings.AtomRingSizes(atom.GetIdx())
        if atom.GetDegree() >= _TETRAHEDRAL - 1 or max(sizes, default=0) >= _PUCKERED_RING:
            return False
    return True


def _laid_over(
    molecule: PreparedMolecule, graph: Graph, whole: Chem.Mol
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which atom of an entry each atom of its molecule is [n_atoms], and where, Å [n_atoms, 3].

    Args:
        molecule: With its topology.
        graph: Of the molecule without hydrogens.
        whole: The entry with all its hydrogens.

    Raises:
        NotOkError: The entry is not that molecule.
    """
    x = whole.GetConformer().GetPositions()
    topology = Topology(molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    first = None
    for order in _orders(graph.mol, whole):
        first = order if first is None else first
        if rearrangements([x[order]], [topology]) == [None]:
            return order, x[order]
    if first is None:
        raise NotOkError(
            MoleculeStatus.FAILED,
            Reason.INTERNAL_ERROR,
            "the atoms of the entry could not be matched to those of its SMILES",
        )
    return first, x[first]


def _orders(mol: Chem.Mol, whole: Chem.Mol) -> Iterator[NDArray[np.int64]]:
    """Orders in which the atoms of an entry are those of `Chem.AddHs(mol)`, likely ones first."""
    for atom in whole.GetAtoms():
        atom.SetIntProp(_ROW, atom.GetIdx())
    bare = Chem.RemoveHs(whole)
    for fragment in Chem.GetMolFrags(bare, asMols=True):
        if fragment.GetNumAtoms() != mol.GetNumAtoms():
            continue
        for chirality, most in ((True, 1), (False, _MOST_MATCHES)):
            for match in fragment.GetSubstructMatches(
                mol, uniquify=False, useChirality=chirality, maxMatches=most
            ):
                rows = [fragment.GetAtomWithIdx(k).GetIntProp(_ROW) for k in match]
                order = _with_hydrogens(mol, whole, rows)
                if order is not None:
                    yield np.array(order)


def _with_hydrogens(mol: Chem.Mol, whole: Chem.Mol, rows: list[int]) -> list[int] | None:
    """The order with each atom's hydrogens behind; None if it has another number of them."""
    kept = set(rows)
    behind: list[int] = []
    for atom, row in zip(mol.GetAtoms(), rows, strict=True):
        found = [
            neighbour.GetIdx()
            for neighbour in whole.GetAtomWithIdx(row).GetNeighbors()
            if neighbour.GetAtomicNum() == 1 and neighbour.GetIdx() not in kept
        ]
        if len(found) != atom.GetTotalNumHs():
            return None
        behind += found
    return rows + behind
