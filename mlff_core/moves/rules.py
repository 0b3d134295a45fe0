"""When a molecule has ended its relaxation, and how: one set of rules for all ways to step."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.state import RelaxState
from mlff_core.status import ConformerStatus

#: Exploded: the energy is this far above the start's, in eV an atom. A bond is worth a few eV, so
#: a molecule of which every atom rose by this much is not on its way to a minimum.
MAX_RISE_PER_ATOM = 1.0
#: Exploded: the energy is this far below the start's, in eV an atom, though the start had no
#: overlapping atoms (forces above MAX_FORCE). All bonds of a molecule are worth less.
MAX_FALL_PER_ATOM = 10.0
#: Exploded: a force of this size in eV/Å, and ten times the start's largest. No bond of an organic
#: molecule pulls like this; atoms that overlap in a bad embedding do, from the start.
MAX_FORCE = 100.0
#: Exploded: the atom farthest from the molecule's centre is this many cutoffs farther from it than
#: the farthest one was at the start, so it flies off, or parts do that were apart from the start.
#: How far an atom travels would not tell: the ends of a chain that folds go farther than that.
MAX_GROWTH_CUTOFFS = 2.0
#: Exploded: atoms hung together by gaps of at most this many cutoffs, and no longer do. There is
#: no force beyond the cutoff, so a molecule that fell apart would count as converged.
REACH_CUTOFFS = 0.8
#: A rise of the energy by less than this, in eV an atom, is rounding.
ENERGY_NOISE = {torch.float32: 2e-6, torch.float64: 1e-10}


class SlotStatus(IntEnum):
    """How a slot is doing. Only running ones are computed."""

    #: Under way, and waits for another model of its Hessian (`lbfgs.lbfgs_renew`).
    RENEWING = -2
    VACANT = -1
    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    EXPLODED = 3
    NON_FINITE = 4

    @property
    def word(self) -> ConformerStatus:
        """Of one that has ended, as the tables have it."""
        return ConformerStatus[self.name]


class Codes(NamedTuple):
    """`SlotStatus` that steps set, as plain numbers for compiled ones."""

    converged: int = SlotStatus.CONVERGED.value
    max_steps: int = SlotStatus.MAX_STEPS.value
    exploded: int = SlotStatus.EXPLODED.value
    non_finite: int = SlotStatus.NON_FINITE.value
    renewing: int = SlotStatus.RENEWING.value


class Limits(NamedTuple):
    """Beyond which a molecule has exploded, and below which a rise is none.

    Attributes:
        noise: A rise of the energy that is rounding, eV an atom.
        max_rise: Above the start, eV an atom.
        max_fall: Below the start, eV an atom.
        max_force: eV/Å.
        max_growth: Of the distance of the farthest atom from the centre, Å.
    """

    noise: float
    max_rise: float
    max_fall: float
    max_force: float
    max_growth: float


class Rules(NamedTuple):
    """When a molecule has ended. Plain, numba and triton steps take the same.

    Attributes:
        fmax: eV/Å.
        max_steps: Moves a molecule may make.
        limits: See there.
        codes: See there.
    """

    fmax: float
    max_steps: int
    limits: Limits
    codes: Codes = Codes()

    @classmethod
    def of(cls, settings: RelaxSettings, dtype: torch.dtype, cutoff: float) -> "Rules":
        """Of a relaxation.

        Args:
            settings: What is asked for.
            dtype: In which energies' rounding shows.
            cutoff: Å; infinite where a molecule cannot fall apart unnoticed.
        """
        limits = Limits(
            noise=ENERGY_NOISE[dtype],
            max_rise=MAX_RISE_PER_ATOM,
            max_fall=MAX_FALL_PER_ATOM,
            max_force=MAX_FORCE,
            max_growth=MAX_GROWTH_CUTOFFS * cutoff,
        )
        return cls(float(settings.fmax), int(settings.max_steps), limits)


def verdict(origin: Tensor, sizes: Tensor, state: RelaxState, rules: Rules) -> Tensor:
    """Whether each molecule has ended, and how, from its accepted point; int64 [n_slots].

    Args:
        origin: Initial positions, Å [n_slots, w, 3].
        sizes: Number of atoms, int64 [n_slots].
        state: Where the molecules are.
        rules: What holds.
    """
    limits = rules.limits
    change = state.energy - state.initial_energy
    overlapped = state.initial_max_force > limits.max_force
    growth = extent(state.positions, sizes) - extent(origin, sizes)
    exploded = (
        (change > limits.max_rise * sizes)
        | (~overlapped & (change < -limits.max_fall * sizes))
        | (state.max_force > (10.0 * state.initial_max_force).clamp(min=limits.max_force))
        | (growth > limits.max_growth)
    )
    converged = (state.max_force < rules.fmax) & (change <= 0)
    out_of_steps = state.n_steps >= rules.max_steps
    status = torch.where(out_of_steps, SlotStatus.MAX_STEPS.value, SlotStatus.RUNNING.value)
    status = torch.where(converged, SlotStatus.CONVERGED.value, status)
    return torch.where(exploded, SlotStatus.EXPLODED.value, status)


def extent(positions: Tensor, sizes: Tensor) -> Tensor:
    """Distance of each molecule's farthest atom from the mean of its atoms, Å [n_slots].

    Args:
        positions: Å [n_slots, w, 3].
        sizes: Number of atoms, int64 [n_slots].
    """
    here = (torch.arange(positions.shape[1], device=sizes.device) < sizes[:, None])[..., None]
    centre = torch.where(here, positions, 0.0).sum(1) / sizes.clamp(min=1)[:, None]
    from_centre = torch.where(here, positions - centre[:, None], 0.0)
    return from_centre.square().sum(-1).amax(-1).sqrt()


def fell_apart(origin: Tensor, positions: Tensor, here: Tensor, cutoff: float) -> Tensor:
    """Whether molecules that hung together at their start no longer do, bool [n_rows].

    Args:
        origin: Initial positions, Å [n_rows, w, 3].
        positions: Å [n_rows, w, 3].
        here: Which are atoms and not padding, bool [n_rows, w].
        cutoff: Å.
    """
    both = torch.cat([origin, positions])
    before, after = connected(both, here.repeat(2, 1), REACH_CUTOFFS * cutoff).chunk(2)
    return before & ~after


def connected(positions: Tensor, here: Tensor, reach: float) -> Tensor:
    """Whether each molecule hangs together by gaps of at most `reach`, bool [n_rows].

    Args:
        positions: Å [n_rows, w, 3].
        here: Which are atoms and not padding, bool [n_rows, w].
        reach: Å.
    """
    pair = here[:, None, :] & here[:, :, None]
    near = ((torch.cdist(positions, positions) < reach) & pair).to(positions.dtype)
    # Squared k times, the matrix knows who is reached in 2^k steps; nothing waits for the device.
    for _ in range((here.shape[1] - 1).bit_length()):
        near = (torch.bmm(near, near) > 0).to(positions.dtype)
    return ((near[:, 0] > 0) | ~here).all(1)
