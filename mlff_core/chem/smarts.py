"""What kinds of atoms and bonds match which parts of SMARTS: asked of RDKit once for each kind."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from rdkit import Chem

from mlff_core.chem.graph import Graph

#: A valence or an isotope: what an atom's kind does not tell.
_ISOTOPE: Final = re.compile(r"\d+\*")
_UNTOLD: Final = re.compile(r"!?(v\d*|\d+\*?)")


#: The feature of a pattern that asks for an isotope.
_ISOTOPE_FEATURE: Final = (-1, ())
#: Surroundings of atoms that are remembered.
_REMEMBERED: Final = 100_000


class Kinds:
    """A table of atom and bond queries, and which of them each kind of `Graph` matches.

    A query is a bit. What an atom matches is the sum of its bits.
    """

    def __init__(self) -> None:
        self._atom_bits: dict[str, int] = {}
        self._bond_bits: dict[str, int] = {}
        self._atom_queries: list[Chem.Atom] = []
        self._bond_queries: list[Chem.Bond] = []
        self._of_atoms: dict[int, int] = {}
        self._of_bonds: dict[int, int] = {}

    def atom_bit(self, smarts: str) -> int:
        """The bit of an atom's SMARTS, which holds no recursion."""
        if smarts not in self._atom_bits:
            self._atom_bits[smarts] = 1 << len(self._atom_bits)
            self._atom_queries.append(Chem.AtomFromSmarts(smarts))
        return self._atom_bits[smarts]

    def bond_bit(self, smarts: str) -> int:
        """The bit of a bond's SMARTS."""
        if smarts not in self._bond_bits:
            self._bond_bits[smarts] = 1 << len(self._bond_bits)
            self._bond_queries.append(Chem.MolFromSmarts(f"*{smarts}*").GetBondWithIdx(0))
        return self._bond_bits[smarts]

    def of_atoms(self, graph: Graph) -> list[int]:
        """Bits of each atom."""
        known = self._of_atoms
        try:
            return [known[kind] for kind in graph.atom_kinds]
        except KeyError:
            for i, kind in enumerate(graph.atom_kinds):
                if kind not in known:
                    atom = graph.mol.GetAtomWithIdx(i)
                    known[kind] = sum(
                        1 << k for k, query in enumerate(self._atom_queries) if query.Match(atom)
                    )
            return [known[kind] for kind in graph.atom_kinds]

    def of_bonds(self, graph: Graph) -> dict[tuple[int, int], int]:
        """Bits of each bond."""
        known = self._of_bonds
        bits = {}
        for (i, j), kind in graph.bond_kinds.items():
            if kind not in known:
                bond = graph.mol.GetBondBetweenAtoms(i, j)
                known[kind] = sum(
                    1 << k for k, query in enumerate(self._bond_queries) if query.Match(bond)
                )
            bits[i, j] = known[kind]
        return bits


#: Bits of bond and atom of each neighbour of an atom.
Around = tuple[tuple[int, int], ...]


class Screen:
    """Patterns of which few match most molecules: leaves out those that surely do not.

    A pattern is left out if one of its atoms with its neighbours is nowhere in the molecule.
    """

    def __init__(self, patterns: Iterable[Chem.Mol]) -> None:
        self._kinds = Kinds()
        self._features: dict[tuple[int, Around], int] = {}
        self._wanted = [self._features_of(pattern) for pattern in patterns]
        self._known: dict[tuple[int, ...], int] = {}
        #: What patterns ask of neighbours, each a bit, and which of it kinds of neighbours answer.
        self._asked: dict[tuple[int, int], int] = {}
        for _, around in self._features:
            for neighbour in around:
                self._asked.setdefault(neighbour, 1 << len(self._asked))
        self._neighbours: dict[tuple[int, int], int] = {}
        #: Features that an atom of a kind may have: bits of what is asked of its neighbours.
        self._of_kind: dict[int, list[tuple[tuple[int, ...], int]]] = {}

    def possible(self, graph: Graph) -> list[int]:
        """Which patterns may match a molecule, by their place."""
        there = 0
        if graph.has_isotopes():
            there = self._features.get(_ISOTOPE_FEATURE, 0)
        for atom, surroundings in enumerate(graph.surroundings()):
            known = self._known.get(surroundings)
            if known is None:
                known = self._learn(graph, atom, surroundings)
            there |= known
        missing = ~there
        return [place for place, wanted in enumerate(self._wanted) if not wanted & missing]

    def _features_of(self, pattern: Chem.Mol) -> int:
        """Bits of the features that a pattern cannot do without."""
        rings = [set(ring) for ring in Chem.GetSymmSSSR(Chem.Mol(pattern))]
        atoms = [self._kinds.atom_bit(_atom_alone(atom, rings)) for atom in pattern.GetAtoms()]
        around: list[list[tuple[int, int]]] = [[] for _ in atoms]
        for bond in pattern.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            smarts = bond.GetSmarts() or "-,:"  # type: ignore[call-arg]
            if any({i, j} <= ring for ring in rings):
                smarts += ";@"
            bit = self._kinds.bond_bit(smarts)
            around[i].append((bit, atoms[j]))
            around[j].append((bit, atoms[i]))
        features = [(atom, (*bonds,)) for atom, bonds in zip(atoms, around, strict=True)]
        if any(_ISOTOPE.search(atom.GetSmarts()) for atom in pattern.GetAtoms()):
            features.append(_ISOTOPE_FEATURE)
        wanted = 0
        for feature in features:
            wanted |= self._features.setdefault(feature, 1 << len(self._features))
        return wanted

    def _learn(self, graph: Graph, atom: int, surroundings: tuple[int, ...]) -> int:
        """Bits of the features that an atom with its neighbours has."""
        kind = graph.atom_kinds[atom]
        features = self._of_kind.get(kind)
        if features is None:
            bits = self._kinds.of_atoms(graph)[atom]
            features = self._of_kind[kind] = [
                (tuple(self._asked[neighbour] for neighbour in around), feature)
                for (bit, around), feature in self._features.items()
                if bit > 0 and bit & bits
            ]
        there = [self._neighbour(graph, atom, other) for other in graph.neighbours[atom]]
        all_of_them = 0
        for answers in there:
            all_of_them |= answers
        known = 0
        for wanted, feature in features:
            # Two neighbours may be wanted that one alone could be: then they are told apart.
            if all(asked & all_of_them for asked in wanted) and (
                len(wanted) < 2 or _all_answer(wanted, there)
            ):
                known |= feature
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[surroundings] = known
        return known

    def _neighbour(self, graph: Graph, atom: int, other: int) -> int:
        """Bits of what may be asked of a neighbour that a neighbour is."""
        pair = min(atom, other), max(atom, other)
        kinds = graph.bond_kinds[pair], graph.atom_kinds[other]
        known = self._neighbours.get(kinds)
        if known is None:
            its_bond, its_atom = (
                self._kinds.of_bonds(graph)[pair],
                self._kinds.of_atoms(graph)[other],
            )
            known = self._neighbours[kinds] = sum(
                bit
                for (bond, wanted), bit in self._asked.items()
                if bond & its_bond and wanted & its_atom
            )
        return known


def _all_answer(wanted: Sequence[int], there: Sequence[int]) -> bool:
    """Whether each thing that is asked for can be another neighbour, all of them bits."""
    if not wanted:
        return True
    first, *others = wanted
    return any(
        first & answers and _all_answer(others, (*there[:k], *there[k + 1 :]))
        for k, answers in enumerate(there)
    )


def fits(wanted: Around, there: Around) -> bool:
    """Whether each neighbour that a pattern asks for can be another neighbour that is there."""
    if not wanted:
        return True
    (bond, atom), *others = wanted
    return any(
        bond & its_bond and atom & its_atom and fits((*others,), (*there[:k], *there[k + 1 :]))
        for k, (its_bond, its_atom) in enumerate(there)
    )


def _atom_alone(atom: Chem.Atom, rings: list[set[int]]) -> str:
    """SMARTS of a pattern's atom that also says how it hangs in the pattern.

    Args:
        atom: The atom.
        rings: Atoms of the pattern's rings. What matches an atom of one is in a ring no larger.
    """
    own = [ring for ring in rings if atom.GetIdx() in ring]
    smarts = f"{without_recursion(atom.GetSmarts())[:-1]};D{{{atom.GetDegree()}-}}"
    if own:
        in_ring = sum(
            any({atom.GetIdx(), other.GetIdx()} <= ring for ring in own)
            for other in atom.GetNeighbors()
        )
        smarts += f";r{{3-{min(map(len, own))}}};x{{{in_ring}-}}"
    return f"{smarts}]"


def without_recursion(smarts: str) -> str:
    """An atom's SMARTS in brackets that matches at least what it matched, by the atom's kind alone.

    Recursion is left out, and so are valence and isotopes.
    """
    inside = re.sub(r":\d+\]$", "]", smarts if smarts[0] == "[" else f"[{smarts}]")[1:-1]
    conjuncts = []
    for conjunct in _split(inside, ";"):
        terms = [_plain(term) for term in _split(conjunct, ",")]
        if "*" not in terms:
            conjuncts.append(",".join(terms))
    return f"[{';'.join(conjuncts) or '*'}]"


def _plain(term: str) -> str:
    """Primitives joined by `&` that match at least what `term` did; `*` if there are none."""
    parts = []
    for part in _split(term, "&"):
        if part.startswith("$("):
            inner = Chem.MolFromSmarts(part[2:-1]).GetAtomWithIdx(0).GetSmarts()
            first = without_recursion(inner)[1:-1]
            if not {",", ";"} & set(first) and first != "*":
                parts.append(first)
        elif "$" not in part and not _UNTOLD.fullmatch(part):
            parts.append(part)
    return "&".join(parts) or "*"


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that stand in no bracket."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == separator and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces
