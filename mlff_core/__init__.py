"""The science and the speed: molecules, a PaiNN potential, relaxation. Imports no Prefect.

Names are resolved on first use, because the processes that embed molecules import
`mlff_core.chem` and must not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlff_core.batch import MolBatch
    from mlff_core.calculator import PaiNNCalculator
    from mlff_core.models.potential import Potential, PotentialOutput, load_potential
    from mlff_core.moves.relax import RelaxResult, relax

_HOME = {
    "MolBatch": "mlff_core.batch",
    "PaiNNCalculator": "mlff_core.calculator",
    "Potential": "mlff_core.models.potential",
    "PotentialOutput": "mlff_core.models.potential",
    "RelaxResult": "mlff_core.moves.relax",
    "load_potential": "mlff_core.models.potential",
    "relax": "mlff_core.moves.relax",
}

__all__ = [
    "MolBatch",
    "PaiNNCalculator",
    "Potential",
    "PotentialOutput",
    "RelaxResult",
    "load_potential",
    "relax",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mlff_core' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
