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
        tautomers: Whether other tautomers are computed too.
        ph: Of the water whose dominant protonation state is computed; None: as it is written.
        ph_window: States are computed too that are rarer by at most so many pH units.
        max_variants: Structures that a record may have at most.
    """

    stereo: Stereo = "one"
    tautomers: bool = False
    ph: float | None = None
    ph_window: float = 0.0
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
        if self.ph is not None and not _LOWEST_PH <= self.ph <= _HIGHEST_PH:
            raise ValueError(f"ph: expected {_LOWEST_PH:g} to {_HIGHEST_PH:g}, found {self.ph:g}")
        if not 0 <= self.ph_window <= _HIGHEST_PH:
            raise ValueError(f"ph_window: expected 0 to {_HIGHEST_PH:g}, found {self.ph_window:g}")
        if not 1 <= self.max_variants <= 1000:
            raise ValueError(f"max_variants: expected 1 to 1000, found {self.max_variants}")

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for at all."""
        return self.stereo != "one" or self.tautomers or self.ph is not None


@dataclass(frozen=True)
class Variant:
    """One structure of a record, and what its row says before it was computed.

    Attributes:
        input_smiles: SMILES as it stands in the library.
        smiles: SMILES or CXSMILES of this structure.
        parent: Canonical SMILES or CXSMILES of the record's own structure.
        number: Its place among the structures of the record.
        n_variants: How many these are.
        weight: Its share at the pH; None where nothing says.
        margin: pH units between the dominant protonation state and the next; None the same.
        kind: Words of `VariantKind`, joined by `+`.
        message: What was done to the record so far.
        flags: Words of `Flag`.
        one_possible: Whether stereo that looks open is none, since rings allow one isomer only.
    """

    input_smiles: str
    smiles: str
    parent: str
    number: int = 0
    n_variants: int = 1
    kind: str = "as_given"
    weight: float | None = None
    margin: float | None = None
    message: str | None = None
    flags: tuple[str, ...] = ()
    one_possible: bool = False
