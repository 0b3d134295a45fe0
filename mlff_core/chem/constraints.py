"""What distance geometry has to know about a molecule: bounds, volumes, flat and linear groups.

RDKit is the source of all of it; the terms are those of its ETKDGv3 (Riniker and Landrum,
J. Chem. Inf. Model. 2015, 55, 2562; Wang, Witek, Landrum and Riniker, J. Chem. Inf. Model. 2020,
60, 2044), so that another minimiser can embed a molecule as RDKit would.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.allenes import allene_rows
from mlff_core.chem.graph import DOUBLE, SINGLE, TRIPLE, Graph
from mlff_core.chem.hypervalent import HYPERVALENT, hypervalent_bounds
from mlff_core.chem.stages import Stages, at_once
from mlff_core.chem.stereo import axis, is_axis
from mlff_core.chem.torsions import etkdg_parameters, torsion_terms

#: Rings of more atoms are wide enough for a chain to go through.
_LARGEST_RING: Final = 8
#: Atomic numbers that RDKit keeps flat where they are sp2 and have three neighbours.
_FLAT: Final = {6, 7, 8}
#: Signed volume in Å³ of a stereocentre with four neighbours, and with three and itself.
_VOLUME: Final = {4: 5.0, 3: 2.0}
#: The same of an axis, a quarter turn away from flat by a third or more.
_AXIS_VOLUME: Final = 1.0
_LARGEST_VOLUME: Final = 100.0
#: Smallest volume of the unit vectors from a tetrahedral atom to three of its neighbours; the
#: second is for an atom of several rings of three or four, which cannot be very tetrahedral.
_TETRAHEDRAL: Final = 0.5
_TETRAHEDRAL_IN_CAGES: Final = 0.125
#: S and Se: with two neighbours they have two lone pairs and no more.
_CHALCOGENS: Final = (16, 34)
_PARAMETERS: Final = etkdg_parameters()  # with the 1-4 distances of macrocycles
_CHIRAL_TAGS: Final = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_CIS: Final = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS: Final = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


_NO_ROWS: Final = {width: np.empty((0, width), np.int16) for width in (2, 3, 4, 5, 8)}


class ContradictingBoundsError(ValueError):
    """No distances can satisfy the bounds: the triangle inequality cannot hold."""


@dataclass(frozen=True)
class EmbeddingConstraints:
    """All that an embedder needs of a molecule of n atoms; atoms are counted as in the molecule.

    Distances are in Å, volumes in Å³, the heights of torsion terms in RDKit's unit of energy
    (about kcal/mol). Lists without an entry have zero rows.

    Attributes:
        bounds: Upper bounds of the distances in the upper triangle, lower bounds in the lower
            triangle, zeros on the diagonal, after triangle smoothing if `smoothed`, float32 [n, n].
        bonds: Bonded pairs, int16 [n_bonds, 2]: the lower atom first.
        angles: int16 [n_angles, 3]: two ends of an angle around the atom in the middle column. The
            bounds of the ends are the 1-3 distance. In a ring of three they are also bonded.
        linear: The angles of 180 degrees (sp centres), int16 [n_linear, 3]; all are in `angles`.
        bent: int16 [n_bent, 3]: a neighbour, an atom of a double bond, and the other atom of the
            double bond, which must not be in one line: E and Z would have no meaning.
        chiral: Specified stereocentres, int16 [n_chiral, 5]: the centre, then a b c d whose signed
            volume (a-d) . ((b-d) x (c-d)) lies between the bounds. d is the fourth neighbour, or
            the centre itself where it has but three. Undefined centres are not listed. Of a
            specified axis a b c d are the atoms along it, of an allene those at its ends; d stands
            for the centre.
        chiral_volumes: Lower and upper bound of those volumes, float32 [n_chiral, 2].
        tetrahedral: C and N of four neighbours in several rings that carry no chirality and are to
            be checked for being tetrahedral, int16 [n_tetrahedral, 5]: the centre, then its
            neighbours. The centre must be inside them, with a volume on all sides.
        tetrahedral_volumes: Smallest absolute volume of the unit vectors from the centre to any
            three of the neighbours, float32 [n_tetrahedral].
        double_bonds: Specified double bonds, int16 [n_double_bonds, 5]: atoms i j k l with j=k the
            double bond, then +1 where i and l are on one side (cis), -1 where not.
        planar: sp2 atoms of C, N and O with three neighbours, int16 [n_planar, 4]: the centre, then
            the neighbours.
        planar_stiff: Which of them is a carbon bonded to an sp2 oxygen, which UFF holds flat with
            50 instead of 6 kcal/mol, bool [n_planar].
        torsions: int16 [n_torsions, 4]: the atoms of each torsion term. Its energy at the angle x
            is the sum over m = 1..6 of V_m (1 + s_m cos(m x)).
        torsion_heights: V of each term, float32 [n_torsions, 6]; it may be negative.
        torsion_signs: s of each term, +1 or -1, int8 [n_torsions, 6].
        rings: Atoms of the rings of 3 to 8 in order around the ring, int16 [n_rings, 8], filled up
            with -1: no atom and no bond may go through one of them.
        widest_ring: Atoms of the widest ring, 0 without any: macrocycles start otherwise.
        smoothed: Whether the bounds are smoothed: an embedder of many molecules does it for all of
            them at once.
    """

    bounds: NDArray[np.float32]
    bonds: NDArray[np.int16]
    angles: NDArray[np.int16]
    linear: NDArray[np.int16]
    bent: NDArray[np.int16]
    chiral: NDArray[np.int16]
    chiral_volumes: NDArray[np.float32]
    tetrahedral: NDArray[np.int16]
    tetrahedral_volumes: NDArray[np.float32]
    double_bonds: NDArray[np.int16]
    planar: NDArray[np.int16]
    planar_stiff: NDArray[np.bool_]
    torsions: NDArray[np.int16]
    torsion_heights: NDArray[np.float32]
    torsion_signs: NDArray[np.int8]
    rings: NDArray[np.int16]
    widest_ring: int = 0
    smoothed: bool = True

    @property
    def n_atoms(self) -> int:
        """Atoms of the molecule, hydrogens counted."""
        return len(self.bounds)

    def __reduce__(self) -> tuple[Callable, tuple]:
        """Travel between processes as one piece of bytes: a pickle of 16 arrays costs ten times."""
        arrays = [getattr(self, name) for name, _, _ in _LAYOUT]
        return _unpacked, (
            self.n_atoms,
            [len(a) for a in arrays],
            b"".join(a.tobytes() for a in arrays),
            self.widest_ring,
            self.smoothed,
        )


#: The arrays in the order in which their bytes follow each other: the widest numbers first, so that
#: all are aligned. Type, and numbers in a row (0: as many as atoms; None: it has no rows).
_LAYOUT: Final = (
    ("bounds", np.float32, 0),
    ("chiral_volumes", np.float32, 2),
    ("tetrahedral_volumes", np.float32, None),
    ("torsion_heights", np.float32, 6),
    ("bonds", np.int16, 2),
    ("angles", np.int16, 3),
    ("linear", np.int16, 3),
    ("bent", np.int16, 3),
    ("chiral", np.int16, 5),
    ("tetrahedral", np.int16, 5),
    ("double_bonds", np.int16, 5),
    ("planar", np.int16, 4),
    ("torsions", np.int16, 4),
    ("rings", np.int16, _LARGEST_RING),
    ("torsion_signs", np.int8, 6),
    ("planar_stiff", np.bool_, None),
)


def _unpacked(
    n_atoms: int, lengths: list[int], data: bytes, widest_ring: int, smoothed: bool
) -> EmbeddingConstraints:
    """Views of the bytes that `EmbeddingConstraints.__reduce__` packed; they cannot be written."""
    arrays = {}
    start = 0
    for (name, kind, width), length in zip(_LAYOUT, lengths, strict=True):
        shape = (length,) if width is None else (length, width or n_atoms)
        arrays[name] = np.ndarray(shape, kind, data, start)
        start += arrays[name].nbytes
    return EmbeddingConstraints(**arrays, widest_ring=widest_ring, smoothed=smoothed)


def embedding_constraints(mol: Chem.Mol, graph: Graph | None = None) -> EmbeddingConstraints:
    """The constraints of one molecule.

    Args:
        mol: One fragment with all hydrogens, its stereo assigned.
        graph: Its graph, if it is known.

    Raises:
        ContradictingBoundsError: The distance bounds contradict each other.
        ValueError: The molecule is not one fragment.
    """
    return at_once(constraining(mol, graph))


def constraining(
    mol: Chem.Mol, graph: Graph | None = None, *, smooth: bool = True
) -> Stages[EmbeddingConstraints]:
    """As `embedding_constraints`, in stages; whose bounds may be left to be smoothed."""
    n_fragments = len(Chem.GetMolFrags(mol))
    if n_fragments != 1:
        raise ValueError(f"expected one fragment, found {n_fragments}")
    graph = graph or Graph(mol)
    bounds = distance_bounds(graph) if smooth else rough_bounds(graph)
    yield
    torsions = torsion_terms(graph)
    yield
    angles, linear = _angles(graph)
    chiral, chiral_volumes, tetrahedral, tetrahedral_volumes = _centres(graph)
    planar, planar_stiff = _planar(graph)
    bent, double_bonds = _double_bonds(graph)
    rings = [ring for ring in graph.rings if len(ring) <= _LARGEST_RING]
    return EmbeddingConstraints(
        bounds=bounds,
        bonds=_rows(graph.pairs, 2),
        angles=np.frombuffer(angles, np.int16).reshape(-1, 3),
        linear=np.frombuffer(linear, np.int16).reshape(-1, 3),
        bent=_rows(bent, 3),
        chiral=_rows(chiral, 5),
        chiral_volumes=np.array(chiral_volumes, np.float32).reshape(-1, 2),
        tetrahedral=_rows(tetrahedral, 5),
        tetrahedral_volumes=np.array(tetrahedral_volumes, np.float32),
        double_bonds=_rows(double_bonds, 5),
        planar=_rows(planar, 4),
        planar_stiff=np.array(planar_stiff, bool),
        torsions=_rows([term.atoms for term in torsions], 4),
        torsion_heights=np.array([term.heights for term in torsions], np.float32).reshape(-1, 6),
        torsion_signs=np.array([term.signs for term in torsions], np.int8).reshape(-1, 6),
        rings=_rows([[*ring, *[-1] * (_LARGEST_RING - len(ring))] for ring in rings], 8),
        widest_ring=max(map(len, graph.rings), default=0),
        smoothed=smooth,
    )


def distance_bounds(graph: Graph) -> NDArray[np.float32]:
    """Smoothed bounds of the distances, [n_atoms, n_atoms]; see `EmbeddingConstraints.bounds`.

    As RDKit does it: should the triangle inequality not hold, the bounds from 1-5 paths are left
    out and those of atoms that do not touch are eased.

    Raises:
        ContradictingBoundsError: The triangle inequality does not hold then either.
    """
    ideal = hypervalent_bounds(graph.mol) if _may_be_hypervalent(graph) else None
    if ideal is not None:
        return ideal.astype(np.float32)
    above = _above(len(graph.numbers))
    for strict in (True, False):
        bounds = rdDistGeom.GetMoleculeBoundsMatrix(
            graph.mol, _PARAMETERS, set15bounds=strict, scaleVDW=not strict
        )
        gap = bounds.ravel()[above[0]] - bounds.ravel()[above[1]]
        # "not at least 0" rather than "below 0": NaN is neither.
        if not len(gap) or gap.min() >= 0.0:
            return bounds.astype(np.float32)
    raise ContradictingBoundsError("the distance bounds contradict each other")


def rough_bounds(graph: Graph) -> NDArray[np.float32]:
    """The bounds of the distances, [n_atoms, n_atoms], before they are smoothed."""
    ideal = hypervalent_bounds(graph.mol) if _may_be_hypervalent(graph) else None
    if ideal is None:
        ideal = rdDistGeom.GetMoleculeBoundsMatrix(
            graph.mol, _PARAMETERS, doTriangleSmoothing=False
        )
    return ideal.astype(np.float32)


@lru_cache(256)
def _above(n_atoms: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places above the diagonal of a flat matrix, and the places opposite to them."""
    i, j = np.triu_indices(n_atoms, 1)
    return i * n_atoms + j, j * n_atoms + i


def _may_be_hypervalent(graph: Graph) -> bool:
    """Whether it is worth to look for centres of more than four neighbours and lone pairs."""
    return any(
        number in HYPERVALENT and len(around) > (2 if number in _CHALCOGENS else 1)
        for number, around in zip(graph.numbers, graph.neighbours, strict=True)
    )


def _rows(rows: Sequence[Iterable[int]], width: int) -> NDArray[np.int16]:
    if not rows:  # most kinds of most molecules
        return _NO_ROWS[width]
    numbers = array("h", chain.from_iterable(rows))  # several times faster than a list of lists
    return np.ndarray((len(numbers) // width, width), np.int16, numbers)


def _angles(graph: Graph) -> tuple[array, array]:
    """All angles, and those of a triple bond or of two double bonds that share an atom.

    Three numbers each, one angle's behind the other's.
    """
    n_double = [0] * len(graph.numbers)
    straight: set[int] = set()
    for pair, kind in zip(graph.pairs, graph.orders, strict=True):
        if kind == TRIPLE:
            straight.update(pair)
        elif kind == DOUBLE:
            for atom in pair:
                n_double[atom] += 1
    angles, linear = array("h"), array("h")
    for centre, around in enumerate(graph.neighbours):
        if len(around) < 2:
            continue
        own: list[int] = []
        for first, last in combinations(sorted(around), 2):
            own += first, centre, last
        angles.extend(own)
        if centre in straight or n_double[centre] == len(around) == 2:
            linear.extend(own)
    return angles, linear


def _centres(
    graph: Graph,
) -> tuple[list[list[int]], list[list[float]], list[list[int]], list[float]]:
    """Specified stereocentres with volumes, and ring atoms to be checked, with volumes."""
    rings = graph.mol.GetRingInfo()
    chiral, chiral_volumes, tetrahedral, tetrahedral_volumes = [], [], [], []
    for centre, around in enumerate(graph.neighbours):
        if len(around) < 3:
            continue
        atom = graph.mol.GetAtomWithIdx(centre)
        tag = atom.GetChiralTag()
        if tag in _CHIRAL_TAGS:
            lowest = _VOLUME[len(around)]
            # In RDKit's order, which the tag refers to.
            ordered = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
            chiral.append([centre, *[*ordered, centre][:4]])
            if tag == Chem.ChiralType.CHI_TETRAHEDRAL_CCW:
                chiral_volumes.append([lowest, _LARGEST_VOLUME])
            else:
                chiral_volumes.append([-_LARGEST_VOLUME, -lowest])
        elif (
            len(around) == 4
            and graph.numbers[centre] in (6, 7)
            and rings.NumAtomRings(centre) > 1
            and not rings.IsAtomInRingOfSize(centre, 3)
        ):
            caged = sum(size < 5 for size in rings.AtomRingSizes(centre)) > 1
            tetrahedral.append([centre, *around])
            tetrahedral_volumes.append(_TETRAHEDRAL_IN_CAGES if caged else _TETRAHEDRAL)
    for (i, j), order in zip(graph.pairs, graph.orders, strict=True):
        if order == SINGLE and graph.sp2[i] and graph.sp2[j]:
            bond = graph.mol.GetBondBetweenAtoms(i, j)
            if is_axis(bond):
                a, b, c, d = axis(bond)
                chiral.append([d, a, b, c, d])
                chiral_volumes.append([_AXIS_VOLUME, _LARGEST_VOLUME])
    linear = [a for a, n in enumerate(graph.neighbours) if len(n) == 2 and graph.numbers[a] == 6]
    for a, b, c, d in allene_rows(graph.mol, linear):
        chiral.append([d, a, b, c, d])
        chiral_volumes.append([_VOLUME[4], _LARGEST_VOLUME])
    return chiral, chiral_volumes, tetrahedral, tetrahedral_volumes


def _planar(graph: Graph) -> tuple[list[list[int]], list[bool]]:
    numbers, sp2 = graph.numbers, graph.sp2
    planar, stiff = [], []
    for centre, around in enumerate(graph.neighbours):
        if sp2[centre] and len(around) == 3 and numbers[centre] in _FLAT:
            planar.append([centre, *around])
            stiff.append(numbers[centre] == 6 and any(numbers[a] == 8 and sp2[a] for a in around))
    return planar, stiff


def _double_bonds(graph: Graph) -> tuple[list[list[int]], list[list[int]]]:
    """What must not be linear around double bonds, and E or Z where it is specified."""
    bent, specified = [], []
    for pair, order in zip(graph.pairs, graph.orders, strict=True):
        if order != DOUBLE:
            continue
        bond = graph.mol.GetBondBetweenAtoms(*pair)
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for near, far in ((begin, end), (end, begin)):
            others = [atom for atom in graph.neighbours[near] if atom != far]
            if len(others) == 1:
                others = others if graph.order(near, others[0]) == SINGLE else []
            bent += [[other, near, far] for other in others]
        stereo = bond.GetStereo()
        if stereo in _CIS or stereo in _TRANS:
            first, last = bond.GetStereoAtoms()
            specified.append([first, begin, end, last, 1 if stereo in _CIS else -1])
    return bent, specified
