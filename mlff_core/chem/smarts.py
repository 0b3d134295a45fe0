"""What kinds of atoms and bonds match which parts of SMARTS: asked of RDKit once for each kind."""

import re

from rdkit import Chem

from mlff_core.chem.graph import Graph


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


def without_recursion(smarts: str) -> str:
    """An atom's SMARTS in brackets that matches at least what it matched, without any $(...)."""
    inside = re.sub(r":\d+\]$", "]", smarts if smarts[0] == "[" else f"[{smarts}]")[1:-1]
    if "$" not in inside:
        return f"[{inside}]"
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
        elif "$" not in part:
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
