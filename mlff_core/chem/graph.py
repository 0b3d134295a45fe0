"""The graph of a molecule in plain Python: read from RDKit once, looked at many times."""

from collections.abc import Callable
from operator import add
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from rdkit import Chem

from mlff_core.chem.atoms import atoms_of

Pair = tuple[int, int]

#: sp2 atoms, and bonds whose order in an adjacency matrix does not tell what they are.
_SP2: Final = Chem.MolFromSmarts("[^2]")
_DATIVE: Final = Chem.MolFromSmarts("*->*")
#: Orders of bonds in `Graph.orders`; a dative bond gets one of its own.
SINGLE: Final = 1.0
AROMATIC: Final = 1.5
DOUBLE: Final = 2.0
TRIPLE: Final = 3.0
OTHER: Final = 0.5


class AtomKind(NamedTuple):
    """What a SMARTS can see of an atom; recursion, valence, isotope, sp and sp3 left out.

    Attributes:
        degree: Neighbours in the graph.
        n_bonded: Neighbours, those hydrogens included that are not in the graph.
        n_hydrogens: Hydrogens among these.
        n_rings: Rings that the atom is in.
        smallest_ring: Atoms of the smallest, 0 if there is none.
        n_ring_bonds: Its bonds that are in a ring.
    """

    number: int
    charge: int
    degree: int
    n_bonded: int
    n_hydrogens: int
    aromatic: bool
    sp2: bool
    n_rings: int
    smallest_ring: int
    n_ring_bonds: int


class BondKind(NamedTuple):
    """What a SMARTS can see of a bond; stereo left out."""

    order: float
    in_ring: bool


Kind = TypeVar("Kind", bound=tuple)


class _Table(Generic[Kind]):
    """Numbers of the kinds that a process has met; there are some hundreds."""

    def __init__(self, make: Callable[..., Kind]) -> None:
        self._make = make
        self._numbers: dict[tuple, int] = {}
        self.kinds: list[Kind] = []

    def number(self, *kind: float) -> int:
        known = self._numbers.get(kind)
        if known is None:
            known = self._numbers[kind] = len(self.kinds)
            self.kinds.append(self._make(*kind))
        return known


_ATOM_KINDS: Final = _Table(AtomKind)
_BOND_KINDS: Final = _Table(BondKind)
#: Number of the kind of a single bond in a chain.
SINGLE_IN_CHAIN: Final = _BOND_KINDS.number(SINGLE, False)
#: Any atom of an isotope.
_ISOTOPE: Final = Chem.MolFromSmarts("[!0*]")
#: Number of an atom's kind once its hydrogens are atoms, by its number before.
_HYDROGENATED: Final[dict[int, int]] = {}


class Graph:
    """Atoms, neighbours, bonds and rings of a molecule.

    Attributes:
        mol: The molecule.
        numbers: Atomic number of each atom.
        sp2: Whether an atom is sp2, for each.
        neighbours: Bonded atoms of each atom.
        pairs: Bonded pairs, the lower atom first.
        orders: Order of each bond.
        rings: Atoms of each ring, in order around it.
        bond_rings: Pairs of each ring.
        atom_kinds: Number of the kind of each atom, see `atoms`.
        bond_kinds: Number of the kind of each pair.
    """

    mol: Chem.Mol
    numbers: list[int]
    sp2: list[bool]
    neighbours: list[list[int]]
    pairs: list[Pair]
    orders: list[float]
    rings: tuple[tuple[int, ...], ...]
    bond_rings: list[set[Pair]]
    atom_kinds: list[int]
    bond_kinds: dict[Pair, int]
    _surroundings: list[tuple[int, ...]] | None = None
    _has_isotopes: bool | None = None

    def __init__(self, mol: Chem.Mol) -> None:
        self.mol = mol
        n_atoms = mol.GetNumAtoms()
        self._read_bonds()
        self.rings = mol.GetRingInfo().AtomRings()
        self.bond_rings = [
            {(i, j) if i < j else (j, i) for i, j in zip(ring, (*ring[1:], ring[0]), strict=True)}
            for ring in self.rings
        ]
        ring_pairs: set[Pair] = set().union(*self.bond_rings)
        n_rings, smallest, n_ring_bonds = [0] * n_atoms, [0] * n_atoms, [0] * n_atoms
        for ring in self.rings:
            size = len(ring)
            for i in ring:
                n_rings[i] += 1
                if size < smallest[i] or not smallest[i]:
                    smallest[i] = size
        neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
        self.neighbours = neighbours
        aromatic = [False] * n_atoms
        bond_kinds: dict[Pair, int] = {}
        self.bond_kinds = bond_kinds
        for pair, order in zip(self.pairs, self.orders, strict=True):
            i, j = pair
            neighbours[i].append(j)
            neighbours[j].append(i)
            in_ring = pair in ring_pairs
            if in_ring:
                n_ring_bonds[i] += 1
                n_ring_bonds[j] += 1
            if order == AROMATIC:
                aromatic[i] = aromatic[j] = True
            bond_kinds[pair] = _BOND_KINDS.number(order, in_ring)
        self.sp2 = [False] * n_atoms
        for (i,) in mol.GetSubstructMatches(_SP2, maxMatches=n_atoms):
            self.sp2[i] = True
        atoms = atoms_of(mol)
        self.numbers = numbers = [atom.GetAtomicNum() for atom in atoms]
        hidden = [atom.GetTotalNumHs() for atom in atoms]
        n_hydrogens = hidden
        if 1 in numbers:  # those that are atoms count too
            n_hydrogens = [
                n + sum(numbers[j] == 1 for j in around)
                for n, around in zip(hidden, neighbours, strict=True)
            ]
        degrees = [len(around) for around in neighbours]
        self.atom_kinds = [
            *map(
                _ATOM_KINDS.number,
                numbers,
                [atom.GetFormalCharge() for atom in atoms],
                degrees,
                map(add, degrees, hidden),
                n_hydrogens,
                aromatic,
                self.sp2,
                n_rings,
                smallest,
                n_ring_bonds,
            )
        ]

    def _read_bonds(self) -> None:
        mol = self.mol
        matrix = Chem.GetAdjacencyMatrix(mol, useBO=True)
        first, last = np.nonzero(np.triu(matrix))
        self.pairs = list(zip(first.tolist(), last.tolist(), strict=True))
        self.orders = matrix[first, last].tolist()
        if len(self.pairs) != mol.GetNumBonds() or mol.HasSubstructMatch(_DATIVE):
            bonds = [mol.GetBondWithIdx(k) for k in range(mol.GetNumBonds())]
            self.pairs = [
                (min(ends), max(ends))
                for ends in ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds)
            ]
            self.orders = [_ORDERS.get(bond.GetBondType(), OTHER) for bond in bonds]

    def with_hydrogens(self, mol: Chem.Mol) -> "Graph":
        """The graph of the molecule that `Chem.AddHs` made of this one, without asking RDKit."""
        graph = Graph.__new__(Graph)
        graph.mol = mol
        graph.rings, graph.bond_rings = self.rings, self.bond_rings
        graph._has_isotopes = self._has_isotopes
        last = len(self.numbers)
        n_added = mol.GetNumAtoms() - last
        graph.numbers = self.numbers + [1] * n_added
        graph.sp2 = self.sp2 + [False] * n_added
        graph.orders = self.orders + [SINGLE] * n_added
        graph.neighbours = [[*around] for around in self.neighbours]
        graph.pairs = [*self.pairs]
        graph.bond_kinds = {**self.bond_kinds}
        graph.atom_kinds = []
        # RDKit adds one atom's after the other's.
        for i, (number, kind) in enumerate(zip(self.atom_kinds, self.atoms(), strict=True)):
            for hydrogen in range(last, last + kind.n_bonded - kind.degree):
                graph.neighbours[i].append(hydrogen)
                graph.neighbours.append([i])
                graph.pairs.append((i, hydrogen))
                graph.bond_kinds[i, hydrogen] = SINGLE_IN_CHAIN
            last += kind.n_bonded - kind.degree
            known = _HYDROGENATED.get(number)
            if known is None:
                known = _ATOM_KINDS.number(*kind._replace(degree=kind.n_bonded))
                _HYDROGENATED[number] = known
            graph.atom_kinds.append(known)
        hydrogen_kind = _ATOM_KINDS.number(1, 0, 1, 1, 0, False, False, 0, 0, 0)
        graph.atom_kinds += [hydrogen_kind] * n_added
        return graph

    def surroundings(self) -> list[tuple[int, ...]]:
        """Of each atom, what it and its bonds and neighbours are; equal only if they are."""
        if self._surroundings is None:
            kinds = self.atom_kinds
            around: list[list[int]] = [[] for _ in kinds]
            for (i, j), bond in self.bond_kinds.items():
                around[i].append(bond << 32 | kinds[j])
                around[j].append(bond << 32 | kinds[i])
            for bonds in around:
                bonds.sort()
            self._surroundings = [(kind, *bonds) for kind, bonds in zip(kinds, around, strict=True)]
        return self._surroundings

    def has_isotopes(self) -> bool:
        """Whether any atom is given as an isotope."""
        if self._has_isotopes is None:
            self._has_isotopes = self.mol.HasSubstructMatch(_ISOTOPE)
        return self._has_isotopes

    def atoms(self) -> list[AtomKind]:
        """The kind of each atom."""
        known = _ATOM_KINDS.kinds
        return [known[kind] for kind in self.atom_kinds]

    def order(self, i: int, j: int) -> float:
        """The order of the bond between two atoms."""
        return _BOND_KINDS.kinds[self.bond_kinds[(i, j) if i < j else (j, i)]].order


def atom_kind(number: int) -> AtomKind:
    """The kind of atom that a number in `Graph.atom_kinds` stands for."""
    return _ATOM_KINDS.kinds[number]


def bond_kind(number: int) -> BondKind:
    """The kind of bond that a number in `Graph.bond_kinds` stands for."""
    return _BOND_KINDS.kinds[number]


def around(surroundings: tuple[int, ...]) -> list[tuple[BondKind, AtomKind]]:
    """Bond and atom of each neighbour in an entry of `Graph.surroundings`."""
    return [
        (_BOND_KINDS.kinds[code >> 32], _ATOM_KINDS.kinds[code & 0xFFFFFFFF])
        for code in surroundings[1:]
    ]


_ORDERS: Final = {
    Chem.BondType.SINGLE: SINGLE,
    Chem.BondType.AROMATIC: AROMATIC,
    Chem.BondType.DOUBLE: DOUBLE,
    Chem.BondType.TRIPLE: TRIPLE,
}
