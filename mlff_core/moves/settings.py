"""What a relaxation is asked to do. Needs no torch, so that a call is checked at once."""

from dataclasses import dataclass
from typing import Final, Literal

Batching = Literal["auto", "table"]

#: Names of the minimisers; `optimizers.OPTIMIZERS` holds them.
OPTIMIZER_NAMES: Final = ("lbfgs", "ase-lbfgs", "fire")
#: Largest force in eV/Å that may be left where vibrations are computed: above it, low modes come
#: out imaginary.
THERMO_FMAX: Final = 0.01


@dataclass(frozen=True)
class RelaxSettings:
    """What a relaxation is asked to do.

    Attributes:
        optimizer: "lbfgs", "fire" or "ase-lbfgs".
        fmax: A molecule has converged when no atom that may move feels more, eV/Å.
        max_steps: Moves a molecule may make.
        model_hessian: "lbfgs" begins with a model of each molecule's Hessian; without, with ASE's
            constant.
        batching: How many of many conformers are in a force call, see `buckets.batch_sizes`.
        pre_fmax: Where a cheaper force field, if there is one, hands over: no atom that may move
            feels more of it, eV/Å, at an `fmax` of 0.05 or less; more in proportion where that is
            larger.
    """

    optimizer: str = "lbfgs"
    fmax: float = 0.05
    max_steps: int = 300
    model_hessian: bool = True
    batching: Batching = "auto"
    pre_fmax: float = 0.02

    @property
    def fmax_before(self) -> float:
        """Where a cheaper force field hands over, eV/Å."""
        return self.pre_fmax * max(1.0, self.fmax / RelaxSettings.fmax)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZER_NAMES:
            known = ", ".join(OPTIMIZER_NAMES)
            raise ValueError(f"optimizer: expected {known}, found {self.optimizer!r}")
        for name in ("fmax", "max_steps", "pre_fmax"):
            if not hasattr(found := getattr(self, name), "__float__"):
                raise TypeError(f"{name}: expected a number, found {found!r}")
        for name in ("fmax", "pre_fmax"):
            if not (found := getattr(self, name)) > 0:
                raise ValueError(f"{name}: expected more than 0 eV/Å, found {found!r}")
        if self.max_steps < 0 or int(self.max_steps) != self.max_steps:
            raise ValueError(f"max_steps: expected 0 or more, found {self.max_steps!r}")
