"""A model by reference: where its file lies, what its card says. Needs no torch, so it is quick."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

from mlff_core.errors import ModelFileError

#: Short names of models in mlff_core/weights: the one that is used unless another is asked for, and
#: one of a quarter of its weights. Both have partial charges.
SHORT_NAMES: Final = {"default": "painn-aimnet2", "small": "painn-aimnet2-small"}

#: Far more than any card has.
MOST_BYTES: Final = 1 << 24


class Known(Protocol):
    """Elements and total charges that a model knows."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers."""

    @property
    def min_charge(self) -> int:
        """Lowest total charge in e."""

    @property
    def max_charge(self) -> int:
        """Highest total charge in e."""


@dataclass(frozen=True)
class ModelReference:
    """A checkpoint whose tensors are those that its card names.

    Attributes:
        name: As the card gives it.
        file: Path of the tensors.
        sha256: Of the tensors.
        config_sha256: Of what the card says of the network: shape, cutoff, domain.
        elements: Atomic numbers that it knows.
        min_charge: Lowest total charge that it knows.
        max_charge: Highest.
        errors: What its card says of its errors: a text for each quantity.
        has_charges: Whether it gives partial charges.
    """

    name: str
    file: str
    sha256: str
    config_sha256: str
    elements: tuple[int, ...]
    min_charge: int
    max_charge: int
    errors: dict[str, str]
    has_charges: bool = False

    def covers(self, other: Known) -> bool:
        """Whether it knows all elements and charges that another one knows."""
        return (
            set(self.elements) >= set(other.elements)
            and self.min_charge <= other.min_charge
            and self.max_charge >= other.max_charge
        )


def shipped_folder() -> Path:
    """Where the shipped models lie."""
    return Path(str(resources.files("mlff_core") / "weights")).resolve()


def name_or_path(file: Path) -> str:
    """What `find_model` finds a file by: the name of a shipped model, or the path of another."""
    file = file.resolve()
    return file.stem if file.parent == shipped_folder() else str(file)


def readout_beside(tensors_file: Path) -> Path:
    """Where what reads partial charges lies, of a model that has it in a file of its own."""
    return tensors_file.with_suffix(".charges")


def find_model(model: str | Path = "default") -> Path:
    """Path of a checkpoint's tensors, from a name or a path.

    Raises:
        ModelFileError: There is none.
    """
    shipped = shipped_folder()
    name = SHORT_NAMES.get(str(model), str(model))
    for candidate in (shipped / f"{name}.safetensors", Path(name)):
        if candidate.is_file():
            return candidate
    names = [*SHORT_NAMES, *sorted(p.stem for p in shipped.glob("*.safetensors"))]
    raise ModelFileError(
        f"no model {str(model)!r}: expected a shipped model ({', '.join(names)}), or the path of a "
        ".safetensors file"
    )


def sha256_of_config(config: dict[str, Any]) -> str:
    """Names what a card says of the network, however it is written: the weights alone do not.

    The same weights with another cutoff are another model.
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read_card(file: Path) -> Any:
    """What a model card holds; it may be anyone's.

    Raises:
        OSError: It is not there.
        ValueError: It is no JSON, or longer than any card.
    """
    with file.open("rb") as stream:
        text = stream.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def refer_to_model(model: str | Path = "default") -> ModelReference:
    """Find a checkpoint, read its card, and check its tensors against it.

    Raises:
        ModelFileError: A file is missing, damaged, or not one of ours.
    """
    file = find_model(model)
    card_file = file.with_suffix(".json")
    try:
        card = read_card(card_file)
        config, expected = card["config"], card["sha256"]
        stated = card.get("headline")
        reference = ModelReference(
            name=str(card.get("name", file.stem)),
            file=str(file.absolute()),
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            config_sha256=sha256_of_config(config),
            elements=tuple(int(z) for z in config["elements"]),
            min_charge=int(config["min_charge"]),
            max_charge=int(config["max_charge"]),
            # The card may have come with anyone's weights.
            errors={str(k): str(v) for k, v in stated.items()} if isinstance(stated, dict) else {},
            has_charges=bool(config.get("charges_after", 0)) or readout_beside(file).is_file(),
        )
    except OSError as error:
        raise ModelFileError(f"{card_file}: no model card beside the tensors: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{card_file}: not a model card of mlff-screen: {error!r}") from error
    if reference.sha256 != expected:
        raise ModelFileError(
            f"{file}: damaged: expected sha256 {expected}, found {reference.sha256}"
        )
    return reference


def pre_model(
    asked: str, known: Known, name: str, sha256: str, *, auto: bool
) -> ModelReference | None:
    """The cheaper model to walk with before another one, if there is one.

    Args:
        asked: "auto", "small" or "none".
        known: What the other one knows.
        name: Of that one.
        sha256: Of its tensors.
        auto: Whether "auto" means the small one.

    Raises:
        ModelFileError: It is asked for and does not know what the other one knows.
    """
    if asked != "small" and not (asked == "auto" and auto):
        return None
    small = refer_to_model("small")
    if small.sha256 == sha256:
        return None
    if small.covers(known):
        return small
    if asked == "auto":
        return None
    raise ModelFileError(
        f"pre_relax small: {small.name} does not know all elements and charges of {name}"
    )
