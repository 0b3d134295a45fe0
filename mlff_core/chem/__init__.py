"""SMILES to checked molecules with starting geometries. Needs numpy and rdkit, never torch.

molecule.py      what is asked of a molecule, and what became of it
prepare.py       the steps below, in order
parse.py         a line of a library to an RDKit molecule
fragments.py     which part of a salt or a mixture is computed
check.py         elements, charge, closed shell
stereo.py        what is defined, and choosing what is not
describe.py      columns that depend on the bonds alone
constraints.py   what distance geometry has to know
constrained.py   a checked molecule with those, for an embedder elsewhere
graph.py         the graph of a molecule in plain Python
smarts.py        which kinds of atoms and bonds match which parts of SMARTS
torsions.py      torsion angle preferences
embed.py         starting conformers
topology.py      whether a geometry stayed the molecule it was
superpose.py     how far geometries are apart
pool.py          processes that prepare molecules
worker.py        the process at the other end
"""
