"""Rotatable bonds as RDKit counts them, found several times faster.

RDKit's strict count is one SMARTS whose recursions are asked at each atom anew. What they ask of is
an atom and its neighbours, and of a neighbour whether it is a carbonyl's carbon; so each
surrounding is judged once in a process, by the kinds of `Graph`.
"""

from typing import Final

from rdkit.Chem import rdMolDescriptors

from mlff_core.chem.graph import (
    AROMATIC,
    DOUBLE,
    OTHER,
    SINGLE,
    SINGLE_IN_CHAIN,
    TRIPLE,
    AtomKind,
    Graph,
    around,
    atom_kind,
    bond_kind,
)

#: Surroundings of atoms that are remembered.
_REMEMBERED: Final = 100_000
#: What is known of an atom, as bits. It may be an end of a rotatable bond: not terminal, not of a
#: triple bond, not the middle of CF3, CCl3, CBr3 or a tert-butyl.
_END: Final = 1
#: The carbon of C(=N), C(=O) or C(=S) with two more neighbours.
_ACYL: Final = 2
#: Such a carbon with N, O or S beside it, over a single bond that is in no ring.
_AMIDE: Final = 4
#: Nitrogen, oxygen, or sulfur that is not terminal.
_HETERO: Final = 8
#: Never 0, so that what is known is told from what is not.
_LEARNT: Final = 16
_FLAGS: Final[dict[tuple[int, ...], int]] = {}
_NITROGEN, _OXYGEN, _SULFUR, _CARBON = 7, 8, 16, 6
_HALOGENS: Final = (9, 17, 35)


def n_rotatable_bonds(graph: Graph) -> int:
    """The value of RDKit's `CalcNumRotatableBonds`.

    Args:
        graph: Of the molecule without the hydrogens that its SMILES leaves out.
    """
    if 1 in graph.numbers or OTHER in graph.orders:
        return rdMolDescriptors.CalcNumRotatableBonds(graph.mol)
    flags = [_FLAGS.get(own) or _learn(own) for own in graph.surroundings()]
    chain = [(*pair, kind) for pair, kind in graph.bond_kinds.items() if _may_turn(kind)]
    # What hangs on a carbonyl's carbon in a chain is its amide or ester.
    held = set()
    for i, j, kind in chain:
        if kind == SINGLE_IN_CHAIN:
            if flags[i] & _ACYL and flags[j] & _HETERO:
                held.add(j)
            if flags[j] & _ACYL and flags[i] & _HETERO:
                held.add(i)
    ends = [flag & _END for flag in flags]
    free = [flag & (_END | _AMIDE) == _END and k not in held for k, flag in enumerate(flags)]
    return sum(bool((free[i] and ends[j]) or (free[j] and ends[i])) for i, j, _ in chain)


def _may_turn(kind: int) -> bool:
    bond = bond_kind(kind)
    return not bond.in_ring and bond.order in (SINGLE, AROMATIC)


def _learn(surroundings: tuple[int, ...]) -> int:
    atom, others = atom_kind(surroundings[0]), around(surroundings)
    flags = _LEARNT
    is_carbon = atom.number == _CARBON and not atom.aromatic
    single = [other for bond, other in others if bond.order in (SINGLE, AROMATIC)]
    bulky = is_carbon and (
        any(sum(o.number == halogen for o in single) >= 3 for halogen in _HALOGENS)
        or sum(o.number == _CARBON and not o.aromatic and o.n_hydrogens == 3 for o in single) >= 3
    )
    if not bulky and len(others) != 1 and all(bond.order != TRIPLE for bond, _ in others):
        flags |= _END
    if _is_hetero(atom):
        flags |= _HETERO
    if (
        is_carbon
        and len(others) == 3
        and any(
            bond.order == DOUBLE and o.number in (_NITROGEN, _OXYGEN, _SULFUR) and not o.aromatic
            for bond, o in others
        )
    ):
        flags |= _ACYL
        if any(
            bond.order == SINGLE and not bond.in_ring and _is_hetero(other)
            for bond, other in others
        ):
            flags |= _AMIDE
    if len(_FLAGS) >= _REMEMBERED:
        _FLAGS.clear()
    _FLAGS[surroundings] = flags
    return flags


def _is_hetero(atom: AtomKind) -> bool:
    if atom.number == _NITROGEN:
        return True
    return not atom.aromatic and (
        atom.number == _OXYGEN or (atom.number == _SULFUR and atom.degree > 1)
    )
