"""What a recipe says of the geometries of some kinds of molecules, where they are made otherwise.

A student errs most on molecules that most tables have little of, each in its own way: it cannot
drive small molecules of charged groups before it knows them, molecules with charged groups of both
signs fold for hundreds of steps, and of a fragment the barrier of a torsion is what matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from mlff_core.distill.sampling import SamplingConfig

#: Column of the table of molecules that has the kinds.
COLUMN: Final = "kind"
#: Stands for every molecule with charged groups of both signs, of whatever kind the table calls it.
BOTH_SIGNS: Final = "both signs"
#: Drivers that are no weights: a member of the teacher, and the student as it becomes.
TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class KindConfig:
    """How geometries of some kinds of molecules are made.

    Attributes:
        names: Values of the column `COLUMN` of the table, and `BOTH_SIGNS`.
        driver: What drives relaxations and trajectories: empty for what drives those of all others,
            "teacher" for one of its members, "student" for the student as it becomes, or weights,
            a shipped model's name or a file.
        sampling: What differs from the recipe's `SamplingConfig`, by its keys.
        calls: Size of a call relative to `LabelConfig.atoms_a_call`, at most 1: where relaxations
            are long, or the teacher drives, training waits less for a smaller one.
    """

    names: tuple[str, ...]
    driver: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    calls: float = 1.0

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("kinds.names: expected at least one, found none")
        if not 0.0 < self.calls <= 1.0:
            raise ValueError(f"kinds.calls: expected above 0 and at most 1, found {self.calls}")
        known: dict[str, Any] = {key.name: key.type for key in fields(SamplingConfig)}
        for key, value in self.sampling.items():
            if key not in known:
                raise ValueError(f"no such key: kinds.sampling.{key} (it has those of sampling)")
            # A bool is an int to Python, but not to a recipe.
            if type(value) is not int and type(value) is not known[key]:
                expected = known[key].__name__
                raise ValueError(f"kinds.sampling.{key}: expected {expected}, found {value!r}")
        self.sampled(SamplingConfig())

    def sampled(self, sampling: SamplingConfig) -> SamplingConfig:
        """How geometries of these kinds are made, given how all others are."""
        return replace(sampling, **self.sampling)


def place_of(kind: str, both_signs: bool, kinds: Sequence[KindConfig]) -> int:
    """The first of some kinds that a molecule is of; their number if it is of none.

    Args:
        kind: What the table calls it; empty if nothing.
        both_signs: Whether it has charged groups of both signs.
        kinds: Of the recipe, in its order.
    """
    for place, config in enumerate(kinds):
        if kind in config.names or (both_signs and BOTH_SIGNS in config.names):
            return place
    return len(kinds)
