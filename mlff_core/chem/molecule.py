"""SMILES -> checked molecule with starting conformers, or the reason why there is none.

The order of the checks: parse, largest organic fragment, size, elements, charge, radicals,
embedding. Whatever is decided along the way (a salt left out, a stereocentre chosen) is told in the
molecule's message.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import QED, rdDistGeom, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from mlff_core.status import MoleculeStatus, Reason

#: No molecule that fits the size limit needs more SMILES characters an atom; longer lines are not
#: even parsed.
_MAX_CHARACTERS_PER_ATOM: Final = 40
#: Conformers that one call of RDKit embeds: a call that runs out of time throws away all it found.
_CONFORMERS_PER_CALL: Final = 8
#: Attempts from random coordinates. Molecules that they rescue need few; the others, mostly of
#: impossible stereo, would spend as long here as in the first try.
_RANDOM_ATTEMPTS: Final = 100

#: RDKit's embedding checks in words, in the order of `rdDistGeom.EmbedFailureCauses`.
_FAILURE_WORDS: Final = {
    "INITIAL_COORDS": "no starting coordinates fit the distance bounds",
    "FIRST_MINIMIZATION": "the first minimisation did not get the distances right",
    "CHECK_TETRAHEDRAL_CENTERS": "atoms came out flat instead of tetrahedral",
    "CHECK_CHIRAL_CENTERS": "stereocentres came out wrong",
    "MINIMIZE_FOURTH_DIMENSION": "the fourth dimension did not vanish",
    "ETK_MINIMIZATION": "the torsion minimisation failed",
    "FINAL_CHIRAL_BOUNDS": "the final distances around stereocentres are out of bounds",
    "FINAL_CENTER_IN_VOLUME": "an atom lies outside its neighbours",
    "LINEAR_DOUBLE_BOND": "a double bond came out linear",
    "BAD_DOUBLE_BOND_STEREO": "a double bond came out with the wrong E/Z",
    "CHECK_CHIRAL_CENTERS2": "stereocentres came out wrong after the minimisation",
    "EXCEEDED_TIMEOUT": "the time limit",
    "MINIMIZATION": "the minimisation failed",
    "KTERM_VIOLATION": "improper torsions are violated",
    "CLASH": "atoms clash",
}
_FAILURES: Final = {int(cause): name for name, cause in rdDistGeom.EmbedFailureCauses.names.items()}
_CHIRAL_TAGS: Final = {Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW}
#: +1 where a double bond's stereo atoms are on one side, -1 where not.
_SIDES: Final = {
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOCIS: 1,
    Chem.BondStereo.STEREOE: -1,
    Chem.BondStereo.STEREOTRANS: -1,
}
_STEREO_TYPES: Final = (Chem.StereoType.Atom_Tetrahedral, Chem.StereoType.Bond_Double)


@dataclass(frozen=True)
class ChemistrySettings:
    """How a molecule is checked and embedded. Validated when made.

    Attributes:
        n_conformers: Conformers to embed; pruning may leave fewer.
        max_atoms: Largest molecule, hydrogens counted.
        seed: A seed per molecule is derived from this one and the canonical SMILES, so that a
            geometry depends neither on the order of the records nor on the shard.
        prune_rmsd_angstrom: Conformers closer than this (heavy atoms, symmetry counted) are one.
        embed_timeout_s: RDKit's own limit in whole seconds, for each try at the first conformer and
            for all others together.
        hard_timeout_s: Limit for the whole molecule, enforced by the pool, which kills the worker
            process.
        elements: Atomic numbers that the model knows.
        min_charge: Lowest total charge that the model knows.
        max_charge: Highest total charge that the model knows.
    """

    n_conformers: int = 1
    max_atoms: int = 250
    seed: int = 20260101
    prune_rmsd_angstrom: float = 0.3
    embed_timeout_s: int = 10
    hard_timeout_s: float = 60.0
    elements: tuple[int, ...] = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53)
    min_charge: int = -3
    max_charge: int = 3

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, naming the field.

        Raises:
            ValueError: A field is out of its range.
        """
        for name in ("n_conformers", "max_atoms", "embed_timeout_s", "hard_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")
        if self.prune_rmsd_angstrom < 0:
            raise ValueError(
                f"prune_rmsd_angstrom: expected 0 or more, found {self.prune_rmsd_angstrom}"
            )
        if self.embed_timeout_s != int(self.embed_timeout_s):
            raise ValueError(
                f"embed_timeout_s: expected whole seconds, found {self.embed_timeout_s}"
            )
        if self.min_charge > self.max_charge:
            raise ValueError(
                f"min_charge: expected at most max_charge {self.max_charge}, "
                f"found {self.min_charge}"
            )


@dataclass
class PreparedMolecule:
    """One input record after the chemistry: its columns of the table `molecules`, and its geometry.

    Attributes:
        smiles: Canonical isomeric SMILES of what was really embedded; None if nothing was parsed.
        message: Why the molecule is not ok, or what was decided on the way to an ok one.
        numbers: Atomic numbers, int8 [n_atoms].
        positions: Starting geometries in Å, float32 [n_conformers, n_atoms, 3].
        bonds: Bonded pairs of the SMILES, hydrogens included, int16 [n_bonds, 2].
        chirality: Specified tetrahedral centres, int16 [n_centres, 4]: atoms a b c d such that the
            determinant of (a-d, b-d, c-d) is positive. d is the fourth neighbour, or the centre
            itself where it has but three.
        double_bonds: Specified double bonds, int16 [n_double_bonds, 5]: atoms i j k l with j=k the
            double bond, then +1 where i and l are on one side (cis), -1 where not.
        timings_s: Wall seconds spent on this molecule.
    """

    record: int
    input_id: str | None
    input_smiles: str
    smiles: str | None = None
    inchikey: str | None = None
    formula: str | None = None
    charge: int | None = None
    n_atoms: int | None = None
    n_heavy_atoms: int | None = None
    n_rotatable_bonds: int | None = None
    mol_weight: float | None = None
    clogp: float | None = None
    tpsa: float | None = None
    qed: float | None = None
    status: MoleculeStatus = MoleculeStatus.OK
    reason: Reason | None = None
    message: str | None = None
    numbers: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    positions: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0, 3), np.float32))
    bonds: NDArray[np.int16] = field(default_factory=lambda: np.empty((0, 2), np.int16))
    chirality: NDArray[np.int16] = field(default_factory=lambda: np.empty((0, 4), np.int16))
    double_bonds: NDArray[np.int16] = field(default_factory=lambda: np.empty((0, 5), np.int16))
    timings_s: float = 0.0


class _NotOkError(Exception):
    """Ends the preparation of a molecule: `rejected` or `failed`, and why."""

    def __init__(self, status: MoleculeStatus, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def _rejected(reason: Reason, message: str) -> _NotOkError:
    return _NotOkError(MoleculeStatus.REJECTED, reason, message)


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
    start = time.perf_counter()
    molecule = PreparedMolecule(record, input_id, smiles)
    notes: list[str] = []
    try:
        with rdBase.BlockLogs():
            _prepare(molecule, settings, notes)
    except _NotOkError as stop:
        molecule.status, molecule.reason = stop.status, stop.reason
        notes.append(str(stop))
    except MemoryError:
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.OUT_OF_MEMORY
        notes.append("the memory was not enough for this molecule")
    except Exception as error:  # whatever RDKit throws is this molecule's fate, not the shard's
        molecule.status, molecule.reason = MoleculeStatus.FAILED, Reason.INTERNAL_ERROR
        notes.append(f"{type(error).__name__}: {error}")
    molecule.message = "; ".join(notes) or None
    molecule.timings_s = time.perf_counter() - start
    return molecule


def _prepare(molecule: PreparedMolecule, settings: ChemistrySettings, notes: list[str]) -> None:
    mol = _largest_fragment(_parse(molecule.input_smiles, settings), notes)
    molecule.n_heavy_atoms = mol.GetNumHeavyAtoms()
    molecule.n_atoms = mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    # Before anything that costs more than linear time.
    if molecule.n_atoms > settings.max_atoms:
        raise _rejected(
            Reason.TOO_LARGE,
            f"{molecule.n_atoms} atoms, the limit is {settings.max_atoms}",
        )
    if ":" in molecule.input_smiles:  # maybe atom maps, which are labels and no chemistry
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    # From here on atoms stand in canonical order: nothing depends on how the input was written.
    molecule.smiles = Chem.MolToSmiles(mol)
    mol = Chem.MolFromSmiles(molecule.smiles) or mol
    _describe(molecule, mol)
    try:
        _check_domain(molecule, mol, settings, notes)
        hydrogenated = Chem.AddHs(mol)
        seed = _seed(settings.seed, molecule.smiles)
        chosen = _embed(hydrogenated, settings, seed, notes)
        smiles = Chem.MolToSmiles(Chem.RemoveHs(hydrogenated)) if chosen else molecule.smiles
        if smiles != molecule.smiles:  # in adamantane, say, all "choices" are the same molecule
            notes.append(f"chose one isomer: {chosen} had no stereo")
            molecule.smiles = smiles
            mol = Chem.MolFromSmiles(smiles) or mol
    finally:
        molecule.inchikey = Chem.MolToInchiKey(mol) or None
    _store_geometry(molecule, hydrogenated)


def _parse(line: str, settings: ChemistrySettings) -> Chem.Mol:
    smiles, tail = [*(line or "").split(maxsplit=1), "", ""][:2]
    if not smiles:
        raise _rejected(Reason.EMPTY, "there is no SMILES")
    if not (smiles.isascii() and smiles.isprintable()):
        position, character = next(
            (i, c) for i, c in enumerate(smiles, 1) if not (c.isascii() and c.isprintable())
        )
        raise _rejected(
            Reason.INVALID_SMILES,
            f"character {character!a} at position {position} cannot be part of a SMILES",
        )
    longest = _MAX_CHARACTERS_PER_ATOM * settings.max_atoms
    if len(smiles) > longest:
        raise _rejected(
            Reason.TOO_LARGE,
            f"{len(smiles)} characters, more than {settings.max_atoms} atoms can need",
        )
    parameters = Chem.SmilesParserParams()
    parameters.strictCXSMILES = False  # type: ignore[assignment]  # the stub errs
    if tail.startswith("|"):  # CXSMILES; anything else is a name
        smiles = f"{smiles} {tail}"
    with rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromSmiles(smiles, parameters)
    if mol is None:
        raise _rejected(Reason.INVALID_SMILES, _first_sentence(log.messages))
    if mol.GetNumAtoms() == 0:
        raise _rejected(Reason.EMPTY, "the SMILES holds no atom")
    return mol


def _first_sentence(log: str) -> str:
    """RDKit's own words from its error log, without time stamps, repetitions and the drawing."""
    lines = [line.partition("] ")[2] or line for line in log.splitlines() if line.strip()]
    said = lines[0] if lines else "RDKit cannot read it"
    said = said.removeprefix("SMILES Parse Error: ").partition(" while parsing")[0]
    place = next((line for line in lines if "around position" in line), None)
    if place:
        said += f" at position {place.partition('around position')[2].strip(' :')}"
    return said.partition(" for input")[0][:300]


def _largest_fragment(mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) == 1:
        return mol
    kept = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)
    left_out = Counter(
        Chem.MolToSmiles(fragment) for fragment in Chem.GetMolFrags(mol, asMols=True)
    )
    left_out.subtract([Chem.MolToSmiles(kept)])
    names = [f"{count} x {name}" if count > 1 else name for name, count in (+left_out).items()]
    text = ", ".join(names)
    notes.append(
        f"kept the largest organic fragment of {len(fragments)}, left out "
        + (text if len(text) <= 200 else f"{text[:200]}...")
    )
    return kept


def _describe(molecule: PreparedMolecule, mol: Chem.Mol) -> None:
    """Fill the columns that depend on the bonds alone."""
    molecule.formula = rdMolDescriptors.CalcMolFormula(mol)
    molecule.charge = Chem.GetFormalCharge(mol)
    molecule.n_rotatable_bonds = rdMolDescriptors.CalcNumRotatableBonds(mol)
    molecule.mol_weight = rdMolDescriptors._CalcMolWt(mol)
    molecule.clogp = rdMolDescriptors.CalcCrippenDescriptors(mol)[0]
    molecule.tpsa = rdMolDescriptors.CalcTPSA(mol)
    molecule.qed = _qed(
        mol, molecule.mol_weight, molecule.clogp, molecule.tpsa, molecule.n_rotatable_bonds
    )


def _qed(mol: Chem.Mol, mol_weight: float, clogp: float, tpsa: float, n_rotatable: int) -> float:
    """QED as `rdkit.Chem.QED.qed` gives it, without computing again what is known."""
    aromatic = Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings)
    return QED.qed(
        mol,
        qedProperties=QED.QEDproperties(
            MW=mol_weight,
            ALOGP=clogp,
            HBA=sum(len(mol.GetSubstructMatches(pattern)) for pattern in QED.Acceptors),
            HBD=rdMolDescriptors.CalcNumHBD(mol),
            PSA=tpsa,
            ROTB=n_rotatable,
            AROM=len(Chem.GetSSSR(aromatic)),
            ALERTS=sum(mol.HasSubstructMatch(alert) for alert in QED.StructuralAlerts),
        ),
    )


def _check_domain(
    molecule: PreparedMolecule, mol: Chem.Mol, settings: ChemistrySettings, notes: list[str]
) -> None:
    """Reject what the model does not know. Isotopes pass: they share the plain element's energy."""
    atoms = [
        (atom.GetAtomicNum(), atom.GetNumRadicalElectrons(), atom.GetIsotope())
        for atom in mol.GetAtoms()
    ]
    numbers, radical_electrons, isotopes = zip(*atoms, strict=True)
    elements = {*numbers, 1} if molecule.n_atoms != len(atoms) else {*numbers}
    unknown = sorted(elements.difference(settings.elements))
    if unknown:
        raise _rejected(
            Reason.UNSUPPORTED_ELEMENT,
            f"the model does not know {_symbols(unknown)}, it knows {_symbols(settings.elements)}",
        )
    charge = molecule.charge or 0
    if not settings.min_charge <= charge <= settings.max_charge:
        raise _rejected(
            Reason.UNSUPPORTED_CHARGE,
            f"total charge {charge:+d}, the model knows {settings.min_charge:+d} "
            f"to {settings.max_charge:+d}",
        )
    if molecule.n_heavy_atoms == 0 and charge == molecule.n_atoms:
        raise _rejected(Reason.UNSUPPORTED_CHARGE, "there is no electron in it")
    unpaired = sum(radical_electrons)
    if unpaired:
        raise _rejected(
            Reason.RADICAL, f"{unpaired} unpaired electron{'s' if unpaired > 1 else ''}"
        )
    if any(isotopes):
        names = {
            f"{isotope}{_symbols([number])}"
            for number, isotope in zip(numbers, isotopes, strict=True)
            if isotope
        }
        notes.append(f"isotopes {', '.join(sorted(names))} are computed as the plain elements")


def _symbols(numbers: Iterable[int]) -> str:
    table = Chem.GetPeriodicTable()
    names = (
        table.GetElementSymbol(number) if number else "* (wildcard or attachment point)"
        for number in numbers
    )
    return " ".join(names)


def _seed(seed: int, smiles: str) -> int:
    digest = hashlib.blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1  # RDKit takes a signed int; negative means no seed


def _embed(mol: Chem.Mol, settings: ChemistrySettings, seed: int, notes: list[str]) -> str:
    """Add conformers to `mol`, assign stereo that was undefined; says in words what that was.

    The first conformer decides undefined stereo: distance geometry falls into an isomer that can
    exist (a free choice would often put bridgeheads trans), the same one each time since the seed
    is fixed.
    """
    if mol.GetNumAtoms() == 1:
        mol.AddConformer(Chem.Conformer(1), assignId=True)
        return ""
    tries = []
    for random_coordinates in (False, True):
        parameters = _embed_parameters(settings, seed, random_coordinates)
        if rdDistGeom.EmbedMolecule(mol, parameters) >= 0:
            break
        tries.append(_failures(parameters))
    else:
        raise _embedding_error(tries, settings)
    if tries:
        notes.append("embedded from random coordinates at the second try")
    chosen = _assign_undefined_stereo(mol)
    if settings.n_conformers > 1:
        _embed_others(mol, settings, seed, random_coordinates, notes)
    return chosen


def _embed_parameters(
    settings: ChemistrySettings, seed: int, random_coordinates: bool, timeout_s: int | None = None
) -> rdDistGeom.EmbedParameters:
    parameters = rdDistGeom.ETKDGv3()  # with its macrocycle torsions
    choices = {
        "randomSeed": seed,
        "useRandomCoords": random_coordinates,
        "maxIterations": _RANDOM_ATTEMPTS if random_coordinates else 0,  # 0: 10 an atom
        "timeout": int(settings.embed_timeout_s) if timeout_s is None else timeout_s,
        "trackFailures": True,
        "numThreads": 1,
        "pruneRmsThresh": settings.prune_rmsd_angstrom or -1.0,
        "clearConfs": False,  # pruning compares with the conformers that are there
    }
    for name, value in choices.items():
        setattr(parameters, name, value)
    return parameters


def _failures(parameters: rdDistGeom.EmbedParameters) -> Counter[str]:
    """How often each check failed since `parameters` were made."""
    return +Counter({_FAILURES[cause]: n for cause, n in enumerate(parameters.GetFailureCounts())})


def _embedding_error(tries: list[Counter[str]], settings: ChemistrySettings) -> _NotOkError:
    said = []
    timed_out = False
    for start, causes in zip(("ETKDGv3", "random coordinates"), tries, strict=True):
        ran_out = causes.pop("EXCEEDED_TIMEOUT", 0) > 0
        timed_out |= ran_out
        text = f"{start}: " + (f"over {settings.embed_timeout_s} s, " if ran_out else "")
        if causes:
            (cause, n), *_ = causes.most_common(1)
            text += f"{_FAILURE_WORDS.get(cause, cause)} ({n} of {causes.total()} failures)"
        else:
            text += "no attempt ended" if ran_out else "the distance bounds contradict each other"
        said.append(text)
    reason = Reason.EMBEDDING_TIMEOUT if timed_out else Reason.EMBEDDING_FAILED
    return _NotOkError(MoleculeStatus.FAILED, reason, "; ".join(said))


def _assign_undefined_stereo(mol: Chem.Mol) -> str:
    undefined = _stereo(mol, defined=False)
    if not undefined:
        return ""
    Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
    # Not all that looks like stereo is: an allene's double bonds, for one, have no E and Z.
    chosen = Counter(kind for kind, _ in undefined & _stereo(mol, defined=True))
    words = [
        f"{n} {name}{'s' if n > 1 else ''}"
        for name, n in (
            ("stereocentre", chosen[Chem.StereoType.Atom_Tetrahedral]),
            ("double bond", chosen[Chem.StereoType.Bond_Double]),
        )
        if n
    ]
    return " and ".join(words)


def _stereo(mol: Chem.Mol, *, defined: bool) -> set[tuple[Chem.StereoType, int]]:
    """Kind and atom or bond of each centre and double bond whose stereo is, or is not, defined."""
    return {
        (info.type, info.centeredOn)
        for info in Chem.FindPotentialStereo(mol)
        if info.type in _STEREO_TYPES
        and (info.specified == Chem.StereoSpecified.Specified) == defined
    }


def _embed_others(
    mol: Chem.Mol,
    settings: ChemistrySettings,
    seed: int,
    random_coordinates: bool,
    notes: list[str],
) -> None:
    """Add the conformers after the first, those that are new by RMSD, until the time is over."""
    deadline = time.monotonic() + settings.embed_timeout_s
    missing = settings.n_conformers - 1
    while missing > 0:
        seed = (seed + 1) % 2**31
        seconds_left = math.ceil(deadline - time.monotonic())
        parameters = _embed_parameters(settings, seed, random_coordinates, max(1, seconds_left))
        n_now = min(missing, _CONFORMERS_PER_CALL)
        if seconds_left > 0:
            rdDistGeom.EmbedMultipleConfs(mol, n_now, parameters)
        if seconds_left <= 0 or _failures(parameters)["EXCEEDED_TIMEOUT"]:
            notes.append(
                f"stopped after {mol.GetNumConformers()} conformers: "
                f"the others took over {settings.embed_timeout_s} s"
            )
            return
        missing -= n_now


def _store_geometry(molecule: PreparedMolecule, mol: Chem.Mol) -> None:
    molecule.numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int8)
    molecule.positions = np.array(
        [conformer.GetPositions() for conformer in mol.GetConformers()], np.float32
    )
    molecule.bonds = np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol))).astype(np.int16)
    # The SMILES tells whether there is any stereo; walking over all atoms costs more than to look.
    smiles = molecule.smiles or ""
    if "@" in smiles:
        centres = [_centre(atom) for atom in mol.GetAtoms() if atom.GetChiralTag() in _CHIRAL_TAGS]
        molecule.chirality = np.array(centres, np.int16).reshape(-1, 4)
    if "/" in smiles or "\\" in smiles:
        double_bonds = [_double_bond(bond) for bond in mol.GetBonds() if bond.GetStereo() in _SIDES]
        molecule.double_bonds = np.array(double_bonds, np.int16).reshape(-1, 5)


def _centre(atom: Chem.Atom) -> list[int]:
    """Atoms a b c d around a stereocentre with a positive determinant of (a-d, b-d, c-d)."""
    around = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
    around = [*around, atom.GetIdx()][:4]
    if atom.GetChiralTag() == Chem.ChiralType.CHI_TETRAHEDRAL_CW:
        around[:2] = around[1::-1]
    return around


def _double_bond(bond: Chem.Bond) -> list[int]:
    first, last = bond.GetStereoAtoms()
    side = _SIDES[bond.GetStereo()]
    return [first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last, side]
