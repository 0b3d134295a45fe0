"""A record to its variants: the structures that are computed for it, in the worker processes.

The steps are functions from one structure to several, in the order of `STEPS`. What they say of a
record stands in the message of each of its rows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from rdkit import Chem, rdBase

from mlff_core.chem.allenes import allene_marks, may_have_allenes
from mlff_core.chem.embed import molecule_seed
from mlff_core.chem.isomers import isomers
from mlff_core.chem.molecule import ChemistrySettings, NotOkError, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import read, written
from mlff_core.chem.protonation import protomers
from mlff_core.chem.tautomers import tautomers
from mlff_core.chem.variant import Variant
from mlff_core.status import Flag, VariantKind

#: What is asked of the embedding: position in the library, identifier, SMILES or a variant.
Source = tuple[int, str | None, str | Variant]


@dataclass(frozen=True)
class Structure:
    """One structure on its way to a variant.

    Attributes:
        mol: Without hydrogens.
        kinds: What makes it another one than the record says, in the order of the steps.
        notes: What was done so far, in words.
        weight: Its share at the pH; None if none was asked for.
        margin: pH units between the dominant protonation state and the next.
        n_left_out: Structures that stand for it and are not computed, about.
        one_possible: Whether stereo that looks open is none: amantadine's, where rings allow one
            isomer of eight.
    """

    mol: Chem.Mol
    kinds: tuple[VariantKind, ...] = ()
    notes: tuple[str, ...] = ()
    weight: float | None = None
    margin: float | None = None
    n_left_out: int = 0
    one_possible: bool = False


Step = Callable[[Structure, ChemistrySettings], list[Structure]]


def tautomers_of(structure: Structure, settings: ChemistrySettings) -> list[Structure]:
    """The structure as it is given, then its other tautomers."""
    if not settings.expansion.tautomers:
        return [structure]
    try:
        found = tautomers(structure.mol)
    except RuntimeError as error:  # RDKit's invariants, at nitroalkenes for one
        told = str(error).strip().partition("\n")[0]
        note = f"tautomers could not be enumerated: {told}"
        return [replace(structure, notes=(*structure.notes, note))]
    if not found.complete:
        note = "not all tautomers were looked at"
        structure = replace(structure, notes=(*structure.notes, note), n_left_out=1)
    kinds = (*structure.kinds, VariantKind.TAUTOMER)
    return [structure, *(replace(structure, mol=mol, kinds=kinds) for mol in found.mols)]


def protonation_states(structure: Structure, settings: ChemistrySettings) -> list[Structure]:
    """The states in water, the dominant one first."""
    ph = settings.expansion.ph
    if ph is None:
        return [structure]
    found = protomers(structure.mol, ph, settings.expansion.ph_window)
    own = Chem.MolToSmiles(structure.mol)
    return [
        replace(
            structure,
            mol=structure.mol if as_given else state.mol,
            kinds=structure.kinds if as_given else (*structure.kinds, VariantKind.PROTOMER),
            weight=state.weight,
            margin=found.margin,
        )
        for state in found.states
        for as_given in [Chem.MolToSmiles(state.mol) == own]
    ]


def stereoisomers(structure: Structure, settings: ChemistrySettings) -> list[Structure]:
    """The isomers where stereo is open."""
    if settings.expansion.stereo == "one":
        return [structure]
    seed = molecule_seed(settings.seed, Chem.MolToSmiles(structure.mol))
    found = isomers(structure.mol, settings, seed)
    if found.n_open == 1:
        return [structure]
    about = "" if found.exact else "up to "
    if not found.mols:
        return [
            replace(
                structure,
                notes=(
                    *structure.notes,
                    f"none of {found.n_impossible} stereoisomers that were tried could be embedded "
                    f"in a few attempts, of {about}{found.n_open}: left open",
                ),
            )
        ]
    n_left_out = found.n_open - found.n_impossible - len(found.mols)
    if len(found.mols) == 1 and n_left_out <= 0 and found.exact:
        return [replace(structure, one_possible=True)]
    notes = structure.notes
    if found.n_impossible:
        tried = found.n_impossible + len(found.mols)
        notes += (f"{found.n_impossible} of {tried} stereoisomers cannot exist in these rings",)
    if n_left_out > 0:
        notes += (f"{len(found.mols)} of {about}{found.n_open} stereoisomers",)
    if settings.expansion.stereo == "diastereomers":
        notes += ("one of each pair of mirror images",)
    kinds = (*structure.kinds, VariantKind.STEREOISOMER)
    return [
        replace(
            structure,
            mol=mol,
            kinds=kinds,
            notes=notes,
            n_left_out=structure.n_left_out + max(n_left_out, 0),
        )
        for mol in found.mols
    ]


#: Stereo comes last: other steps decide what is a centre.
STEPS: Final[dict[str, Step]] = {
    "tautomers": tautomers_of,
    "protonation": protonation_states,
    "stereo": stereoisomers,
}


def expand(
    record: int, input_id: str | None, smiles: str, settings: ChemistrySettings
) -> list[Variant]:
    """The structures that are computed for a record; empty if that is the one that stands there.

    Args:
        record: Position in the library.
        input_id: Identifier in the library.
        smiles: SMILES or CXSMILES as the library has it.
        settings: What is accepted and wanted.
    """
    molecule = PreparedMolecule(record, input_id, smiles)
    notes: list[str] = []
    with rdBase.BlockLogs():
        try:
            mol = read(molecule, smiles, settings, notes)
        except NotOkError:  # said by the row of the record itself
            return []
        start = Structure(_in_order(mol))
        structures = [start]
        for step in STEPS.values():
            structures = _fair_share(
                [step(structure, settings) for structure in structures],
                settings.expansion.max_variants,
            )
    if structures == [start]:
        return []
    if settings.expansion.stereo != "one" and Flag.MIXTURE_OF_ISOMERS in molecule.flags:
        molecule.flags.remove(Flag.MIXTURE_OF_ISOMERS)  # its isomers are computed
        notes = [note for note in notes if not note.startswith("the input is")]
    if may_have_allenes(smiles) and allene_marks(mol):
        notes.append("the hand of an allene is not kept in several structures of a record")
        molecule.flags.append(Flag.STEREO_NOT_KEPT)
    return [
        Variant(
            input_smiles=smiles,
            smiles=written(structure.mol, smiles),
            parent=written(mol, smiles),
            number=number,
            n_variants=len(structures),
            weight=structure.weight,
            margin=structure.margin,
            kind="+".join(structure.kinds) or VariantKind.AS_GIVEN,
            message="; ".join((*notes, *structure.notes)) or None,
            one_possible=structure.one_possible,
            flags=(
                *molecule.flags,
                *([Flag.VARIANTS_LEFT_OUT] if structure.n_left_out else []),
            ),
        )
        for number, structure in enumerate(structures)
    ]


def expanded(
    records: Iterable[tuple[int, str | None, str]],
    pool: EmbeddingPool,
    ended: list[PreparedMolecule],
) -> Iterator[Source]:
    """What is to be embedded for some records.

    Args:
        records: Position in the library, identifier and SMILES of each.
        pool: Its processes expand them.
        ended: Gets the records whose expansion did not end.
    """
    asked = list(records)
    for (record, input_id, smiles), found in zip(asked, pool.map(asked, do=expand), strict=True):
        if isinstance(found, PreparedMolecule):
            ended.append(found)
        else:
            for source in found or [smiles]:
                yield record, input_id, source


def _in_order(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with its atoms in canonical order: nothing depends on how it was written."""
    fields = Chem.CXSmilesFields.CX_BOND_ATROPISOMER | Chem.CXSmilesFields.CX_ENHANCEDSTEREO
    text = Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), fields)
    return Chem.MolFromSmiles(text) or mol


def _fair_share(groups: list[list[Structure]], limit: int) -> list[Structure]:
    """At most so many structures, of each group about as many, in the order of the groups.

    Args:
        groups: What came of each structure, what matters first, first.
        limit: How many there may be.
    """
    n_all = sum(map(len, groups))
    if n_all <= limit:
        return [structure for group in groups for structure in group]
    shares = [0] * len(groups)
    for k in range(max(map(len, groups))):
        for g, group in enumerate(groups):
            if k < len(group) and sum(shares) < limit:
                shares[g] += 1
    kept = [group[:share] for group, share in zip(groups, shares, strict=True)]
    left_out = n_all - limit
    return [
        replace(
            structure,
            n_left_out=structure.n_left_out + left_out,
            notes=(*structure.notes, f"{limit} of {n_all} variants"),
        )
        for group in kept
        for structure in group
    ]
