"""Stereo of a molecule: what is defined, choosing what is not, and the arrays it is judged by."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from mlff_core.chem.allenes import allene_rows
from mlff_core.chem.atoms import atoms_of, bonds_of
from mlff_core.chem.changing import (
    DOUBLE_BOND,
    STEREO_TYPES,
    TETRAHEDRAL,
    Undefined,
    undefined_stereo,
)
from mlff_core.chem.graph import DOUBLE, Graph

_CHIRAL_TAGS: Final = {Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW}
_TETRAHEDRAL_OR_NONE: Final = {*_CHIRAL_TAGS, Chem.ChiralType.CHI_UNSPECIFIED}
#: +1 where a double bond's stereo atoms are on one side, -1 where not.
_SIDES: Final = {
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOCIS: 1,
    Chem.BondStereo.STEREOE: -1,
    Chem.BondStereo.STEREOTRANS: -1,
}
#: Atoms of three neighbours that are flat: B, C.
_NO_PYRAMIDS: Final = (5, 6)
#: Smallest ring in which a double bond can be E or Z.
_SMALLEST_E: Final = 8
#: An atropisomer's tag -> the sign of the volume that its four atoms span, in the order of a row.
_TURNS: Final = {Chem.BondStereo.STEREOATROPCW: -1, Chem.BondStereo.STEREOATROPCCW: 1}
#: Three-coordinate centres that do not invert, and that RDKit does not read from coordinates.
_PYRAMIDAL: Final = frozenset([15, 33])


def assign_undefined(mol: Chem.Mol) -> str:
    """Assign stereo that is undefined from the geometry of `mol`; says in words what that was."""
    undefined, changing = undefined_stereo(mol)
    if not undefined:
        return ""
    # What is given stays: read anew, it would be lost at P(III), As and nitrogen in rings of three.
    atoms = atoms_of(mol)
    given = [atom.GetChiralTag() for atom in atoms]
    bonds = bonds_of(mol)
    sides = [bond.GetStereo() for bond in bonds]
    Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=False)
    # It marks the order around every seesaw and bipyramid as well, which nobody left open.
    for k, (atom, tag) in enumerate(zip(atoms, given, strict=True)):
        if atom.GetChiralTag() not in _TETRAHEDRAL_OR_NONE or (TETRAHEDRAL, k) in changing:
            atom.SetChiralTag(tag)
    for k, (bond, side) in enumerate(zip(bonds, sides, strict=True)):
        if side not in _SIDES and bond.GetStereo() in _SIDES and (DOUBLE_BOND, k) in changing:
            forget_side(bond)
    _assign_pyramids(mol, undefined)
    Chem.AssignStereochemistry(
        mol, cleanIt=True, force=True
    )  # every tetrahedral atom has a tag now
    # Not all that looks like stereo is: an allene's double bonds, for one, have no E and Z.
    chosen = Counter(kind for kind, _ in undefined & _defined_stereo(mol))
    return words_of_choice(
        chosen[Chem.StereoType.Atom_Tetrahedral], chosen[Chem.StereoType.Bond_Double]
    )


def words_of_choice(n_centres: int, n_double_bonds: int) -> str:
    """What was chosen, in words; empty if nothing was."""
    words = [
        f"{n} {name}{'s' if n > 1 else ''}"
        for name, n in (("stereocentre", n_centres), ("double bond", n_double_bonds))
        if n
    ]
    return " and ".join(words)


def open_stereo(graph: Graph) -> Undefined | None:
    """What of the stereo is undefined; None if nothing can be chosen.

    Args:
        graph: Of the molecule with all its hydrogens, its stereo assigned.
    """
    undefined = undefined_stereo(graph.mol) if may_lack_stereo(graph) else None
    return undefined if undefined is not None and undefined.open else None


def may_lack_stereo(graph: Graph) -> bool:
    """Whether stereo may be undefined: False is certain, True is a reason to look closer.

    Args:
        graph: Of the molecule with all its hydrogens, its stereo assigned.
    """
    return any(
        len(around) > 2
        and _may_be_centre(graph, centre)
        and graph.mol.GetAtomWithIdx(centre).GetChiralTag() not in _CHIRAL_TAGS
        for centre, around in enumerate(graph.neighbours)
    ) or any(
        order == DOUBLE
        and _may_have_sides(graph, *pair)
        and graph.mol.GetBondBetweenAtoms(*pair).GetStereo() not in _SIDES
        for pair, order in zip(graph.pairs, graph.orders, strict=True)
    )


def _may_be_centre(graph: Graph, centre: int) -> bool:
    around = graph.neighbours[centre]
    if len(around) == 3 and graph.numbers[centre] == 7:  # held by its rings, or it would invert
        rings = [ring for ring in graph.rings if centre in ring]
        return len(rings) > 1 or any(len(ring) == 3 for ring in rings)
    if len(around) < 4 and (graph.numbers[centre] in _NO_PYRAMIDS or len(around) < 3):
        return False
    if sum(graph.numbers[atom] == 1 for atom in around) > 1 and not graph.has_isotopes():
        return False
    return _all_different(graph, centre, around)


def _may_have_sides(graph: Graph, i: int, j: int) -> bool:
    if any(i in ring and j in ring and len(ring) < _SMALLEST_E for ring in graph.rings):
        return False
    return all(
        len(graph.neighbours[near]) > 1
        and _all_different(graph, near, [n for n in graph.neighbours[near] if n != far])
        for near, far in ((i, j), (j, i))
    )


def _all_different(graph: Graph, centre: int, around: list[int]) -> bool:
    """False if two substituents are surely the same: the same atom with nothing but hydrogens."""
    seen = set()
    for atom in around:
        others = [n for n in graph.neighbours[atom] if n != centre]
        if all(graph.numbers[n] == 1 for n in others):
            isotopes: tuple[int, ...] = ()
            if graph.has_isotopes():
                isotopes = tuple(graph.mol.GetAtomWithIdx(n).GetIsotope() for n in (atom, *others))
            kind = (
                graph.numbers[atom],
                isotopes,
                graph.bond_kinds[min(atom, centre), max(atom, centre)],
            )
            if kind in seen:
                return False
            seen.add(kind)
    return True


def _assign_pyramids(mol: Chem.Mol, undefined: set[tuple[Chem.StereoType, int]]) -> None:
    """Assign undefined P(III) and As(III) from the geometry."""
    for kind, index in undefined:
        atom = mol.GetAtomWithIdx(index) if kind == Chem.StereoType.Atom_Tetrahedral else None
        if atom is None or atom.GetAtomicNum() not in _PYRAMIDAL or atom.GetDegree() != 3:
            continue
        atom.SetChiralTag(Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
        if not has_given_stereo(mol.GetConformer().GetPositions()[None], [_centre(atom)], [])[0]:
            atom.SetChiralTag(Chem.ChiralType.CHI_TETRAHEDRAL_CW)


def has_given_stereo(
    positions: NDArray[np.floating],
    chirality: Sequence[Sequence[int]] | NDArray[np.integer],
    double_bonds: Sequence[Sequence[int]] | NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Which geometries have the stereo of these rows, bool [n_geometries].

    Args:
        positions: Å, [n_geometries, n_atoms, 3].
        chirality: [n_centres, 4], as `PreparedMolecule.chirality` has it.
        double_bonds: [n_double_bonds, 5], as `PreparedMolecule.double_bonds` has it.
    """
    x = np.asarray(positions, np.float64)
    kept = np.ones(len(x), bool)
    if len(chirality):
        a, b, c, d = np.moveaxis(x[:, np.asarray(chirality)], 2, 0)  # each [geometries, rows, 3]
        volumes = np.einsum("gri,gri->gr", a - d, np.cross(b - d, c - d))
        kept &= (volumes > 0).all(1)
    if len(double_bonds):
        rows = np.asarray(double_bonds)
        i, j, k, last = np.moveaxis(x[:, rows[:, :4]], 2, 0)
        axis = k - j
        sides = np.einsum("gri,gri->gr", np.cross(i - j, axis), np.cross(last - k, axis))
        kept &= (sides * rows[:, 4] > 0).all(1)
    return kept


def forget_side(bond: Chem.Bond) -> None:
    """Leave the stereo of a double bond open."""
    bond.SetStereo(Chem.BondStereo.STEREONONE)
    for end in (bond.GetBeginAtom(), bond.GetEndAtom()):
        for beside in end.GetBonds():
            beside.SetBondDir(Chem.BondDir.NONE)


def _defined_stereo(mol: Chem.Mol) -> set[tuple[Chem.StereoType, int]]:
    """Kind and atom or bond of each centre and double bond whose stereo is defined."""
    return {
        (info.type, info.centeredOn)
        for info in Chem.FindPotentialStereo(mol)
        if info.type in STEREO_TYPES and info.specified == Chem.StereoSpecified.Specified
    }


def centres(mol: Chem.Mol, *, axes: bool = True, allenes: bool = True) -> NDArray[np.int16]:
    """Specified centres, axes and allenes, as `PreparedMolecule.chirality` holds them.

    Args:
        mol: With all hydrogens.
        axes: Whether there may be any axis.
        allenes: Whether there may be any allene.
    """
    rows = [_centre(atom) for atom in atoms_of(mol) if atom.GetChiralTag() in _CHIRAL_TAGS]
    if axes:
        rows += [axis(bond) for bond in bonds_of(mol) if is_axis(bond)]
    if allenes:
        rows += allene_rows(mol)
    return np.array(rows, np.int16).reshape(-1, 4)


def double_bonds(mol: Chem.Mol) -> NDArray[np.int16]:
    """Specified double bonds, as `PreparedMolecule.double_bonds` holds them."""
    rows = [_double_bond(bond) for bond in bonds_of(mol) if bond.GetStereo() in _SIDES]
    return np.array(rows, np.int16).reshape(-1, 5)


def _centre(atom: Chem.Atom) -> list[int]:
    """Atoms a b c d around a stereocentre with a positive determinant of (a-d, b-d, c-d)."""
    around = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
    around = [*around, atom.GetIdx()][:4]
    if atom.GetChiralTag() == Chem.ChiralType.CHI_TETRAHEDRAL_CW:
        around[:2] = around[1::-1]
    return around


def is_atropisomer(mol: Chem.Mol) -> bool:
    """Whether any bond has specified axial stereo."""
    return any(is_axis(bond) for bond in bonds_of(mol))


def is_axis(bond: Chem.Bond) -> bool:
    """Whether a bond has specified axial stereo."""
    return bond.GetStereo() in _TURNS


def axis(bond: Chem.Bond) -> list[int]:
    """Atoms a b c d along a hindered bond b-c with a positive determinant of (a-d, b-d, c-d)."""
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    # RDKit's tag refers to the neighbour of the lowest index at each end.
    first, last = (
        min(n.GetIdx() for n in end.GetNeighbors() if n.GetIdx() != other.GetIdx())
        for end, other in (ends, ends[::-1])
    )
    if _TURNS[bond.GetStereo()] < 0:
        first, last = last, first
    return [first, ends[0].GetIdx(), ends[1].GetIdx(), last]


def _double_bond(bond: Chem.Bond) -> list[int]:
    first, last = bond.GetStereoAtoms()
    side = _SIDES[bond.GetStereo()]
    return [first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last, side]
