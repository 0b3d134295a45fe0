"""SMILES -> checked molecule with the constraints of its geometry, for an embedder elsewhere.

`prepare_constraints` does on a core what `prepare.prepare` does, but leaves the embedding to a
device; `choose_stereo` judges what came back. The words in the molecule's message are the same.
`on_a_core` is what the processes run that stand beside such an embedder.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from mlff_core.chem.allenes import read_back
from mlff_core.chem.constraints import (
    ContradictingBoundsError,
    EmbeddingConstraints,
    embedding_constraints,
)
from mlff_core.chem.constraints import constraining as constraints_in_stages
from mlff_core.chem.embed import molecule_seed, turn_and_prune
from mlff_core.chem.flexibility import conformers_of
from mlff_core.chem.free_stereo import choose_freely, is_free
from mlff_core.chem.mapped import molecule_of
from mlff_core.chem.molecule import ChemistrySettings, NotOkError, PreparedMolecule
from mlff_core.chem.prepare import (
    as_chosen,
    checking,
    noted,
    noting,
    prepare,
    store_stereo,
    store_topology,
)
from mlff_core.chem.rotamers import may_turn
from mlff_core.chem.stages import Stages, side_by_side
from mlff_core.chem.stereo import assign_undefined, has_given_stereo, open_stereo
from mlff_core.chem.variant import Variant
from mlff_core.status import MoleculeStatus, Reason

if TYPE_CHECKING:
    from mlff_core.chem.pool import EmbeddingPool

#: What RDKit may take for a molecule that the device could not embed: three tries of a second, so
#: that a hopeless molecule costs three. Those that it can do take it a tenth of one as a rule.
TRY_S: Final = 1
CONFORMERS_S: Final = 3
#: Attempts that a try has then, fewer for large molecules. The device had six: of 71 that it left
#: in 40,000, RDKit embeds 25, as many as with 15 for all of them, in half of the time.
ATTEMPTS: Final = 15
#: Molecules that travel to a core and back in one message, and those that are prepared there side
#: by side.
TOGETHER: Final = 8
SIDE_BY_SIDE: Final = 16
#: Molecules, a core, that are prepared before the device comes to them: it may take seconds for
#: those before, and they have no conformers yet.
AHEAD: Final = 1024


@dataclass
class ConstrainedMolecule(PreparedMolecule):
    """A molecule that waits for its geometry.

    Attributes:
        constraints: What an embedder needs; None if the molecule is not ok, or is one atom, whose
            geometry is there.
        seed: What all random numbers of its embedding are to come from.
        wanted: Conformers to embed.
        undefined_stereo: Whether stereo is undefined, which the first geometry decides. The
            InChIKey is not known before.
        binary: RDKit's own bytes of it with all hydrogens, if some of these are to be turned.
    """

    constraints: EmbeddingConstraints | None = None
    seed: int = 0
    wanted: int = 1
    undefined_stereo: bool = False
    binary: bytes | None = None

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, tuple]]:
        """What is known of it, and arrays as bytes: a third of the cost of pickling all."""
        known: dict[str, Any] = {}
        arrays: dict[str, tuple] = {}
        for name, value in self.__dict__.items():
            if isinstance(value, np.ndarray):
                arrays[name] = value.dtype.char, value.shape, value.tobytes()
            elif value is not None:
                known[name] = value
        return known, arrays

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, tuple]]) -> None:
        """Arrays as views of the bytes, which cannot be written."""
        known, arrays = state
        self.__dict__.update(_NOTHING_KNOWN)
        self.__dict__.update(known)
        for name, (kind, shape, data) in arrays.items():
            self.__dict__[name] = np.ndarray(shape, kind, data)


_NOTHING_KNOWN: Final = dict.fromkeys(field.name for field in fields(ConstrainedMolecule))


def prepare_constraints(
    record: int, input_id: str | None, smiles: str | Variant, settings: ChemistrySettings
) -> ConstrainedMolecule:
    """Check one SMILES and say what its geometry must satisfy; never raises on chemistry.

    Args:
        record: Position in the library, handed through.
        input_id: Identifier in the library, handed through.
        smiles: SMILES or CXSMILES, a name behind it is ignored; or a variant of one.
        settings: What is accepted.
    """
    [molecule] = prepare_together([(record, input_id, smiles)], settings)
    return molecule


def prepare_together(
    records: Sequence[tuple[int, str | None, str | Variant]], settings: ChemistrySettings
) -> list[ConstrainedMolecule]:
    """As `prepare_constraints` of each, which takes less time side by side."""
    molecules = [ConstrainedMolecule.of(*record) for record in records]
    with rdBase.BlockLogs():
        side_by_side([noted(m, partial(_prepare, m, settings)) for m in molecules])
    return molecules


def _prepare(
    molecule: ConstrainedMolecule, settings: ChemistrySettings, notes: list[str]
) -> Stages[None]:
    heavy = yield from checking(molecule, settings, notes)
    yield
    mol, hydrogenated = heavy.mol, Chem.AddHs(heavy.mol)
    molecule.seed = molecule_seed(settings.seed, molecule.smiles or "")
    molecule.wanted = conformers_of(mol, settings, notes)
    graph = heavy.with_hydrogens(hydrogenated)
    yield
    undefined = open_stereo(graph)
    if undefined is not None and is_free(graph, undefined):
        chosen = choose_freely(hydrogenated, undefined, molecule.seed)
        mol = as_chosen(molecule, mol, hydrogenated, chosen, notes)
        undefined = None
    molecule.undefined_stereo = undefined is not None
    yield
    if not molecule.undefined_stereo:
        molecule.inchikey = Chem.MolToInchiKey(mol) or None
    yield
    store_topology(molecule, graph)
    if molecule.n_atoms == 1:
        molecule.positions = np.zeros((1, 1, 3), np.float32)
        return
    if molecule.wanted > 1 and may_turn(molecule.numbers, molecule.bonds):
        molecule.binary = hydrogenated.ToBinary()
    yield
    try:
        stages = constraints_in_stages(hydrogenated, graph, smooth=False)
        molecule.constraints = yield from stages
    except ContradictingBoundsError as error:
        molecule.inchikey = molecule.inchikey or Chem.MolToInchiKey(mol) or None
        raise NotOkError(MoleculeStatus.FAILED, Reason.EMBEDDING_FAILED, str(error)) from None


def choose_stereo(
    molecule: ConstrainedMolecule, positions: NDArray[np.floating]
) -> ConstrainedMolecule | None:
    """The molecule with the stereo of its first geometry where its SMILES left it open.

    Args:
        molecule: As `prepare_constraints` gave it; it is changed.
        positions: Its first geometry, Å [n_atoms, 3].

    Returns:
        The molecule, its constraints those of the isomer if it is to have more conformers; None if
        stereo that was given came out wrong: the molecule is as it was, to be embedded again.
    """
    if not keeps_stereo(molecule, positions[None])[0]:
        return None
    if not molecule.undefined_stereo or molecule.status != MoleculeStatus.OK:
        return molecule
    with noting(molecule) as notes:
        mol = read_back(molecule.smiles or "")
        hydrogenated = Chem.AddHs(mol)
        conformer = Chem.Conformer(hydrogenated.GetNumAtoms())
        conformer.SetPositions(np.asarray(positions, np.float64))
        hydrogenated.AddConformer(conformer, assignId=True)
        chosen = assign_undefined(hydrogenated)
        mol = as_chosen(molecule, mol, hydrogenated, chosen, notes)
        molecule.inchikey = Chem.MolToInchiKey(mol) or None
        molecule.undefined_stereo = False
        store_stereo(molecule, hydrogenated)
        if chosen and molecule.wanted > 1:
            molecule.constraints = embedding_constraints(hydrogenated)
    return molecule


def keeps_stereo(molecule: PreparedMolecule, positions: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which geometries [n, n_atoms, 3] have the stereo that the molecule specifies, bool [n]."""
    return has_given_stereo(positions, molecule.chirality, molecule.double_bonds)


def not_embedded(molecule: ConstrainedMolecule, why: str) -> ConstrainedMolecule:
    """The molecule as failed, as it has no geometry for the reason that `why` says in words."""
    with noting(molecule) as notes:
        if molecule.inchikey is None:
            molecule.inchikey = Chem.MolToInchiKey(Chem.MolFromSmiles(molecule.smiles)) or None
        molecule.constraints = None
        notes.append(why)
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.EMBEDDING_FAILED
    return molecule


class CoreStep(Enum):
    """What a core is asked to do for an embedder on a device with what was prepared for it."""

    CHOOSE = "choose"
    FINISH = "finish"
    EMBED = "embed"


def constraining(
    records: Iterable[tuple[int, str | None, str | Variant]],
    pool: "EmbeddingPool",
    *,
    together: int = SIDE_BY_SIDE,
) -> Iterator[ConstrainedMolecule]:
    """Let the cores prepare records for a device, which they begin at once; in their order.

    Args:
        records: Position in the library, identifier and SMILES of each; or a variant of that.
        pool: Its processes run `on_a_core`.
        together: Molecules that travel in one message.
    """
    return pool.map(
        records, prepare_together, together=together, as_one=True, at_once=True, ahead=AHEAD
    )


def on_a_core(
    record: int,
    input_id: str | None,
    smiles: str | Variant,
    step: CoreStep,
    molecule: ConstrainedMolecule | None,
    positions: NDArray[np.floating] | None,
    settings: ChemistrySettings,
) -> PreparedMolecule | None:
    """Do one step of a molecule; never raises on chemistry.

    Args:
        record: Position in the library.
        input_id: Identifier in the library.
        smiles: As the library has it, or a variant of that.
        step: CHOOSE lets its first geometry decide undefined stereo. FINISH turns polar hydrogens
            and leaves out conformers that are the same. EMBED is the last resort: all of it, by
            RDKit, which has little time.
        molecule: As the step before left it; None for EMBED.
        positions: Its geometries, Å [n_conformers, n_atoms, 3]; None for EMBED.
        settings: What is accepted.

    Returns:
        The molecule; None if CHOOSE finds that stereo which was given came out wrong.
    """
    if molecule is None or positions is None:
        little = replace(
            settings,
            embed_timeout_s=TRY_S,
            embed_attempts=ATTEMPTS,
            conformers_timeout_s=CONFORMERS_S,
        )
        return prepare(record, input_id, smiles, little)
    if step is CoreStep.CHOOSE:
        return choose_stereo(molecule, positions[0])
    with noting(molecule):
        molecule.positions = _finished(molecule, positions, settings)
    molecule.binary = None
    return molecule


def _finished(
    molecule: PreparedMolecule, positions: NDArray[np.floating], settings: ChemistrySettings
) -> NDArray[np.float32]:
    """The geometries with rotamers of polar hydrogens among them, without those that are same."""

    def mol() -> Chem.Mol:
        if isinstance(molecule, ConstrainedMolecule) and molecule.binary:
            return Chem.Mol(molecule.binary)  # type: ignore[call-overload]  # the stub errs
        return molecule_of(molecule.mapped_smiles or "", molecule.numbers, {})

    given = np.asarray(positions, np.float64)
    kept = turn_and_prune(given, molecule.numbers, molecule.bonds, settings, mol)
    return kept.astype(np.float32)
