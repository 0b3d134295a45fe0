"""What changes while molecules move: named tuples of tensors, each with a row for every slot.

The plain steps make new ones; the compiled steps take them by the same names and change them in
place. One field may be absent (None), and one may be such a tuple again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Slots = TypeVar("Slots", bound=tuple[Any, ...])


class Point(NamedTuple):
    """The force call at the trial points, beside the points accepted before.

    Attributes:
        free: Atoms that may move, bool [n_slots, w].
        step: From the accepted to the trial point, Å [n_slots, w, 3].
        forces: At the trial point, eV/Å, zero on atoms that may not move [n_slots, w, 3].
        accepted_forces: At the accepted point, likewise [n_slots, w, 3].
        first: The molecule's first force call; nothing was accepted before, bool [n_slots].
        finite: Energy and forces at the trial point are numbers, bool [n_slots].
        not_above: The trial point's energy is not above the accepted one's, bool [n_slots].
    """

    free: Tensor
    step: Tensor
    forces: Tensor
    accepted_forces: Tensor
    first: Tensor
    finite: Tensor
    not_above: Tensor


class LbfgsMemory(NamedTuple):
    """What L-BFGS keeps of each molecule.

    Attributes:
        s: Steps, the newest first, Å [n_slots, history, 3 w].
        y: Changes of the gradient over them, eV/Å [n_slots, history, 3 w].
        rho: 1 / s·y, 0 where there is no pair, float64 [n_slots, history].
        scale: Of the initial inverse Hessian, float64 [n_slots].
        radius: Trust radius, Å [n_slots].
        longest: How far any atom went in the last step, Å [n_slots].
        inverse: Inverse of the model Hessian, Å²/eV [n_slots, 3 w, 3 w]; None: a constant instead.
        inverse_forces: Its product with the accepted forces [n_slots, 3 w]. Products with it cost
            more than all else, so those that come again are kept.
        inverse_y: Its products with y [n_slots, history, 3 w].
        renewed: How often the model has been made anew on the way, int64 [n_slots].
    """

    s: Tensor
    y: Tensor
    rho: Tensor
    scale: Tensor
    radius: Tensor
    longest: Tensor
    inverse: Tensor | None = None
    inverse_forces: Tensor | None = None
    inverse_y: Tensor | None = None
    renewed: Tensor | None = None


class AseLbfgsMemory(NamedTuple):
    """What ASE's L-BFGS keeps of each molecule.

    Attributes:
        s: Steps, the newest first, Å [n_slots, history, 3 w].
        y: Changes of the gradient over them, eV/Å [n_slots, history, 3 w].
        rho: 1 / s·y, 0 where there is no pair, float64 [n_slots, history].
    """

    s: Tensor
    y: Tensor
    rho: Tensor


class FireMemory(NamedTuple):
    """What FIRE keeps of each molecule.

    Attributes:
        velocity: In FIRE's units [n_slots, w, 3].
        dt: Time step [n_slots].
        mix: Share of the velocity that is turned into the direction of the forces [n_slots].
        n_downhill: Steps since the power was last negative, int64 [n_slots].
    """

    velocity: Tensor
    dt: Tensor
    mix: Tensor
    n_downhill: Tensor


class RelaxState(NamedTuple):
    """Where molecules are on their way to a minimum.

    Attributes:
        status: `rules.SlotStatus` of each, int64 [n_slots].
        n_steps: Moves made, those with another force field before included, int64 [n_slots].
        trial: Where the next force call is made, Å [n_slots, w, 3].
        positions: The accepted point, Å [n_slots, w, 3].
        forces: There, all of them, eV/Å [n_slots, w, 3].
        energy: There, eV, float64 [n_slots]; infinite where no point has been accepted.
        max_force: There, on atoms that may move, eV/Å [n_slots].
        initial_energy: eV, float64 [n_slots].
        initial_max_force: eV/Å [n_slots].
        memory: What the minimiser keeps: `LbfgsMemory`, `FireMemory` or `AseLbfgsMemory`.
    """

    status: Tensor
    n_steps: Tensor
    trial: Tensor
    positions: Tensor
    forces: Tensor
    energy: Tensor
    max_force: Tensor
    initial_energy: Tensor
    initial_max_force: Tensor
    memory: Any


class DynamicsState(NamedTuple):
    """Where molecules are on their trajectories.

    Attributes:
        step: Steps made, int64 [n_mols].
        positions: Å, float64 [n_mols, w, 3].
        velocities: Å / sqrt(amu Å²/eV), float64 [n_mols, w, 3].
        forces: eV/Å, float64 [n_mols, w, 3].
        energy: eV, float64 [n_mols].
        temperature: Of each molecule's bath, K, float64 [n_mols].
    """

    step: Tensor
    positions: Tensor
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    temperature: Tensor


def each(apply: Callable[..., Any], first: Slots, *others: Slots) -> Slots:
    """What a function makes of every tensor of a tuple, and of those of others in its place."""
    made: list[Any] = []
    for mine, *theirs in zip(first, *others, strict=True):
        if mine is None:
            made.append(None)
        elif isinstance(mine, tuple):
            made.append(each(apply, mine, *theirs))
        else:
            made.append(apply(mine, *theirs))
    return type(first)(*made)


def take(state: Slots, index: Tensor) -> Slots:
    """The rows of `index`, int64 [n]."""
    return each(lambda tensor: tensor[index], state)


def overwrite(state: Slots, index: Tensor, entering: Slots) -> None:
    """Put other molecules into the rows of `index`, int64 [n], in place."""
    each(lambda tensor, new: tensor.index_put_((index,), new), state, entering)


def where_rows(rows: Tensor, new: Slots, old: Slots) -> Slots:
    """`torch.where` with one condition a row [n_rows]."""
    return each(lambda a, b: a if a is b else where_row(rows, a, b), new, old)


def where_row(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`torch.where` with one condition a row [n_rows]."""
    return torch.where(rows.view(-1, *[1] * (b.dim() - 1)), a, b)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot product along the last axis, summed in float64."""
    return (a * b).sum(-1, dtype=torch.float64)
