"""A line of a library to an RDKit molecule, or the words why there is none."""

import re
from typing import Final

from rdkit import Chem, rdBase

from mlff_core.chem.atoms import bonds_of
from mlff_core.chem.given import (
    clear_axes_without_meaning,
    mark_stereo_not_kept,
    with_relative_stereo,
)
from mlff_core.chem.molecule import ChemistrySettings, rejected
from mlff_core.status import Reason

#: No molecule that fits the size limit needs more SMILES characters an atom; longer lines are not
#: even parsed.
_MAX_CHARACTERS_PER_ATOM: Final = 40

#: Part of RDKit's words -> what a person may do. Atoms are counted from 0 there.
_ADVICE: Final = {
    "greater than permitted": "an atom has too many bonds (counted from 0), or lacks its charge",
    "kekulize": "an aromatic nitrogen may lack its hydrogen, [nH], or an atom its charge",
    "unclosed ring": "each number of a ring stands twice",
    "syntax error": "look for brackets that do not close; elements beyond B C N O P S F Cl Br I "
    "stand in them",
    "parentheses": "each one that opens has to close",
    "unmatched": "each bracket that opens has to close",
}
#: What is no molecule though chemists write it so -> what to give instead.
_NO_MOLECULES: Final = (
    (re.compile(r"^InChI="), "this is an InChI and no SMILES"),
    (re.compile(r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$"), "this is an InChIKey and no SMILES"),
    (re.compile(r"[{}]"), "a polymer (BigSMILES) has no definite number of atoms"),
    (re.compile(r"^\.|\.\.|\.$"), "nothing stands on one side of a dot"),
    (re.compile(r"^#"), "no SMILES begins with #; every line of a library is a record"),
    (
        re.compile(r"^[^\[]*[,;]|\][^\[]*[,;]"),
        "a comma or semicolon is no part of a SMILES; a file with columns is a .csv",
    ),
    (re.compile(r">"), "a reaction is no molecule: give the SMILES of one of its parts"),
    (re.compile(r"\[[DT][+-]?\]"), "deuterium is [2H] in a SMILES, tritium [3H]"),
    (
        re.compile(r"\[(R\d*|R[#\d]*|X|Q|A|M|Pol|Ph|Me|Et|Bn|Boc|Ac)\]|R(?![a-z])|X(?!e)|Q"),
        "R, X, Q, A and abbreviations stand for groups that have to be written out",
    ),
    (
        re.compile(r"\[[^\]]*[,;!&$][^\]]*\]|![@:=#-]"),
        "this looks like SMARTS, a question about molecules and no molecule",
    ),
)
#: What tables write where they have nothing.
_NOTHING: Final = frozenset(["na", "n/a", "#n/a", "nan", "<na>", "none", "null", "nil", "-", "?"])
#: Kinds of S-groups with atoms whose number nobody has said: repeating units and their like.
_POLYMERS: Final = frozenset(["SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "ANY"])


def parse(line: str, settings: ChemistrySettings) -> Chem.Mol:
    """The molecule that a SMILES or CXSMILES says; a name behind it is ignored.

    Raises:
        NotOkError: There is nothing to read, or it cannot be read.
    """
    smiles, tail = [*(line or "").split(maxsplit=1), "", ""][:2]
    if not smiles:
        raise rejected(Reason.EMPTY, "there is no SMILES")
    if "\n" in line.strip() and _are_smiles(line.strip().split("\n")[1:]):
        raise rejected(Reason.INVALID_SMILES, "several SMILES stand in one field, a line each")
    if not (smiles.isascii() and smiles.isprintable()):
        position, character = next(
            (i, c) for i, c in enumerate(smiles, 1) if not (c.isascii() and c.isprintable())
        )
        raise rejected(
            Reason.INVALID_SMILES,
            f"character {character!a} at position {position} cannot be part of a SMILES",
        )
    longest = _MAX_CHARACTERS_PER_ATOM * settings.max_atoms
    if len(smiles) > longest:
        raise rejected(
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
        complaint = first_sentence(log.messages)
        if smiles.lower() in _NOTHING:
            raise rejected(Reason.EMPTY, f"there is no SMILES, but {smiles}")
        advice = next((words for form, words in _NO_MOLECULES if form.search(smiles)), None)
        advice = advice or next(
            (words for part, words in _ADVICE.items() if part in complaint), None
        )
        raise rejected(Reason.INVALID_SMILES, f"{complaint}: {advice}" if advice else complaint)
    if mol.GetNumAtoms() == 0:
        raise rejected(Reason.EMPTY, "the SMILES holds no atom")
    if tail.startswith("|") and (words := indefinite(mol)):
        raise rejected(Reason.INVALID_SMILES, words)
    mark_stereo_not_kept(smiles, mol)
    if "|" in tail:
        clear_axes_without_meaning(mol)
    return with_relative_stereo(smiles, mol) if "|" in tail else mol


def _are_smiles(lines: list[str]) -> bool:
    """Whether the first word of each line that is not blank can be read as a SMILES."""
    words = [line.split()[0] for line in lines if line.strip()]
    with rdBase.BlockLogs():
        return all(Chem.MolFromSmiles(word, sanitize=False) is not None for word in words)


def indefinite(mol: Chem.Mol) -> str | None:
    """Why the atoms and bonds of a molecule with S-groups are not all known; None if they are."""
    kinds = {group.GetProp("TYPE") for group in Chem.GetMolSubstanceGroups(mol)}
    if kinds & _POLYMERS:
        return "a polymer has no definite number of atoms: give one of its oligomers"
    if any(bond.HasProp("_MolFileBondEndPts") for bond in bonds_of(mol)):
        return "a bond ends at one of several atoms, it is not said at which: write each molecule"
    return None


def first_sentence(log: str) -> str:
    """RDKit's own words from its error log, without time stamps, repetitions and the drawing."""
    lines = [line.partition("] ")[2] or line for line in log.splitlines() if line.strip()]
    complaint = lines[0] if lines else "RDKit cannot read it"
    complaint = complaint.removeprefix("SMILES Parse Error: ").partition(" while parsing")[0]
    place = next((line for line in lines if "around position" in line), None)
    if place:
        complaint += f" at position {place.partition('around position')[2].strip(' :')}"
    return complaint.partition(" for input")[0][:300]
