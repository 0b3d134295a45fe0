"""SMILES -> checked molecule with starting conformers, or the reason why there is none.

The order of the checks: parse, largest organic fragment, size, elements, charge, radicals,
embedding. Whatever is decided along the way (a salt left out, a stereocentre chosen) is told in the
molecule's message.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from rdkit import Chem, rdBase

from mlff_core.chem.allenes import may_have_allenes, read_back, with_allenes
from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.check import check_domain
from mlff_core.chem.describe import describe
from mlff_core.chem.embed import embed, molecule_seed
from mlff_core.chem.fragments import largest_fragment
from mlff_core.chem.given import mixture, stereo_not_kept
from mlff_core.chem.graph import Graph
from mlff_core.chem.held import held_bonds
from mlff_core.chem.molecule import ChemistrySettings, NotOkError, PreparedMolecule, rejected
from mlff_core.chem.parse import parse
from mlff_core.chem.stages import Stages, at_once
from mlff_core.chem.stereo import centres, double_bonds, is_atropisomer
from mlff_core.chem.variant import Variant
from mlff_core.status import Flag, MoleculeStatus, Reason

#: A charge in a SMILES, where "-" alone may be a bond.
_CHARGE: Final = re.compile(r"[+-]\d*\]")
_ALL_IN_BRACKETS: Final = Chem.SmilesWriteParams()
_ALL_IN_BRACKETS.allHsExplicit = True  # type: ignore[assignment]  # the stub errs
_ALL_IN_BRACKETS.canonical = False  # type: ignore[assignment]


def prepare(
    record: int, input_id: str | None, smiles: str | Variant, settings: ChemistrySettings
) -> PreparedMolecule:
    """Check one SMILES and embed it; never raises on chemistry, the result says what became of it.

    Args:
        record: Position in the library, handed through.
        input_id: Identifier in the library, handed through.
        smiles: SMILES or CXSMILES, a name behind it is ignored; or a variant of one.
        settings: What is accepted and how it is embedded.
    """
    molecule = PreparedMolecule.of(record, input_id, smiles)
    with noting(molecule) as notes:
        graph = checked(molecule, settings, notes)
        mol = graph.mol
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
        store_topology(molecule, graph.with_hydrogens(hydrogenated))
    return molecule


def standardise(
    record: int, input_id: str | None, smiles: str, settings: ChemistrySettings
) -> PreparedMolecule:
    """What `prepare` makes of a SMILES before it embeds it: `smiles` names its structure.

    Args and what comes of bad ones are those of `prepare`.
    """
    molecule = PreparedMolecule(record, input_id, smiles)
    with noting(molecule) as notes:
        checked(molecule, settings, notes)
    return molecule


@contextmanager
def noting(molecule: PreparedMolecule) -> Iterator[list[str]]:
    """Run what may end a molecule, and write into it how it ended: nothing is raised any further.

    Yields:
        The notes that make the molecule's message.
    """
    start = time.perf_counter()
    notes = [molecule.message] if molecule.message else []
    try:
        with rdBase.BlockLogs():
            yield notes
    except Exception as error:  # whatever RDKit throws is this molecule's fate, not the shard's
        _note_end(molecule, error, notes)
    molecule.message = "; ".join(notes) or None
    molecule.timings_s += time.perf_counter() - start


def _note_end(molecule: PreparedMolecule, error: Exception, notes: list[str]) -> None:
    """Write into a molecule what ended it."""
    if isinstance(error, NotOkError):
        molecule.status, molecule.reason = error.status, error.reason
        notes.append(str(error))
    elif isinstance(error, MemoryError):
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.OUT_OF_MEMORY
        notes.append("the memory was not enough for this molecule")
    else:
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.INTERNAL_ERROR
        notes.append(f"{type(error).__name__}: {error}")


def noted(molecule: PreparedMolecule, work: Callable[[list[str]], Stages[None]]) -> Stages[None]:
    """As `noting`, of work in stages; only what a molecule's own stages take is its time.

    RDKit's logs are left to who goes through the stages.

    Args:
        molecule: See `noting`.
        work: Given the notes, what is done.
    """
    notes = [molecule.message] if molecule.message else []
    stages = work(notes)
    while True:
        start = time.perf_counter()
        try:
            next(stages)
        except StopIteration:
            break
        except Exception as error:  # see `noting`
            _note_end(molecule, error, notes)
            break
        finally:
            molecule.timings_s += time.perf_counter() - start
        yield
    molecule.message = "; ".join(notes) or None


def checked(molecule: PreparedMolecule, settings: ChemistrySettings, notes: list[str]) -> Graph:
    """The part of the record that is computed, in canonical order; fills the columns it decides.

    Returns:
        Its graph, without the hydrogens that its SMILES leaves out.

    Raises:
        NotOkError: It is not something that can be computed. Its InChIKey is known then too, if it
            could be parsed and is not too large.
    """
    return at_once(checking(molecule, settings, notes))


def checking(
    molecule: PreparedMolecule, settings: ChemistrySettings, notes: list[str]
) -> Stages[Graph]:
    """As `checked`, in stages."""
    text = molecule.asked.smiles if molecule.asked else molecule.input_smiles
    mol = read(molecule, text, settings, notes)
    yield
    # From here on atoms stand in canonical order: nothing depends on how the input was written.
    molecule.smiles = written(mol, text)
    if molecule.smiles != text:
        mol = read_back(molecule.smiles) or mol
    if "[H]" in molecule.smiles:  # RDKit keeps a hydrogen once whose place said nothing after all
        molecule.smiles = written(mol, text)
        mol = read_back(molecule.smiles) or mol
    yield
    graph = Graph(mol)
    yield
    describe(molecule, graph)
    yield
    try:
        check_domain(molecule, graph, settings, notes)
    except NotOkError:
        molecule.inchikey = Chem.MolToInchiKey(graph.mol) or None
        raise
    return graph


def read(
    molecule: PreparedMolecule, text: str, settings: ChemistrySettings, notes: list[str]
) -> Chem.Mol:
    """The part of a SMILES or CXSMILES that is computed; fills what is known of it so far.

    Raises:
        NotOkError: It cannot be read, or is too large.
    """
    mol = parse(text, settings)
    if "." in text:
        mol = largest_fragment(mol, notes)
    molecule.n_heavy_atoms = mol.GetNumHeavyAtoms()
    molecule.n_atoms = mol.GetNumAtoms(onlyExplicit=False)
    # Before anything that costs more than linear time.
    if molecule.n_atoms > settings.max_atoms:
        raise rejected(
            Reason.TOO_LARGE,
            f"{molecule.n_atoms} atoms, the limit is {settings.max_atoms}",
        )
    if any(mark in text for mark in "@/\\|"):
        _tell_of_stereo(molecule, mol, notes)
    if ":" in text:  # maybe atom maps, which are labels and no chemistry
        for atom in atoms_of(mol):
            atom.SetAtomMapNum(0)
    return mol


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
        hydrogenated: The same with its hydrogens and its stereo, which it loses again if that was
            no choice.
        chosen: What was undefined, in words; empty if nothing was.
        notes: Gets a sentence about it.
    """
    smiles = molecule.smiles or ""
    if chosen:
        isomer = Chem.RemoveHs(hydrogenated)
        smiles = written(isomer, smiles)
    if smiles == molecule.smiles:  # in adamantane, say, all "choices" are the same molecule
        return mol
    if molecule.asked is not None and molecule.asked.one_possible:
        for atom in mol.GetAtoms():
            hydrogenated.GetAtomWithIdx(atom.GetIdx()).SetChiralTag(atom.GetChiralTag())
        return mol
    notes.append(f"chose one isomer: {chosen} had no stereo")
    molecule.standard_smiles = molecule.standard_smiles or molecule.smiles
    molecule.smiles = smiles
    if "|" in smiles or may_have_allenes(smiles):
        return read_back(smiles) or mol
    return isomer


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


def written(mol: Chem.Mol, origin: str) -> str:
    """Canonical isomeric SMILES; a CXSMILES where an axis has stereo, which it alone can say.

    An allene's hand is written as OpenSMILES has it.

    Args:
        mol: What to write.
        origin: SMILES or CXSMILES that it comes from.
    """
    if "|" not in origin or not is_atropisomer(mol):
        smiles = Chem.MolToSmiles(mol)
        return with_allenes(smiles, mol) if may_have_allenes(origin) else smiles
    fields = Chem.CXSmilesFields.CX_BOND_ATROPISOMER
    text = Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), fields)
    # Which bond is drawn as the wedge depends on the order of the atoms: once in that of the text,
    # it is the same however the molecule was written.
    again = Chem.MolFromSmiles(text)
    return text if again is None else Chem.MolToCXSmiles(again, Chem.SmilesWriteParams(), fields)


def _mapped_smiles(mol: Chem.Mol, smiles: str) -> str:
    """SMILES with all hydrogens and atom map numbers 1..n in the order of the atoms.

    Args:
        mol: The molecule with its hydrogens.
        smiles: Its canonical SMILES or CXSMILES.
    """
    if "|" in smiles and is_atropisomer(mol):
        mapped = Chem.Mol(mol)
        mapped.RemoveAllConformers()
        for atom in atoms_of(mapped):
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        fields = Chem.CXSmilesFields.CX_BOND_ATROPISOMER
        return Chem.MolToCXSmiles(mapped, Chem.SmilesWriteParams(), fields)
    # Atoms are in canonical order. All are in brackets; the numbers are put in as text, which
    # costs a fifth of setting them and ranking the atoms by them.
    text = Chem.MolToSmiles(mol, _ALL_IN_BRACKETS)
    order = mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")
    *atoms, end = text.split("]")
    numbered = (f"{atom}:{int(k) + 1}]" for atom, k in zip(atoms, order, strict=True))
    numbered_text = "".join(numbered) + end
    return with_allenes(numbered_text, mol) if may_have_allenes(smiles) else numbered_text


def store_topology(molecule: PreparedMolecule, graph: Graph) -> None:
    """Fill in elements, bonds and stereo of the molecule, from its graph with all hydrogens."""
    smiles = molecule.smiles or ""
    molecule.numbers = np.array(graph.numbers, np.int8)
    molecule.bonds = np.array(sorted(graph.pairs), np.int16).reshape(-1, 2)
    store_stereo(molecule, graph.mol)
    if _CHARGE.search(smiles):
        molecule.held_bonds = held_bonds(graph.mol)


def store_stereo(molecule: PreparedMolecule, mol: Chem.Mol) -> None:
    """Fill in stereo and mapped SMILES of the molecule, from it with all hydrogens."""
    smiles = molecule.smiles or ""
    molecule.mapped_smiles = _mapped_smiles(mol, smiles)
    # The SMILES tells whether there is any stereo; walking over all atoms costs more than to look.
    if "@" in smiles or "|" in smiles:
        molecule.chirality = centres(mol, axes="|" in smiles, allenes=may_have_allenes(smiles))
    if "/" in smiles or "\\" in smiles:
        molecule.double_bonds = double_bonds(mol)
