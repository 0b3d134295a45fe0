"""Every choice and seed of a distillation, from one TOML file."""

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.leg import LegConfig
from mlff_core.distill.molecules import MoleculesConfig
from mlff_core.distill.sampling import SamplingConfig
from mlff_core.distill.training import TrainingConfig
from mlff_core.models.painn import PaiNNConfig


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
        leg: Length and proportions of a leg.
        sampling: How geometries are made.
        labels: Which labels count.
        training: Losses and schedule.
        test: How it is tested.
    """

    name: str = "painn-aimnet2"
    molecules: MoleculesConfig = field(default_factory=MoleculesConfig)
    student: PaiNNConfig = field(default_factory=PaiNNConfig)
    leg: LegConfig = field(default_factory=LegConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


_SECTIONS: dict[str, type] = {
    "molecules": MoleculesConfig,
    "student": PaiNNConfig,
    "leg": LegConfig,
    "sampling": SamplingConfig,
    "labels": LabelConfig,
    "training": TrainingConfig,
    "test": TestConfig,
}


def read_recipe(path: Path) -> Recipe:
    """A recipe from its TOML file.

    Raises:
        ValueError: A key or a section does not exist, or a value is of the wrong type; names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    known = {"name", *_SECTIONS}
    for key in values:
        if key not in known:
            raise ValueError(f"{path}: no such key: {key} (there are {', '.join(sorted(known))})")
    sections = {
        name: _section(path, name, kind, values.get(name, {})) for name, kind in _SECTIONS.items()
    }
    name = values.get("name", Recipe.name)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: name: expected text, found {name!r}")
    return Recipe(name=name, **sections)


def _section(path: Path, section: str, kind: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {section}: expected a table, found {values!r}")
    defaults = {f.name: getattr(kind, f.name) for f in fields(kind)}
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        if key not in defaults:
            raise ValueError(
                f"{path}: no such key: {section}.{key} (there are {', '.join(defaults)})"
            )
        default = defaults[key]
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        elif isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise ValueError(
                f"{path}: {section}.{key}: expected {type(default).__name__}, found {value!r}"
            )
        chosen[key] = value
    return kind(**chosen)
