"""Which structures a record stands for: what is asked, and one of those that come of it."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Stereo = Literal["one", "enumerate", "diastereomers"]

#: The scale on which water is a solvent.
_LOWEST_PH: Final = 0.0
_HIGHEST_PH: Final = 14.0


@dataclass(frozen=True)
class Expansion:
    """What is computed beside the structure that stands in the library. Validated when made.

    Attributes:
        stereo: Undefined stereocentres and double bonds: "one" isomer is chosen, all are computed
            ("enumerate"), or one of each pair of mirror images ("diastereomers").
        max_variants: Structures that a record may have at most.
    """

    stereo: Stereo = "one"
    max_variants: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the field.

        Raises:
            ValueError: A field is out of its range.
        """
        if self.stereo not in get_args(Stereo):
            raise ValueError(
                f"stereo: expected one of {', '.join(get_args(Stereo))}, found {self.stereo}"
            )
        if not 1 <= self.max_variants <= 1000:
            raise ValueError(f"max_variants: expected 1 to 1000, found {self.max_variants}")

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for at all."""
        return self.stereo != "one"


@dataclass(frozen=True)
class Variant:
    """One structure of a record, and what its row says before it was computed.

    Attributes:
        input_smiles: SMILES as it stands in the library.
        smiles: SMILES or CXSMILES of this structure.
        number: Its place among the structures of the record.
        n_variants: How many these are.
        kind: Words of `VariantKind`, joined by `+`.
        message: What was done to the record so far.
        flags: Words of `Flag`.
    """

    input_smiles: str
    smiles: str
    number: int = 0
    n_variants: int = 1
    kind: str = "as_given"
    message: str | None = None
    flags: tuple[str, ...] = ()
