"""The minimisers, by name.

All are ASE's (A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002, 2017) made per-molecule;
where they differ, the step's docstring says so and why. Tensors are rows of `slots.Rows`: n_slots
molecules, padded to w atoms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlff_core.moves.ase_lbfgs import ase_lbfgs_enter, ase_lbfgs_step
from mlff_core.moves.fire import fire_enter, fire_step
from mlff_core.moves.lbfgs import lbfgs_enter, lbfgs_renew, lbfgs_renews, lbfgs_step
from mlff_core.moves.slots import Rows
from mlff_core.moves.state import Point


@dataclass(frozen=True)
class Optimizer:
    """A minimiser.

    Attributes:
        enter: From molecules, whether to model their Hessian, and whether they are near a minimum
            already, to what is kept of each.
        step: From what is kept and a force call to: is the trial point accepted, bool [n_slots];
            the displacement from the point that is now accepted to the next trial point
            [n_slots, w, 3]; and what is kept now.
        renews: From what is kept and the largest forces in eV/Å [n_slots] to those that wait for
            `renew` after this move, bool [n_slots]; None: nobody does.
        renew: From molecules where they are now, what is kept, and the forces there on atoms that
            may move [n_slots, w, 3] to what is kept now.
        numba: Whether `minimise_numba.py` has its step, for a CPU.
        triton: Whether `minimise_triton.py` has its step, for CUDA.
        double: Positions are kept in float64, whatever the model computes in, as ASE keeps them.
    """

    enter: Callable[[Rows, bool, bool], Any]
    step: Callable[[Any, Point], tuple[Tensor, Tensor, Any]]
    renews: Callable[[Any, Tensor], Tensor] | None = None
    renew: Callable[[Rows, Any, Tensor], Any] | None = None
    numba: bool = False
    triton: bool = False
    double: bool = False


OPTIMIZERS: dict[str, Optimizer] = {
    "lbfgs": Optimizer(lbfgs_enter, lbfgs_step, lbfgs_renews, lbfgs_renew, numba=True, triton=True),
    "ase-lbfgs": Optimizer(ase_lbfgs_enter, ase_lbfgs_step, double=True),
    "fire": Optimizer(fire_enter, fire_step, triton=True),
}
