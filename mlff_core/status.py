"""The words of the tables: what became of a molecule, why, and how a relaxation ended.

They are part of the tables' contract (docs/schema.md): a word may be added, but never reused for
something else.
"""

from enum import StrEnum


class MoleculeStatus(StrEnum):
    """What became of an input record."""

    OK = "ok"
    REJECTED = "rejected"  # the input is not something that can be computed
    FAILED = "failed"  # the input is fine, the computation did not succeed


class Reason(StrEnum):
    """Why a molecule is not `ok`."""

    EMPTY = "empty"
    INVALID_SMILES = "invalid_smiles"
    UNSUPPORTED_ELEMENT = "unsupported_element"
    UNSUPPORTED_CHARGE = "unsupported_charge"
    RADICAL = "radical"
    TOO_LARGE = "too_large"
    EMBEDDING_FAILED = "embedding_failed"
    EMBEDDING_TIMEOUT = "embedding_timeout"
    ALL_CONFORMERS_FAILED = "all_conformers_failed"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL_ERROR = "internal_error"


class Flag(StrEnum):
    """What a user of an `ok` molecule should know beside its numbers; a row may have several."""

    STEREO_NOT_KEPT = "stereo_not_kept"  # stereo of the input that the geometry does not hold
    MIXTURE_OF_ISOMERS = "mixture_of_isomers"  # the input means several; one of them was computed
    PROTONS_HELD = "protons_held"  # relaxed with bonds to hydrogen of charged groups held
    OUTSIDE_TRAINING = "outside_training"  # a kind of molecule that no model was trained on


class ConformerStatus(StrEnum):
    """How a conformer's relaxation ended."""

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    EXPLODED = "exploded"
    REARRANGED = "rearranged"
    NON_FINITE = "non_finite"
