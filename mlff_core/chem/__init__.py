"""SMILES to checked molecules with starting geometries. Needs numpy and rdkit, never torch.

variant.py       which structures a record stands for
molecule.py      what is asked of a molecule, and what became of it
prepare.py       the steps below, in order
pose.py          the same where the geometry is given
parse.py         a line of a library to an RDKit molecule
flexibility.py   how many conformers a molecule is worth
fragments.py     which part of a salt or a mixture is computed
salts.smi        salts, counter-ions and solvents, with their source
given.py         stereo of the input that is not kept, and what its stereo groups mean
allenes.py       their hand, which RDKit does not keep
check.py         elements, charge, closed shell
seen.py          what a training saw, counted
trust.py         what of a molecule it hardly saw
stereo.py        what is defined, and choosing what is not
free_stereo.py   centres that any hand suits, chosen without a geometry
changing.py      what looks like stereo and changes by itself
describe.py      columns that depend on the bonds alone
rotatable.py     rotatable bonds, counted as RDKit does
constraints.py   what distance geometry has to know
constrained.py   a checked molecule with those, for an embedder elsewhere
atoms.py         atoms and bonds as lists
graph.py         the graph of a molecule in plain Python
smarts.py        which kinds of atoms and bonds match which parts of SMARTS
torsions.py      torsion angle preferences
hypervalent.py   distance bounds of SF5, PF6-, IF5, PhI(OAc)2 and their kind
expand.py        a record to its variants
protonation.py   protonation states at a pH
pka_sites.toml   the sites that it knows, with their sources
tautomers.py     other tautomers, without those that nobody would look at
isomers.py       all stereoisomers of a molecule that can exist
twins.py         mirror images among them share their conformers
embed.py         starting conformers
impossible.py    which stereo is in the way where nothing embeds
rotamers.py      starts whose polar hydrogens point to acceptors
hydrogen_bonds.py  hydrogen bonds closed by turning what lies between
duplicates.py    which conformers are the same
held.py          bonds to hydrogen that say which protonation state was given
topology.py      whether a geometry stayed the molecule it was
superpose.py     how far geometries are apart
symmetry.py      how many rotations leave a geometry what it is
mirror.py        whether a molecule is its own mirror image
mishap.py        which atoms overlapped or flew apart
mapped.py        the way back: coordinates to a molecule with bonds
stages.py        several molecules side by side, a stage of all at a time
pool.py          processes that prepare molecules
here.py          the same in this process, for a few molecules
job.py           what travels to one of them in a message
worker.py        the process at the other end
"""
