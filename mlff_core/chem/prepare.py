"""SMILES -> checked molecule with starting conformers, or the reason why there is none.

The order of the checks: parse, largest organic fragment, size, elements, charge, radicals,
embedding. Whatever is decided along the way (a salt left out, a stereocentre chosen) is told in the
molecule's message.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rdkit import Chem, rdBase

from mlff_core.chem.check import check_domain
from mlff_core.chem.describe import describe
from mlff_core.chem.embed import embed, molecule_seed
from mlff_core.chem.fragments import largest_fragment
from mlff_core.chem.given import mixture, stereo_not_kept
from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import ChemistrySettings, NotOkError, PreparedMolecule, rejected
from mlff_core.chem.parse import parse
from mlff_core.chem.stereo import centres, double_bonds, is_atropisomer
from mlff_core.status import Flag, MoleculeStatus, Reason


def prepare(
    record: int, input_id: str | None, smiles: str, settings: ChemistrySettings
) -> PreparedMolecule:
    """Check one SMILES and embed it; never raises on chemistry, the result says what became of it.

    Args:
        record: Position in the library, handed through.
        input_id: Identifier in the library, handed through.
        smiles: SMILES or CXSMILES; a name behind it is ignored.
        settings: What is accepted and how it is embedded.
    """
    molecule = PreparedMolecule(record, input_id, smiles)
    with told(molecule) as notes:
        mol = checked(molecule, settings, notes).mol
        try:
            hydrogenated = Chem.AddHs(mol)
            seed = molecule_seed(settings.seed, molecule.smiles or "")
            chosen = embed(hydrogenated, settings, seed, notes)
            mol = as_chosen(molecule, mol, hydrogenated, chosen, notes)
        finally:
            molecule.inchikey = Chem.MolToInchiKey(mol) or None
        molecule.positions = np.array(
            [conformer.GetPositions() for conformer in hydrogenated.GetConformers()], np.float32
        )
        store_topology(molecule, hydrogenated)
    return molecule


@contextmanager
def told(molecule: PreparedMolecule) -> Iterator[list[str]]:
    """Run what may end a molecule, and write into it how it ended: nothing is raised any further.

    Yields:
        The notes that make the molecule's message.
    """
    start = time.perf_counter()
    notes = [molecule.message] if molecule.message else []
    try:
        with rdBase.BlockLogs():
            yield notes
    except NotOkError as stop:
        molecule.status, molecule.reason = stop.status, stop.reason
        notes.append(str(stop))
    except MemoryError:
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.OUT_OF_MEMORY
        notes.append("the memory was not enough for this molecule")
    except Exception as error:  # whatever RDKit throws is this molecule's fate, not the shard's
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.INTERNAL_ERROR
        notes.append(f"{type(error).__name__}: {error}")
    molecule.message = "; ".join(notes) or None
    molecule.timings_s += time.perf_counter() - start


def checked(molecule: PreparedMolecule, settings: ChemistrySettings, notes: list[str]) -> Graph:
    """The part of the record that is computed, in canonical order; fills the columns it decides.

    Returns:
        Its graph, without the hydrogens that its SMILES leaves out.

    Raises:
        NotOkError: It is not something that can be computed. Its InChIKey is known then too, if it
            could be parsed and is not too large.
    """
    mol = largest_fragment(parse(molecule.input_smiles, settings), notes)
    molecule.n_heavy_atoms = mol.GetNumHeavyAtoms()
    molecule.n_atoms = mol.GetNumAtoms(onlyExplicit=False)
    # Before anything that costs more than linear time.
    if molecule.n_atoms > settings.max_atoms:
        raise rejected(
            Reason.TOO_LARGE,
            f"{molecule.n_atoms} atoms, the limit is {settings.max_atoms}",
        )
    _tell_of_stereo(molecule, mol, notes)
    if ":" in molecule.input_smiles:  # maybe atom maps, which are labels and no chemistry
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    # From here on atoms stand in canonical order: nothing depends on how the input was written.
    molecule.smiles = _write(mol)
    graph = Graph(Chem.MolFromSmiles(molecule.smiles) or mol)
    describe(molecule, graph)
    try:
        check_domain(molecule, graph, settings, notes)
    except NotOkError:
        molecule.inchikey = Chem.MolToInchiKey(graph.mol) or None
        raise
    return graph


def as_chosen(
    molecule: PreparedMolecule,
    mol: Chem.Mol,
    hydrogenated: Chem.Mol,
    chosen: str,
    notes: list[str],
) -> Chem.Mol:
    """The molecule without hydrogens once its geometry has decided stereo that was undefined.

    Args:
        molecule: Gets the SMILES of what was chosen.
        mol: The molecule without hydrogens, as it was.
        hydrogenated: The same with its hydrogens and its stereo.
        chosen: What was undefined, in words; empty if nothing was.
        notes: Gets a sentence about it.
    """
    smiles = _write(Chem.RemoveHs(hydrogenated)) if chosen else molecule.smiles
    if smiles == molecule.smiles:  # in adamantane, say, all "choices" are the same molecule
        return mol
    notes.append(f"chose one isomer: {chosen} had no stereo")
    molecule.smiles = smiles
    return Chem.MolFromSmiles(smiles) or mol


def _tell_of_stereo(molecule: PreparedMolecule, mol: Chem.Mol, notes: list[str]) -> None:
    """Say in `notes` and flags what of the input's stereo the computed molecule does not have."""
    if lost := stereo_not_kept(mol):
        notes.append(
            f"stereo of the input not kept: {'; '.join(lost)} (atoms counted from 1 as written)"
        )
        molecule.flags.append(Flag.STEREO_NOT_KEPT)
    if words := mixture(mol):
        notes.append(words)
        molecule.flags.append(Flag.MIXTURE_OF_ISOMERS)


def _write(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES; a CXSMILES where an axis has stereo, which it alone can say."""
    if not is_atropisomer(mol):
        return Chem.MolToSmiles(mol)
    return Chem.MolToCXSmiles(
        mol, Chem.SmilesWriteParams(), Chem.CXSmilesFields.CX_BOND_ATROPISOMER
    )


def _mapped_smiles(mol: Chem.Mol) -> str:
    """SMILES with all hydrogens and atom map numbers 1..n in the order of the atoms."""
    mapped = Chem.Mol(mol)
    mapped.RemoveAllConformers()
    for atom in mapped.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return _write(mapped)


def store_topology(molecule: PreparedMolecule, mol: Chem.Mol) -> None:
    """Fill in elements, bonds and stereo of the molecule with its hydrogens."""
    molecule.numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int8)
    molecule.mapped_smiles = _mapped_smiles(mol)
    molecule.bonds = np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))).astype(np.int16)
    # The SMILES tells whether there is any stereo; walking over all atoms costs more than to look.
    smiles = molecule.smiles or ""
    if "@" in smiles or "|" in smiles:
        molecule.chirality = centres(mol)
    if "/" in smiles or "\\" in smiles:
        molecule.double_bonds = double_bonds(mol)
