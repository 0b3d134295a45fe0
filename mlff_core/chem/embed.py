"""Starting conformers by distance geometry: ETKDGv3, from random coordinates if that fails."""

import hashlib
import math
import time
from collections import Counter
from typing import Final

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.chem.molecule import ChemistrySettings, NotOkError
from mlff_core.chem.stereo import assign_undefined
from mlff_core.status import MoleculeStatus, Reason

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


def molecule_seed(seed: int, smiles: str) -> int:
    """A seed for this molecule, the same wherever and whenever it is embedded."""
    digest = hashlib.blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1  # RDKit takes a signed int; negative means no seed


def embed(mol: Chem.Mol, settings: ChemistrySettings, seed: int, notes: list[str]) -> str:
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
    chosen = assign_undefined(mol)
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


def _embedding_error(tries: list[Counter[str]], settings: ChemistrySettings) -> NotOkError:
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
    return NotOkError(MoleculeStatus.FAILED, reason, "; ".join(said))


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
