"""Every choice and seed of a distillation, from one TOML file."""

import json
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlff_core.distill.kinds import KindConfig
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.molecules import MoleculesConfig
from mlff_core.distill.sampling import SamplingConfig
from mlff_core.distill.stage import StageConfig
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.painn import PaiNNConfig
from mlff_core.shipped import shipped


@dataclass(frozen=True)
class TestConfig:
    """How the student is tested.

    Attributes:
        n_molecules: Held-out molecules, in the order of the table.
        n_charged: At least so many charged ones, so that their numbers mean something.
        n_conformers: Conformers of each.
        seed: Of embedding and sampling.
    """

    __test__ = False  # not a test class of pytest

    n_molecules: int = 5000
    n_charged: int = 1000
    n_conformers: int = 2
    seed: int = 7


@dataclass(frozen=True)
class Recipe:
    """One distillation.

    Attributes:
        name: Of the checkpoint.
        molecules: Which molecules.
        student: Shape and domain of the network.
        stage: Length and proportions of a stage.
        sampling: How geometries are made.
        labels: Which labels count.
        training: Losses and schedule.
        test: How it is tested.
        kinds: Which kinds of molecules have their geometries made otherwise, and how: of several
            that a molecule is of, the first counts; while several wait, they come in this order.
    """

    name: Annotated[str, Field(min_length=1)] = "painn-aimnet2"
    molecules: MoleculesConfig = field(default_factory=MoleculesConfig)
    student: PaiNNConfig = field(default_factory=PaiNNConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    test: TestConfig = field(default_factory=TestConfig)
    kinds: tuple[KindConfig, ...] = ()

    def __post_init__(self) -> None:
        names = Counter(name for kind in self.kinds for name in kind.names)
        for name, times in names.items():
            if times > 1:
                raise ValueError(f"kinds.names: expected each once, found {name!r} {times} times")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        if not self.kinds:  # as recipes were written before there were kinds
            del values["kinds"]
        return values


class _RecipeFile(BaseModel):
    """What holds the dataclasses of a recipe to their types; they take its rules over."""

    model_config = ConfigDict(extra="forbid", strict=True)

    recipe: Recipe


#: What a training stage was called in recipes before, and its keys with it.
_FORMER_SECTION: Final = "leg"
_FORMER_KEYS: Final = {"n_legs": "n_stages", "averaged_legs": "averaged_stages"}

#: What was expected, by what pydantic calls it when it is not there.
_EXPECTED: Final = {
    "dataclass_type": "a table",
    "string_type": "text",
    "string_too_short": "text",
    "tuple_type": "a list",
    "float_type": "float",
    "int_type": "int",
    "missing": "a value",
}


def read_recipe(path: Path) -> Recipe:
    """A recipe from its TOML file, from the shipped one of that name, or from `steps.claim`'s JSON.

    Raises:
        ValueError: A key or a section does not exist, or a value is of the wrong type; names it.
    """
    try:
        text = (shipped(str(path)) or path).read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ValueError(f"{path}: not {kind}: {error}") from error
    if isinstance(former := values.get(_FORMER_SECTION), dict) and "stage" not in values:
        del values[_FORMER_SECTION]
        values["stage"] = {_FORMER_KEYS.get(key, key): value for key, value in former.items()}
    try:
        # By way of JSON, where a list may be a tuple although nothing else is converted.
        return _RecipeFile.model_validate_json(json.dumps({"recipe": values}, default=str)).recipe
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(map(str, found["loc"][1:]))
        if found["type"] == "unexpected_keyword_argument":
            text = f"no such key: {key} (datasets/recipes/student.toml has all that there are)"
        elif found["type"] == "value_error":  # of the dataclass itself, which names the field
            text = str(found["ctx"]["error"])
        else:
            expected = _EXPECTED.get(found["type"], found["msg"])
            text = f"{key}: expected {expected}, found {found['input']!r}"
        raise ValueError(f"{path}: {text}") from error
