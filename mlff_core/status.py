"""The words of the tables: what became of a molecule, why, and how a relaxation ended.

They are part of the tables' contract (docs/schema.md, which is written from here): a word may be
added, but never reused for something else.
"""

from enum import StrEnum
from typing import Self


class Word(StrEnum):
    """A word of the tables with what it means; compares and prints as the word."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        """A member is declared as `NAME = "word", "what it means"`."""
        self = str.__new__(cls, word)
        self._value_ = word
        self.meaning = meaning
        return self


class MoleculeStatus(Word):
    """What became of an input record."""

    OK = "ok", "computed; its conformers are in the other table"
    REJECTED = "rejected", "the input is not something that can be computed"
    FAILED = "failed", "the input is fine, the computation did not succeed"


class Reason(Word):
    """Why a molecule is not `ok`."""

    EMPTY = "empty", "no SMILES, or one without atoms"
    INVALID_SMILES = "invalid_smiles", "not a SMILES, or not a possible molecule"
    UNSUPPORTED_ELEMENT = "unsupported_element", "an element that the model was not trained on"
    UNSUPPORTED_CHARGE = "unsupported_charge", "a total charge that the model was not trained on"
    RADICAL = "radical", "unpaired electrons"
    TOO_LARGE = "too_large", "more atoms than `--max-atoms`"
    EMBEDDING_FAILED = "embedding_failed", "no starting geometry was found"
    EMBEDDING_TIMEOUT = "embedding_timeout", "no starting geometry was found in time"
    ALL_CONFORMERS_FAILED = (
        "all_conformers_failed",
        "no conformer of it ended as `converged` or `max_steps`",
    )
    NOT_3D = "not_3d", "no geometry in three dimensions where the given one is to be relaxed"
    INVALID_FROZEN_ATOMS = (
        "invalid_frozen_atoms",
        "what names the frozen atoms are no numbers of atoms of the entry",
    )
    CHARGED_IN_VACUUM = (
        "charged_in_vacuum",
        "charged atoms, whose strain means nothing without a solvent (`mlff-screen strain`)",
    )
    OUT_OF_MEMORY = "out_of_memory", "does not fit into memory even alone"
    INTERNAL_ERROR = "internal_error", "an error in the software; `message` says which"


class VariantKind(Word):
    """What makes a structure of a record another one than the record says, joined by `+`."""

    AS_GIVEN = "as_given", "the structure of the library, undefined stereo chosen"
    STEREOISOMER = "stereoisomer", "a stereocentre or double bond that was left open is set"
    TAUTOMER = "tautomer", "protons stand elsewhere"
    PROTOMER = "protomer", "protons were taken or given"


class Flag(Word):
    """What a user of an `ok` molecule should know beside its numbers; a row may have several."""

    STEREO_NOT_KEPT = "stereo_not_kept", "stereo of the input that the geometry does not hold"
    MIXTURE_OF_ISOMERS = "mixture_of_isomers", "the input means several; one of them was computed"
    PROTONS_HELD = "protons_held", "relaxed with bonds to hydrogen of charged groups held"
    PROTON_SHARED = "proton_shared", "a proton lies halfway to another atom in the best conformer"
    VARIANTS_LEFT_OUT = "variants_left_out", "the record has more variants than were computed"
    SADDLE_POINT = "saddle_point", "the best conformer has imaginary modes (`--thermo`)"
    HYDROGENS_ADDED = "hydrogens_added", "the given geometry lacked hydrogens; they were placed"
    OUTSIDE_TRAINING = (
        "outside_training",
        "a kind of molecule that the models were hardly or not trained on",
    )
    FEW_HEAVY_ATOMS = (
        "few_heavy_atoms",
        "fewer than eight heavy atoms, as few molecules of the training",
    )
    RARE_ELEMENT = "rare_element", "an element that few molecules of the training have"
    RARE_CHARGE_ENVIRONMENT = (
        "rare_charge_environment",
        "a charged atom, or phosphorus, in surroundings that the training hardly saw",
    )
    RARE_CHARGE_COMBINATION = (
        "rare_charge_combination",
        "so many cations beside so many anions as the training hardly saw in one molecule",
    )
    CHARGE_BEYOND_2 = "charge_beyond_2", "total charge of 3 or -3, where the models err most"
    ZWITTERION_IN_VACUUM = (
        "zwitterion_in_vacuum",
        "a cation and an anion in one molecule, folded and ordered as in vacuum, not as in water",
    )


class FoundBy(Word):
    """Where the lowest minimum of a strained molecule comes from."""

    SEARCH = "search", "a conformer that was embedded"
    POSE = "pose", "the minimum that this pose falls into"
    OTHER_POSE = "other_pose", "the minimum that another pose of the molecule falls into"


class ConformerStatus(Word):
    """How a conformer's relaxation ended."""

    CONVERGED = "converged", "the largest force is at most `--fmax`"
    MAX_STEPS = "max_steps", "`--max-steps` were not enough"
    EXPLODED = "exploded", "energies or forces beyond all measure"
    REARRANGED = "rearranged", "bonds or stereocentres are no longer those of the SMILES"
    NON_FINITE = "non_finite", "the model gave a number that is not finite"
