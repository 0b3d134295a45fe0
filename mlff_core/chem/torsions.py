"""Torsion angle preferences of a molecule: RDKit's own choice, found many times faster.

RDKit tries its 837 patterns on each molecule. Here each is tried only where it can match: what the
two atoms of a bond and their neighbours are decides which patterns come into question, and that is
remembered. The patterns are then matched by RDKit itself, in its order, so that the answer is the
one of `rdDistGeom.GetExperimentalTorsions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heappop, heappush
from importlib import resources
from typing import Final, NamedTuple

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.graph import Graph, Pair
from mlff_core.chem.smarts import Around, Kinds, fits, without_recursion

#: Environments of bonds that are remembered: a million molecules have fewer.
_REMEMBERED: Final = 100_000
#: Rings of this many atoms are macrocycles to RDKit's preferences.
_MACROCYCLE: Final = 9
#: A bond of more rings than this gets no preference.
_MOST_RINGS: Final = 3
#: Heights and signs of the torsions that keep rings of 4 to 6 sp2 atoms flat.
_FLAT_RING: Final = ((0.0, 100.0, 0.0, 0.0, 0.0, 0.0), (1, -1, 1, 1, 1, 1))

#: What is around the two ends of a bond.
_Neighbourhood = tuple[Around, Around]


class Torsion(NamedTuple):
    """One term: the sum over m = 1..6 of heights[m] (1 + signs[m] cos(m x)) at the angle x.

    Attributes:
        atoms: The four atoms of the angle.
        heights: In RDKit's unit of energy.
        signs: +1 or -1.
    """

    atoms: tuple[int, int, int, int]
    heights: tuple[float, ...]
    signs: tuple[int, ...]


class _Side(NamedTuple):
    """What a pattern asks for at one end of its bond, as bits of `Kinds`; recursion left out.

    Attributes:
        atom: The atom.
        neighbours: Bond and atom of each of its other neighbours.
    """

    atom: int
    neighbours: Around


@dataclass(frozen=True)
class _Pattern:
    """One line of RDKit's table.

    Attributes:
        query: The SMARTS.
        atoms: Where in it the four atoms of the torsion stand.
        bond: Bit of the bond in the middle.
        sides: Its two ends.
        heights, signs: See `Torsion`.
    """

    query: Chem.Mol
    atoms: tuple[int, int, int, int]
    bond: int
    sides: tuple[_Side, _Side]
    heights: tuple[float, ...]
    signs: tuple[int, ...]


class _Centre:
    """Patterns whose bond, ends and their order fit a kind of bond, by what is around it.

    Attributes:
        candidates: Patterns with the side that each end has.
        atoms, bonds: All bits that these ask for among the neighbours.
        by_neighbours: Patterns that may match, by the neighbours of both ends.
    """

    def __init__(self, candidates: Sequence[tuple[int, _Side, _Side]]) -> None:
        self.candidates = candidates
        self.atoms = self.bonds = 0
        for _, *sides in candidates:
            for side in sides:
                for bond, atom in side.neighbours:
                    self.bonds |= bond
                    self.atoms |= atom
        self.by_neighbours: dict[_Neighbourhood, tuple[int, ...]] = {}


def etkdg_parameters() -> rdDistGeom.EmbedParameters:
    """ETKDGv3 with its macrocycles, and with the torsions of small rings."""
    parameters = rdDistGeom.ETKDGv3()
    parameters.useSmallRingTorsions = True  # type: ignore[assignment]  # the stub errs
    return parameters


def torsion_terms(graph: Graph) -> list[Torsion]:
    """The torsion terms of ETKDGv3: preferences of bonds, then the torsions of flat rings."""
    return _preferences().terms(graph)


@cache
def _preferences() -> "_Preferences":
    return _Preferences()


class _Preferences:
    """RDKit's table, and what was learnt about which of its patterns can match which bonds."""

    def __init__(self) -> None:
        self._kinds = Kinds()
        text = resources.files(__package__).joinpath("torsion_preferences.txt").read_text()
        lines = [line.split() for line in text.splitlines() if line[0] != "#"]
        self._table = [self._pattern(*line) for line in lines]
        #: Patterns by the bits of their bond and its ends: many have the same.
        self._by_middle: dict[tuple[int, int, int], list[int]] = {}
        for index, pattern in enumerate(self._table):
            one, other = pattern.sides
            self._by_middle.setdefault((pattern.bond, one.atom, other.atom), []).append(index)
        self._centres: dict[tuple[int, int, int], _Centre] = {}
        self._n_remembered = 0

    def _pattern(self, smarts: str, *numbers: str) -> _Pattern:
        query = Chem.MolFromSmarts(smarts)
        places = {atom.GetAtomMapNum(): atom.GetIdx() for atom in query.GetAtoms()}
        first, left, right, last = (places[number] for number in (1, 2, 3, 4))
        kinds = self._kinds

        def bond(i: int, j: int) -> int:
            return kinds.bond_bit(query.GetBondBetweenAtoms(i, j).GetSmarts())  # type: ignore[call-arg]

        def atom(i: int) -> int:
            return kinds.atom_bit(without_recursion(query.GetAtomWithIdx(i).GetSmarts()))

        def side(i: int, other: int) -> _Side:
            around = [n.GetIdx() for n in query.GetAtomWithIdx(i).GetNeighbors()]
            return _Side(atom(i), tuple((bond(i, n), atom(n)) for n in around if n != other))

        return _Pattern(
            query,
            (first, left, right, last),
            bond(left, right),
            (side(left, right), side(right, left)),
            tuple(map(float, numbers[1::2])),
            tuple(map(int, numbers[0::2])),
        )

    def terms(self, graph: Graph) -> list[Torsion]:
        """See `torsion_terms`."""
        excluded = _excluded(graph)
        waiting = self._waiting(graph)
        found: list[Torsion] = []
        done: set[Pair] = set()
        # Bonds by the next pattern that they wait for.
        by_pattern: dict[int, list[Pair]] = {}
        for pair, candidates in waiting.items():
            by_pattern.setdefault(candidates[0], []).append(pair)
        order = [*by_pattern]
        heapify(order)
        # Patterns in the table's order, each but once, as long as a bond waits for it.
        while waiting:
            index = heappop(order)
            own = by_pattern.pop(index)
            if waiting.keys().isdisjoint(own):
                continue
            pattern = self._table[index]
            first, left, right, last = pattern.atoms
            for match in graph.mol.GetSubstructMatches(pattern.query, False):
                i, j = match[left], match[right]
                pair = (i, j) if i < j else (j, i)
                if waiting.pop(pair, None):
                    done.add(pair)
                    if pair not in excluded:
                        atoms = match[first], i, j, match[last]
                        found.append(Torsion(atoms, pattern.heights, pattern.signs))
            for pair in own:
                if pair not in waiting:
                    continue
                candidates = waiting[pair]
                later = candidates.index(index) + 1
                if later == len(candidates):
                    del waiting[pair]
                    continue
                after = candidates[later]
                if after not in by_pattern:
                    by_pattern[after] = []
                    heappush(order, after)
                by_pattern[after].append(pair)
        found.extend(_flat_rings(graph, done))
        return found

    def _waiting(self, graph: Graph) -> dict[Pair, tuple[int, ...]]:
        """Patterns that may match with a bond in the middle, in their order, for each bond."""
        waiting = {}
        neighbours, kinds, bond_kinds = graph.neighbours, graph.atom_kinds, graph.bond_kinds
        atom_bits, bond_bits = self._kinds.of_atoms(graph), self._kinds.of_bonds(graph)
        for pair in graph.pairs:
            i, j = pair
            if len(neighbours[i]) == 1 or len(neighbours[j]) == 1:
                continue
            if kinds[i] > kinds[j]:
                i, j = j, i
            key = kinds[i], bond_kinds[pair], kinds[j]
            centre = self._centres.get(key)
            if centre is None:
                centre = self._centre(atom_bits[i], bond_bits[pair], atom_bits[j])
                self._centres[key] = centre
            if not centre.candidates:
                continue
            around = []
            for near, far in ((i, j), (j, i)):
                bits = [
                    (
                        bond_bits[(near, atom) if near < atom else (atom, near)] & centre.bonds,
                        atom_bits[atom] & centre.atoms,
                    )
                    for atom in neighbours[near]
                    if atom != far
                ]
                bits.sort()
                around.append(tuple(bits))
            neighbourhood = around[0], around[1]
            candidates = centre.by_neighbours.get(neighbourhood)
            if candidates is None:
                candidates = self._learn(centre, neighbourhood)
            if candidates:
                waiting[pair] = candidates
        return waiting

    def _centre(self, left: int, bond: int, right: int) -> _Centre:
        """The patterns whose middle fits a bond, told by its bits and those of its ends."""
        candidates = []
        for (middle, one, other), patterns in self._by_middle.items():
            if not middle & bond:
                continue
            if one & left and other & right:
                candidates += [(k, *self._table[k].sides) for k in patterns]
            if one & right and other & left:
                candidates += [(k, *self._table[k].sides[::-1]) for k in patterns]
        return _Centre(candidates)

    def _learn(self, centre: _Centre, neighbourhood: _Neighbourhood) -> tuple[int, ...]:
        left, right = neighbourhood
        found = {
            index
            for index, first, last in centre.candidates
            if fits(first.neighbours, left) and fits(last.neighbours, right)
        }
        if self._n_remembered >= _REMEMBERED:
            self._centres.clear()
            self._n_remembered = 0
        self._n_remembered += 1
        centre.by_neighbours[neighbourhood] = tuple(sorted(found))
        return centre.by_neighbours[neighbourhood]


def _excluded(graph: Graph) -> set[Pair]:
    """Bonds without a preference: of bridged rings that are no macrocycles, or of many rings."""
    rings = graph.bond_rings
    excluded: set[Pair] = set()
    for i, ring in enumerate(rings):
        for other in rings[i + 1 :]:
            if len(ring & other) > 1 and min(len(ring), len(other)) < _MACROCYCLE:
                excluded.update(*(r for r in (ring, other) if len(r) < _MACROCYCLE))
    if len(rings) > _MOST_RINGS:
        for pair in graph.pairs:
            if sum(pair in ring for ring in rings) > _MOST_RINGS:
                excluded.add(pair)
    return excluded


def _flat_rings(graph: Graph, done: set[Pair]) -> list[Torsion]:
    """A flat torsion for each bond without a preference in a ring of 4 to 6 with sp2 around it."""
    terms = []
    for ring in graph.rings:
        if not 4 <= len(ring) <= 6:
            continue
        # Four atoms in a row, again and again around the ring.
        ends = [*ring, *ring[:3]]
        sp2 = [graph.sp2[atom] for atom in ends]
        if not any(sp2):
            continue
        for k, (a, b, c, d) in enumerate(zip(ring, ends[1:], ends[2:], ends[3:], strict=False)):
            pair = (b, c) if b < c else (c, b)
            if pair not in done and all(sp2[k : k + 4]):
                done.add(pair)
                terms.append(Torsion((a, b, c, d), *_FLAT_RING))
    return terms
