"""Columns of the table `molecules` that depend on the bonds alone.

All values are RDKit's own. What costs most of them, hundreds of SMARTS, is asked only where it can
match, or only once for each surrounding of an atom.
"""

from functools import cache
from typing import Final

from rdkit import Chem
from rdkit.Chem import QED, rdMolDescriptors

from mlff_core.chem.graph import OTHER, SINGLE, AtomKind, Graph
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.rotatable import n_rotatable_bonds
from mlff_core.chem.smarts import Screen

#: Surroundings of atoms whose contribution to log P is remembered.
_REMEMBERED: Final = 100_000
#: Larger molecules may have more matches than RDKit looks at.
_MOST_ATOMS: Final = 60

_CONTRIBUTIONS: Final[dict[tuple, tuple[float, float]]] = {}


def describe(molecule: PreparedMolecule, graph: Graph) -> None:
    """Fill the columns that depend on the bonds alone.

    Args:
        molecule: Gets the values.
        graph: Of the molecule without the hydrogens that its SMILES leaves out.
    """
    mol = graph.mol
    molecule.formula = rdMolDescriptors.CalcMolFormula(mol)
    molecule.charge = Chem.GetFormalCharge(mol)
    molecule.n_rotatable_bonds = n_rotatable_bonds(graph)
    molecule.mol_weight = rdMolDescriptors._CalcMolWt(mol)
    molecule.clogp = crippen_log_p(graph)
    molecule.tpsa = rdMolDescriptors.CalcTPSA(mol)
    possible = _patterns().possible(graph)
    molecule.qed = QED.qed(
        mol,
        qedProperties=QED.QEDproperties(
            MW=molecule.mol_weight,
            ALOGP=molecule.clogp,
            HBA=sum(
                len(mol.GetSubstructMatches(QED.Acceptors[k]))
                for k in possible
                if k < len(QED.Acceptors)
            ),
            HBD=rdMolDescriptors.CalcNumHBD(mol),
            PSA=molecule.tpsa,
            ROTB=molecule.n_rotatable_bonds,
            AROM=n_aromatic_rings(graph),
            ALERTS=sum(
                mol.HasSubstructMatch(QED.StructuralAlerts[k - len(QED.Acceptors)])
                for k in possible
                if k >= len(QED.Acceptors)
            ),
        ),
    )


@cache
def _patterns() -> Screen:
    """The patterns of QED: acceptors, then alerts."""
    return Screen([*QED.Acceptors, *QED.StructuralAlerts])


def n_aromatic_rings(graph: Graph) -> int:
    """Rings as QED counts them: those left when ring atoms with aliphatic surroundings are out.

    RDKit deletes what matches [$([A;R][!a])], over a single bond, and counts the smallest rings of
    the rest, which are as many as it has more bonds than atoms, plus its fragments.
    """
    atoms = graph.atoms()
    left = {
        i
        for ring in graph.rings
        for i in ring
        if atoms[i].aromatic
        or all(atoms[j].aromatic or graph.order(i, j) != SINGLE for j in graph.neighbours[i])
    }
    # Rings hang together by their own bonds; chains close none.
    fragment = {i: i for i in left}

    def root(i: int) -> int:
        while fragment[i] != i:
            i = fragment[i]
        return i

    n_rings = 0
    for i, j in set().union(*graph.bond_rings):
        if i in left and j in left:
            a, b = root(i), root(j)
            n_rings += a == b
            fragment[a] = b
    return n_rings


def crippen_log_p(graph: Graph) -> float:
    """Wildman and Crippen's log P (J. Chem. Inf. Comput. Sci. 1999, 39, 868), as RDKit sums it."""
    if 1 in graph.numbers or OTHER in graph.orders or len(graph.numbers) > _MOST_ATOMS:
        return rdMolDescriptors.CalcCrippenDescriptors(graph.mol)[0]
    atoms = graph.atoms()
    keys = _surroundings(graph, atoms)
    try:
        own = [_CONTRIBUTIONS[key] for key in keys]
    except KeyError:
        _learn(graph, keys)
        own = [_CONTRIBUTIONS[key] for key in keys]
    # One after the other, as RDKit does: the last bit depends on it.
    log_p = 0.0
    for contribution, _ in own:
        log_p += contribution
    for (_, hydrogen), atom in zip(own, atoms, strict=True):
        for _ in range(atom.n_hydrogens):
            log_p += hydrogen
    return log_p


def _surroundings(graph: Graph, atoms: list[AtomKind]) -> list[tuple]:
    """What Crippen's patterns see from each atom: its neighbours; from oxygen their neighbours too.

    Of the hydrogens at the atom they see no more.
    """
    seen = [(atom.number, atom.aromatic, atom.charge) for atom in atoms]
    around: list[list[tuple]] = [[] for _ in atoms]
    for (i, j), order in zip(graph.pairs, graph.orders, strict=True):
        around[i].append((order, seen[j]))
        around[j].append((order, seen[i]))
    for bonds in around:
        bonds.sort()
    keys: list[tuple] = []
    for i, atom in enumerate(atoms):
        beyond: tuple = ()
        if atom.number == 8:
            beyond = tuple(
                sorted(
                    (atoms[j].n_bonded, atoms[j].n_hydrogens, *around[j])
                    for j in graph.neighbours[i]
                )
            )
        keys.append((seen[i], atom.n_bonded, atom.n_hydrogens, *around[i], beyond))
    return keys


def _learn(graph: Graph, keys: list[tuple]) -> None:
    """Ask RDKit for the contribution of each atom and of a hydrogen at it."""
    mol = Chem.AddHs(graph.mol)
    contributions = [log_p for log_p, _ in rdMolDescriptors._CalcCrippenContribs(mol)]
    if len(_CONTRIBUTIONS) > _REMEMBERED:
        _CONTRIBUTIONS.clear()
    for i, key in enumerate(keys):
        hydrogens = [
            contributions[j.GetIdx()]
            for j in mol.GetAtomWithIdx(i).GetNeighbors()
            if j.GetAtomicNum() == 1
        ]
        _CONTRIBUTIONS[key] = contributions[i], hydrogens[0] if hydrogens else 0.0
