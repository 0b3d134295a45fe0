"""Which molecules are learnt from, and which are held out.

The split is by connectivity: the first block of the standard InChIKey, which stereoisomers,
protonation states and most tautomers share, so that no variant of a test molecule is trained on.
"""

import hashlib
import multiprocessing
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from rdkit import Chem, rdBase

from mlff_core.distill.protomers import protomer
from mlff_core.elements import KNOWN_ELEMENTS
from mlff_core.interrupts import interrupts_kept_from_children

#: Elements of the teacher that no SMILES table at hand holds: written in place of a relative.
SUBSTITUTES: Final = {16: 34, 15: 33}

#: In a SMILES: a charge on an sp2 nitrogen, nitro groups aside, on sulfur or oxygen (+), or on
#: nitrogen, sulfur or carbon (-).
UNUSUAL_CHARGE: Final = (
    r"(?<!O)=\[N\w*\+|\[N\w*\+\](?:\([^()]*\))*=(?!O)|\[n\+|\[[sSoO]H?\+|\[[cCnNsS]H?-\]"
)

_CHARGE = re.compile(r"([+-]+)(\d?)(?=[:\]])")


@dataclass(frozen=True)
class MoleculesConfig:
    """Which molecules are used.

    Attributes:
        column: Column of the table that holds the SMILES; empty for the one that is named so.
        elements: Atomic numbers that may occur.
        common: How many molecules are taken, in the order of the table.
        max_atoms: Largest number of atoms, hydrogens counted.
        max_charge: Largest absolute total charge in e.
        rare: A regular expression; every molecule whose SMILES matches is taken besides, so that
            elements and charged groups that few molecules have are met often.
        rare_charge: Every molecule is taken besides whose absolute charge is at least this.
        selenium_share: Share of the molecules with sulfur in which selenium takes its place.
        arsenic_share: Share of the molecules with phosphorus in which arsenic takes its place.
        protomer_share: Share of the molecules in which another protonation state takes their place,
            where they have one (see `protomers`).
        both_signs_share: Share of the molecules, besides, in which a state with charged groups of
            both signs, three at least, takes their place, where they have one.
        max_parts: How many molecules a record may have; those of two are placed apart, see
            `embedding.placed_apart`. A record is held out if one of them is.
        held_out_share: Share of the connectivities that are held out.
        salt: Distinguishes this split from others.
        seed: Of the order, the substitutions and the protonation states.
    """

    column: str = ""
    elements: tuple[int, ...] = KNOWN_ELEMENTS
    common: int = 560_000
    max_atoms: int = 96
    max_charge: int = 3
    rare: str = r"B[^r]|B$|\[Si|\[si|P|p|I|" + UNUSUAL_CHARGE
    rare_charge: int = 2
    selenium_share: float = 0.06
    arsenic_share: float = 0.15
    protomer_share: float = 0.0
    both_signs_share: float = 0.0
    max_parts: int = 1
    held_out_share: float = 0.02
    salt: str = "student-1"
    seed: int = 20261121


@dataclass(frozen=True)
class Choice:
    """One molecule of the selection.

    Attributes:
        smiles: Isomeric SMILES, one fragment.
        charge: Total charge in e.
        n_atoms: Number of atoms, hydrogens counted.
        key: First block of the InChIKey, of each part of the record.
        held_out: Whether it is kept from training.
        kind: What the table calls it; empty if nothing.
    """

    smiles: str
    charge: int
    n_atoms: int
    key: str
    held_out: bool
    kind: str = ""


def is_held_out(key: str, share: float, salt: str) -> bool:
    """Whether a connectivity key belongs to the held-out share; the same on every machine."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def smiles_charge(smiles: str) -> int:
    """Total charge that the brackets of a SMILES add up to, without parsing the molecule."""
    total = 0
    for signs, digit in _CHARGE.findall(smiles):
        size = int(digit) if digit else len(signs)
        total += size if signs[0] == "+" else -size
    return total


def choose(smiles: str, config: MoleculesConfig) -> Choice | str:
    """The molecule of a SMILES, or the reason why it is left out.

    Args:
        smiles: One record of the table.
        config: What may occur, and how molecules are split. The order of the table, substitutes
            and protonation states are not looked at.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return "invalid_smiles"
    parts = Chem.GetMolFrags(mol, asMols=True)
    if len(parts) > config.max_parts:
        return "mixture"
    if any(atom.GetAtomicNum() not in config.elements for atom in mol.GetAtoms()):
        return "element"
    if any(atom.GetNumRadicalElectrons() or atom.GetIsotope() for atom in mol.GetAtoms()):
        return "radical_or_isotope"
    n_atoms = mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if n_atoms > config.max_atoms:
        return "too_large"
    charge = Chem.GetFormalCharge(mol)
    if abs(charge) > config.max_charge:
        return "charge"
    keys = [Chem.MolToInchiKey(part)[:14] for part in parts]
    if not all(keys):
        return "no_inchikey"
    held_out = any(is_held_out(key, config.held_out_share, config.salt) for key in keys)
    return Choice(smiles, charge, n_atoms, ".".join(keys), held_out)


def substitute(smiles: str, old: int, new: int) -> str | None:
    """The molecule with every atom of one element replaced by a heavier relative of its group.

    None where the molecule has no such atom in a bonding situation that both elements share: for
    sulfur, two neighbours at most (thiols, thioethers, thiophenes).
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    atoms = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == old]
    if not atoms or (old == 16 and any(atom.GetDegree() > 2 for atom in atoms)):
        return None
    for atom in atoms:
        atom.SetAtomicNum(new)
    try:
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    return Chem.MolToSmiles(mol)


def quiet_rdkit() -> None:
    """Stop RDKit from writing to stderr; what matters is counted instead."""
    rdBase.DisableLog("rdApp.*")


def candidates(
    smiles: Sequence[str], config: MoleculesConfig, kinds: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """The molecules of a table that are looked at, in a random order, some with Se for S, As for P.

    Args:
        smiles: The table.
        config: How many, and which besides.
        kinds: What the table calls each; empty if it calls them nothing.

    Returns:
        SMILES and kinds.
    """
    rare = re.compile(config.rare)
    rng = random.Random(config.seed)
    chosen: list[tuple[str, str]] = []
    common = 0
    for text, kind in _with_kinds(smiles, kinds):
        if rare.search(text) or abs(smiles_charge(text)) >= config.rare_charge:
            chosen.append((text, kind))
        elif common < config.common:
            chosen.append((text, kind))
            common += 1
    rng.shuffle(chosen)
    shares = {16: config.selenium_share, 15: config.arsenic_share}
    for k, (text, kind) in enumerate(chosen):
        for old, symbols in ((16, "Ss"), (15, "Pp")):
            if any(s in text for s in symbols) and rng.random() < shares[old]:
                chosen[k] = substitute(text, old, SUBSTITUTES[old]) or text, kind
                break
    return chosen


def _with_kinds(smiles: Sequence[str], kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(smiles, kinds or [""] * len(smiles), strict=True)


def choose_many(
    smiles: Sequence[str], config: MoleculesConfig, kinds: Sequence[str] = ()
) -> tuple[list[Choice], Counter[str]]:
    """`choose` for many SMILES: the molecules, and how many were left out, by reason.

    Args:
        smiles: Records of the table.
        config: Which molecules.
        kinds: What the table calls each, which all states of a molecule keep; empty for nothing.
    """
    quiet_rdkit()
    chosen: list[Choice] = []
    left_out: Counter[str] = Counter()
    for text, kind in _with_kinds(smiles, kinds):
        result = choose(text, config)
        # Of the molecule, not of its place: parts are looked at in several processes.
        rng = random.Random(f"{config.seed}:{text}")
        drawn = rng.random()
        if isinstance(result, Choice) and drawn < config.protomer_share + config.both_signs_share:
            both_signs = drawn >= config.protomer_share
            state = (
                None
                if "." in text
                else protomer(text, rng, max_charge=config.max_charge, both_signs=both_signs)
            )
            other = choose(state or text, config)
            if isinstance(other, Choice):
                # Some protons count as connectivity, a sulfonamide's for one; all states of a
                # molecule stand on its own side all the same.
                result = replace(other, key=result.key, held_out=result.held_out)
        if isinstance(result, str):
            left_out[result] += 1
        else:
            chosen.append(replace(result, kind=kind))
    return chosen, left_out


def choose_molecules(
    smiles: Sequence[str],
    config: MoleculesConfig,
    *,
    n_processes: int,
    kinds: Sequence[str] = (),
) -> tuple[list[Choice], Counter[str]]:
    """The molecules of a distillation, each once, in the order in which they are used.

    Args:
        smiles: The table.
        config: Which molecules, and how they are split.
        n_processes: Processes that work at it; InChI takes about a millisecond a molecule.
        kinds: What the table calls each; of a molecule that comes twice the first counts.
    """
    wanted = candidates(smiles, config, kinds)
    size = 2000
    parts = [wanted[k : k + size] for k in range(0, len(wanted), size)]
    texts, kinds_of = ([[row[k] for row in part] for part in parts] for k in (0, 1))
    context = multiprocessing.get_context("spawn")
    left_out: Counter[str] = Counter()
    seen: dict[str, Choice] = {}
    with ProcessPoolExecutor(max(1, n_processes), mp_context=context) as pool:
        with interrupts_kept_from_children():  # the first task starts the processes
            results = pool.map(choose_many, texts, [config] * len(parts), kinds_of)
        for chosen, reasons in results:
            left_out += reasons
            for choice in chosen:
                if choice.smiles in seen:
                    left_out["duplicate"] += 1
                else:
                    seen[choice.smiles] = choice
    return list(seen.values()), left_out
