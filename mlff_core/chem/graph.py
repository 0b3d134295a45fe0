"""The graph of a molecule in plain Python: read from RDKit once, looked at many times."""

from typing import Final

from rdkit import Chem

_SP2: Final = Chem.HybridizationType.SP2

#: Numbers of kinds of atoms and of bonds, as a process meets them; there are some hundreds.
_ATOM_KINDS: Final[dict[tuple[int, ...], int]] = {}
_BOND_KINDS: Final[dict[tuple[int, bool], int]] = {}


class Graph:
    """Atoms, neighbours, bonds and rings of a molecule with all its hydrogens.

    Attributes:
        mol: The molecule.
        numbers: Atomic number of each atom.
        sp2: Whether an atom is sp2, for each.
        neighbours: Bonded atoms of each atom, in RDKit's order, which chirality tags refer to.
        pairs: Bonded pairs, the lower atom first, in RDKit's order of bonds.
        bond_types: RDKit's type of each bond.
        rings: Atoms of each ring, in order around it.
        bond_rings: Pairs of each ring.
        atom_kinds: A number for each atom, equal for atoms that no SMARTS without recursion and
            isotopes can tell apart.
        bond_kinds: The same of each pair.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        self.mol = mol
        atoms = [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]
        self.numbers = numbers = [atom.GetAtomicNum() for atom in atoms]
        hybridizations = [int(atom.GetHybridization()) for atom in atoms]
        self.sp2 = [kind == _SP2 for kind in hybridizations]
        self.rings: tuple[tuple[int, ...], ...] = mol.GetRingInfo().AtomRings()
        self.pairs: list[tuple[int, int]] = []
        self.neighbours: list[list[int]] = [[] for _ in atoms]
        self.bond_types: list[Chem.BondType] = []
        for k in range(mol.GetNumBonds()):
            bond = mol.GetBondWithIdx(k)
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            self.pairs.append((i, j) if i < j else (j, i))
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
            self.bond_types.append(bond.GetBondType())
        self.bond_rings = [
            {(i, j) if i < j else (j, i) for i, j in zip(ring, (*ring[1:], ring[0]), strict=True)}
            for ring in self.rings
        ]
        ring_pairs: set[tuple[int, int]] = set().union(*self.bond_rings)
        n_rings, smallest, ring_bonds = ([0] * len(atoms) for _ in range(3))
        for ring in self.rings:
            for i in ring:
                n_rings[i] += 1
                smallest[i] = min(smallest[i] or len(ring), len(ring))
        for i, j in ring_pairs:
            ring_bonds[i] += 1
            ring_bonds[j] += 1
        self.atom_kinds = [
            _ATOM_KINDS.setdefault(
                (
                    numbers[i],
                    atom.GetIsAromatic(),
                    len(around),
                    sum(numbers[j] == 1 for j in around),
                    atom.GetFormalCharge(),
                    hybridizations[i],
                    n_rings[i],
                    smallest[i],
                    ring_bonds[i],
                ),
                len(_ATOM_KINDS),
            )
            for i, (atom, around) in enumerate(zip(atoms, self.neighbours, strict=True))
        ]
        self.bond_kinds = {
            pair: _BOND_KINDS.setdefault((int(kind), pair in ring_pairs), len(_BOND_KINDS))
            for pair, kind in zip(self.pairs, self.bond_types, strict=True)
        }
