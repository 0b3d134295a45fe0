"""Starting conformers by distance geometry: ETKDGv3, and two more ways where that fails."""

import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.allenes import allene_rows
from mlff_core.chem.atoms import atoms_of
from mlff_core.chem.duplicates import distinct, sites
from mlff_core.chem.flexibility import conformers_of
from mlff_core.chem.hypervalent import hypervalent_bounds
from mlff_core.chem.impossible import stereo_in_the_way
from mlff_core.chem.molecule import ChemistrySettings, NotOkError
from mlff_core.chem.rotamers import Rotamers, may_turn
from mlff_core.chem.stereo import assign_undefined, centres, double_bonds, has_given_stereo
from mlff_core.status import MoleculeStatus, Reason

#: Conformers that one call of RDKit embeds: a call that runs out of time throws away all it found.
_CONFORMERS_PER_CALL: Final = 8
#: Seconds that each conformer has at least, where the molecule decides how many there are.
_SECONDS_A_CONFORMER: Final = 0.1
#: How much longer that may last by the clock: on a machine that is busy a process computes for a
#: part of the time, and is to come to the same conformers.
_PATIENCE: Final = 2
#: Atoms up to which a try has all attempts of the settings, of which each takes their square or
#: more, and the fewest of larger molecules.
_ATOMS_OF_MANY: Final = 24
_FEWEST_ATTEMPTS: Final = 3
#: Atoms up to which a try has the time of the settings; larger molecules have more in proportion.
_ATOMS_IN_TIME: Final = 50


class _Try(NamedTuple):
    """One way to embed.

    Attributes:
        name: For messages.
        random_coordinates: Start in a box instead of from distances within the bounds.
        knowledge: ETKDG's torsions and flat groups, or plain distance geometry.
        max_iterations: Attempts. What embeds at all mostly does so at once; a molecule that cannot
            exist costs all of them, some 10 to 30 ms each. They, and not the time, end a try, so
            that what comes out does not depend on how busy the machine is.
    """

    name: str
    random_coordinates: bool
    knowledge: bool
    max_iterations: int


#: Helicenes, fullerenes and strained rings break ETKDG's rules, but not the distance bounds.
_TRIES: Final = (
    _Try("ETKDGv3", random_coordinates=False, knowledge=True, max_iterations=60),
    _Try("random coordinates", random_coordinates=True, knowledge=True, max_iterations=30),
    _Try("plain distance geometry", random_coordinates=True, knowledge=False, max_iterations=30),
)

#: What a message says of how a molecule was embedded.
HOW_IT_WENT: Final = re.compile(
    r"embedded (?:from|by) [^;]* at the \w+ try"
    r"|stopped after \d+ conformers: the others took over \d+ s"
)

#: Conformers made until an allene has its hand; each is as likely to have it as not.
_HANDED: Final = 20

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


def molecule_seed(seed: int, smiles: str) -> int:
    """A seed for this molecule, the same wherever and whenever it is embedded."""
    digest = hashlib.blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1  # RDKit takes a signed int; negative means no seed


def embed(mol: Chem.Mol, settings: ChemistrySettings, seed: int, notes: list[str]) -> str:
    """Add conformers to `mol`, assign stereo that was undefined; says in words what that was.

    The first conformer decides undefined stereo: distance geometry falls into an isomer that can
    exist (a free choice would often put bridgeheads trans), the same one each time since the seed
    is fixed. No conformer is left whose stereo is not the one that is given.

    Raises:
        NotOkError: No try succeeded.
    """
    if mol.GetNumAtoms() == 1:
        mol.AddConformer(Chem.Conformer(1), assignId=True)
        return ""
    bounds = hypervalent_bounds(mol)
    given = centres(mol), double_bonds(mol)
    tries = []
    for one in _TRIES:
        attempts = _attempts(mol, settings, one)
        parameters = _embed_parameters(attempts, seed, one, bounds, _seconds(mol, settings))
        if _embed_first(mol, parameters, *given):
            break
        tries.append(_failures(parameters))
    else:
        raise _embedding_error(mol, tries, _seconds(mol, settings), seed)
    if tries:
        ordinal = ("second", "third")[len(tries) - 1]
        start = "from " + one.name if one.random_coordinates and one.knowledge else "by " + one.name
        notes.append(f"embedded {start} at the {ordinal} try")
    chosen = assign_undefined(mol)
    wanted = conformers_of(mol, settings, notes)
    if wanted > 1:
        in_time = _embed_others(mol, wanted, settings, seed, one, bounds)
        _set_positions(mol, turn_and_prune(_positions(mol), *_atoms(mol), settings, lambda: mol))
        if not in_time:
            notes.append(
                f"stopped after {mol.GetNumConformers()} conformers: "
                f"the others took over {_seconds_of_others(wanted, settings)} s"
            )
    return chosen


def _embed_first(
    mol: Chem.Mol,
    parameters: rdDistGeom.EmbedParameters,
    chirality: NDArray[np.int16],
    double_bonds: NDArray[np.int16],
) -> bool:
    """Add one conformer of the given stereo; where RDKit cannot be told of it, until it has it."""
    for again in range(_HANDED if allene_rows(mol) else 1):
        parameters.randomSeed = (parameters.randomSeed + bool(again)) % 2**31
        if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
            return False
        if has_given_stereo(_positions(mol), chirality, double_bonds).all():
            return True
        mol.RemoveAllConformers()
    return False


def _seconds(mol: Chem.Mol, settings: ChemistrySettings) -> int:
    """Limit of one try in whole seconds, as RDKit wants it."""
    return math.ceil(settings.embed_timeout_s * max(1.0, mol.GetNumAtoms() / _ATOMS_IN_TIME))


def _attempts(mol: Chem.Mol, settings: ChemistrySettings, one: _Try) -> int:
    """Attempts of one try."""
    if settings.embed_attempts is None:
        return one.max_iterations
    share = min(1.0, (_ATOMS_OF_MANY / mol.GetNumAtoms()) ** 2)
    wanted = max(_FEWEST_ATTEMPTS, round(settings.embed_attempts * share))
    return min(one.max_iterations, wanted)


def _positions(mol: Chem.Mol) -> NDArray[np.float64]:
    return np.array([conformer.GetPositions() for conformer in mol.GetConformers()])


def _embed_parameters(
    attempts: int,
    seed: int,
    one: _Try,
    bounds: NDArray[np.float64] | None,
    timeout_s: int,
) -> rdDistGeom.EmbedParameters:
    parameters = rdDistGeom.ETKDGv3()  # with its macrocycle torsions
    choices: dict[str, Any] = {
        "randomSeed": seed,
        "useRandomCoords": one.random_coordinates,
        "maxIterations": attempts,
        "timeout": timeout_s,
        "trackFailures": True,
        "numThreads": 1,
        "clearConfs": False,
    }
    if not one.knowledge:
        without = ("useExpTorsionAnglePrefs", "useBasicKnowledge", "useMacrocycleTorsions")
        choices |= dict.fromkeys((*without, "useMacrocycle14config"), False)
        choices["ignoreSmoothingFailures"] = True
    for name, value in choices.items():
        setattr(parameters, name, value)
    if bounds is not None:
        parameters.SetBoundsMat(bounds)
    return parameters


def _failures(parameters: rdDistGeom.EmbedParameters) -> Counter[str]:
    """How often each check failed since `parameters` were made."""
    return +Counter({_FAILURES[cause]: n for cause, n in enumerate(parameters.GetFailureCounts())})


def _embedding_error(
    mol: Chem.Mol, tries: list[Counter[str]], seconds: int, seed: int
) -> NotOkError:
    said = []
    timed_out = False
    for one, causes in zip(_TRIES, tries, strict=True):
        ran_out = causes.pop("EXCEEDED_TIMEOUT", 0) > 0
        timed_out |= ran_out
        text = f"{one.name}: " + (f"over {seconds} s, " if ran_out else "")
        if causes:
            (cause, n), *_ = causes.most_common(1)
            text += f"{_FAILURE_WORDS.get(cause, cause)} ({n} of {causes.total()} failures)"
        else:
            text += "no attempt ended" if ran_out else "the distance bounds contradict each other"
        said.append(text)
    reason = Reason.EMBEDDING_TIMEOUT if timed_out else Reason.EMBEDDING_FAILED
    said.append(stereo_in_the_way(mol, seed) or "look at its small rings and its double bonds")
    return NotOkError(MoleculeStatus.FAILED, reason, "; ".join(said))


def _seconds_of_others(wanted: int, settings: ChemistrySettings) -> int:
    """Limit of all conformers after the first together, in seconds of computing."""
    if settings.n_conformers is not None:
        return settings.conformers_timeout_s
    return max(settings.conformers_timeout_s, math.ceil(_SECONDS_A_CONFORMER * wanted))


def _embed_others(
    mol: Chem.Mol,
    wanted: int,
    settings: ChemistrySettings,
    seed: int,
    one: _Try,
    bounds: NDArray[np.float64] | None,
) -> bool:
    """Add the conformers after the first; False if the time was over before the last."""
    limit = _seconds_of_others(wanted, settings)
    end, latest = time.thread_time() + limit, time.monotonic() + _PATIENCE * limit
    given = centres(mol), double_bonds(mol)
    missing = wanted - 1
    # RDKit takes no heed of an allene's hand: half of what it makes is the other one.
    most = missing * (_HANDED if allene_rows(mol) else 1)
    while missing > 0 and most > 0:
        seed = (seed + 1) % 2**31
        # RDKit looks at the clock.
        by_clock = min(_PATIENCE * (end - time.thread_time()), latest - time.monotonic())
        seconds_left = math.ceil(by_clock)
        parameters = _embed_parameters(
            _attempts(mol, settings, one), seed, one, bounds, max(1, seconds_left)
        )
        n_now = min(missing, _CONFORMERS_PER_CALL)
        if seconds_left > 0:
            rdDistGeom.EmbedMultipleConfs(mol, n_now, parameters)
        if seconds_left <= 0 or _failures(parameters)["EXCEEDED_TIMEOUT"]:
            break
        most -= n_now
        if most >= missing:
            keep = has_given_stereo(_positions(mol), *given)
            _remove(mol, np.flatnonzero(~keep).tolist())
            missing = wanted - mol.GetNumConformers()
        else:
            missing -= n_now
    keep = has_given_stereo(_positions(mol), *given)
    _remove(mol, np.flatnonzero(~keep).tolist())
    return missing <= 0


def turn_and_prune(
    positions: NDArray[np.float64],
    numbers: NDArray[np.integer],
    bonds: NDArray[np.integer],
    settings: ChemistrySettings,
    mol: Callable[[], Chem.Mol],
) -> NDArray[np.float64]:
    """Conformers that differ in heavy atoms and polar hydrogens, rotamers of these among them.

    Places that pruning leaves empty go to further hydrogen bonds.

    Args:
        positions: Å, [n_conformers, n_atoms, 3].
        numbers: Atomic numbers, [n_atoms].
        bonds: [n_bonds, 2].
        settings: Say how near conformers that are the same may be.
        mol: The molecule with all hydrogens, made if there are hydrogens that turn.
    """
    has_rotamers = may_turn(numbers, bonds)
    rotamers = Rotamers(mol(), positions) if has_rotamers else None
    turned = positions if rotamers is None else rotamers.turned()
    if not settings.prune_rmsd_angstrom:
        return turned
    these = sites(numbers, bonds)
    kept = distinct(turned, these, settings.prune_rmsd_angstrom)
    further = [] if rotamers is None else rotamers.more(len(positions) - len(kept), of=kept)
    if not further:
        return turned[kept]
    starts = np.concatenate([turned[kept], further])
    return starts[distinct(starts, these, settings.prune_rmsd_angstrom)]


def _atoms(mol: Chem.Mol) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Atomic numbers [n_atoms] and bonds [n_bonds, 2]."""
    numbers = np.array([atom.GetAtomicNum() for atom in atoms_of(mol)])
    return numbers, np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol)))


def _set_positions(mol: Chem.Mol, positions: NDArray[np.float64]) -> None:
    """Let these be the molecule's conformers."""
    mol.RemoveAllConformers()
    for x in positions:
        conformer = Chem.Conformer(len(x))
        conformer.SetPositions(x)
        mol.AddConformer(conformer, assignId=True)


def _remove(mol: Chem.Mol, places: list[int]) -> None:
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    for place in places:
        mol.RemoveConformer(ids[place])
