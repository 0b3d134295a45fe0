"""From RDKit conformers to the geometries worth labelling, in batches on the device.

A screen starts from rough RDKit geometries and ends at minima, so each conformer gives four:

    path        a point of the relaxation that starts at the conformer, or at the conformer with
                one bond turned; early points, the start among them, come more often
    minimum     where that relaxation ends; half of them moved by some 0.01 Å
    hot         a snapshot of a short trajectory from there at 300 to 1200 K
    distorted   bonds stretched and compressed: random displacements, strains and turned bonds, of
                the minimum or of the point of the path; in some a hydrogen leaves its atom, or
                is on its way to another

Whatever gives forces may drive: the teacher's members at first, the student once it is good, so
that it meets its own minima. All tensors are padded to one width.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlff_core.elements import MASSES
from mlff_core.units import BOLTZMANN_EV_K, TIME_FS

#: (numbers [n, width], positions [n, width, 3], charge [n]) -> forces in eV/Å [n, width, 3].
Driver = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Kinds of geometry, in the order of `sample`'s second axis.
KINDS = ("path", "minimum", "hot", "distorted")

#: Å within which an atom may take another's proton.
_PROTON_REACH = 2.6
#: Times its length that a bond to a hydrogen is stretched at most.
_PARTED = 2.0


@dataclass(frozen=True)
class SamplingConfig:
    """How geometries are made.

    Attributes:
        relax_steps: Steps of the relaxation.
        max_relax_steps: In training some relaxations are longer, up to so many steps (`drawn`);
            none is if this is less than `relax_steps`.
        hot_steps: Steps of the trajectory.
        hot_step_fs: Length of one of these.
        min_temperature: Of the trajectories in K, drawn evenly up to `max_temperature`.
        max_temperature: See above.
        min_displacement: Width of random displacements in Å, drawn evenly up to the next.
        max_displacement: See above.
        max_strain: Largest entry of the random strains.
        turned: Share of the conformers whose relaxation starts with one bond turned.
        held: Share of these in which that bond does not turn back: all else relaxes, as in a scan
            of a torsion.
        parted: Share of the distorted geometries in which a hydrogen is away from its atom.
    """

    relax_steps: int = 30
    max_relax_steps: int = 0
    hot_steps: int = 14
    hot_step_fs: float = 1.0
    min_temperature: float = 300.0
    max_temperature: float = 1200.0
    min_displacement: float = 0.02
    max_displacement: float = 0.08
    max_strain: float = 0.06
    turned: float = 0.25
    held: float = 0.0
    parted: float = 0.0

    def __post_init__(self) -> None:
        if self.relax_steps < 1:
            raise ValueError(f"relax_steps: expected at least 1, found {self.relax_steps}")

    def drawn(self, rng: random.Random) -> "SamplingConfig":
        """The same with a length of the relaxation drawn evenly on a logarithmic scale.

        Bonds are in place after some thirty steps. Charged groups that fold onto their neighbours
        take hundreds, and a student that never saw where they end is wrong there most.
        """
        longer = max(1.0, self.max_relax_steps / self.relax_steps)
        return replace(self, relax_steps=round(self.relax_steps * longer ** rng.random()))


def sample(
    driver: Driver,
    numbers: Tensor,
    positions: Tensor,
    charge: Tensor,
    axis: Tensor,
    side: Tensor,
    config: SamplingConfig,
) -> Tensor:
    """Geometries of each conformer, in the order of KINDS, Å [n, len(KINDS), width, 3].

    Args:
        driver: What gives forces.
        numbers: Atomic numbers, 0 on padding, int64 [n, width].
        positions: Conformers in Å [n, width, 3].
        charge: Total charges in e [n].
        axis: The two atoms of a bond that can be turned, int64 [n, 2]; twice the same for none.
        side: Atoms that turn, bool [n, width].
        config: How far and how hot.
    """
    n, device = len(positions), positions.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, device=device)

    turn = torch.where(uniform(0, 1) < config.turned, uniform(-torch.pi, torch.pi), 0.0)
    start = turn_bond(positions, axis, side, turn)
    early = torch.where(uniform(0, 1) < 0.3, 0.0, 0.4 * uniform(0, 1).square())
    late = uniform(0.2, 0.9)
    kept = (torch.where(uniform(0, 1) < 0.5, early, late) * config.relax_steps).long()
    relaxing = driver
    if config.held:
        holds = (turn != 0) & (uniform(0, 1) < config.held)
        relaxing = holding(driver, numbers, start, axis, side, holds)
    path, minimum = relax_path(relaxing, numbers, start, charge, config.relax_steps, kept)
    hot = trajectory(
        driver,
        numbers,
        minimum,
        charge,
        uniform(config.min_temperature, config.max_temperature),
        config.hot_steps,
        config.hot_step_fs,
        (uniform(0.4, 1.0) * config.hot_steps).round().long(),
    )
    from_minimum = uniform(0, 1) < 0.5
    distorted = _distort(
        torch.where(from_minimum[:, None, None], minimum, path), axis, side, uniform, config
    )
    if config.parted:
        far = parted(numbers, distorted, uniform)
        distorted = torch.where((uniform(0, 1) < config.parted)[:, None, None], far, distorted)
    moved = uniform(0.0, 0.02) * (uniform(0, 1) < 0.5)
    out = torch.stack([path, displaced(minimum, moved), hot, distorted], 1)
    return torch.where((numbers > 0)[:, None, :, None], out, 0.0)


def _distort(
    positions: Tensor,
    axis: Tensor,
    side: Tensor,
    uniform: Callable[[float, float], Tensor],
    config: SamplingConfig,
) -> Tensor:
    """One of: a bond turned (20 %), a strain (25 %), every atom displaced (the rest)."""
    kind = uniform(0, 1)
    angle = torch.where(kind < 0.2, uniform(-1.2, 1.2), 0.0)
    x = turn_bond(positions, axis, side, angle)
    strain = torch.where((kind >= 0.2) & (kind < 0.45), uniform(0, config.max_strain), 0.0)
    noise = 2 * torch.rand(len(x), 3, 3, device=x.device) - 1
    matrix = strain[:, None, None] * (noise + noise.transpose(1, 2)) / 2
    centre = x.mean(1, keepdim=True)
    x = x + (x - centre) @ matrix
    width = uniform(config.min_displacement, config.max_displacement)
    return displaced(x, torch.where(kind < 0.45, 0.01, width))


def parted(numbers: Tensor, positions: Tensor, uniform: Callable[[float, float], Tensor]) -> Tensor:
    """One hydrogen of each molecule off its atom: along the bond, or on the way to an acceptor.

    Those on nitrogen, oxygen and the like are drawn more often than those on carbon. Half of those
    with an acceptor near, an atom like these within `_PROTON_REACH`, are somewhere on the line to
    where they would be bound to it; all others are up to `_PARTED` times as far as they were.

    Args:
        numbers: Atomic numbers, 0 on padding, int64 [n, width].
        positions: Å [n, width, 3].
        uniform: Random numbers between two bounds [n].
    """
    rows = torch.arange(len(numbers), device=numbers.device)
    distance = (positions[:, :, None] - positions[:, None]).square().sum(-1).sqrt()
    heavy = numbers > 1
    to_heavy = torch.where(heavy[:, None, :], distance, torch.inf)
    parent = to_heavy.argmin(2)
    takes = heavy & (numbers != 6) & (numbers != 5) & (numbers != 14)
    polar = takes.gather(1, parent)
    score = torch.rand(numbers.shape, device=numbers.device) + 0.5 * polar
    chosen = torch.where(numbers == 1, score, -1.0).argmax(1)
    own = parent[rows, chosen]
    to_takers = torch.where(takes, distance[rows, chosen], torch.inf)
    to_takers[rows, own] = torch.inf
    reach, acceptor = to_takers.min(1)
    x, at, to = (positions[rows, k] for k in (chosen, own, acceptor))
    bond = (x - at).norm(dim=-1, keepdim=True)
    # Where it would be bound to the acceptor: as far from it as from its own atom now.
    there = to + (x - to) * (bond / reach[:, None].clamp(min=1e-3)).clamp(max=1.0)
    on_the_way = x + uniform(0.0, 1.0)[:, None] * (there - x)
    away = at + uniform(1.0, _PARTED)[:, None] * (x - at)
    passes = (reach < _PROTON_REACH) & (uniform(0, 1) < 0.5)
    moved = torch.where(passes[:, None], on_the_way, away)
    has_one = ((numbers == 1).any(1) & heavy.any(1))[:, None]
    out = positions.clone()
    out[rows, chosen] = torch.where(has_one, moved, x)
    return out


def displaced(positions: Tensor, width: Tensor) -> Tensor:
    """Every coordinate moved by Gaussian noise of each molecule's width in Å [n]."""
    return positions + width[:, None, None] * torch.randn_like(positions)


def turn_bond(positions: Tensor, axis: Tensor, side: Tensor, angle: Tensor) -> Tensor:
    """The atoms on one side of a bond turned about it by an angle in radians [n]."""
    rows = torch.arange(len(positions), device=positions.device)
    origin, end = positions[rows, axis[:, 0]], positions[rows, axis[:, 1]]
    along = torch.nn.functional.normalize(end - origin, dim=-1)[:, None, :]
    arm = positions - origin[:, None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turned = (
        arm * cos
        + torch.cross(along.expand_as(arm), arm, dim=-1) * sin
        + along * (along * arm).sum(-1, keepdim=True) * (1 - cos)
    )
    moves = side & (axis[:, :1] != axis[:, 1:])
    return torch.where(moves[..., None], origin[:, None, :] + turned, positions)


def holding(
    driver: Driver, numbers: Tensor, positions: Tensor, axis: Tensor, side: Tensor, holds: Tensor
) -> Driver:
    """A driver without the part of its forces that turns a bond, as a scan of a torsion wants it.

    The torsion angle is that of the bond and of an atom beside each end. Its gradient is that of
    A. Blondel and M. Karplus, J. Comput. Chem. 1996, 17, 1132.

    Args:
        driver: What gives forces.
        numbers: Atomic numbers, 0 on padding, int64 [n, width].
        positions: Where a relaxation starts, Å [n, width, 3].
        axis: The two atoms of the bond, int64 [n, 2].
        side: Atoms on the second's side of it, bool [n, width].
        holds: In which molecules, bool [n].
    """
    rows = torch.arange(len(axis), device=axis.device)
    four = []
    for end, own in ((axis[:, 0], ~side & (numbers > 0)), (axis[:, 1], side)):
        far = (positions - positions[rows, end][:, None]).square().sum(-1).sqrt()
        own = own & (far > 0)
        # What is bound to the end, rather no hydrogen.
        four.append(torch.where(own, far + (numbers == 1), torch.inf).argmin(1))
    four = [four[0], axis[:, 0], axis[:, 1], four[1]]

    def drive(numbers: Tensor, x: Tensor, charge: Tensor) -> Tensor:
        forces = driver(numbers, x, charge)
        i, j, k, last = (x[rows, atom].double() for atom in four)
        f, g, h = i - j, j - k, last - k
        a, b = torch.cross(f, g, dim=-1), torch.cross(h, g, dim=-1)
        length = g.norm(dim=-1, keepdim=True).clamp(min=1e-3)
        a = a / a.square().sum(-1, keepdim=True).clamp(min=1e-3)
        b = b / b.square().sum(-1, keepdim=True).clamp(min=1e-3)
        along = (f * g).sum(-1, keepdim=True) / length * a
        along = along - (h * g).sum(-1, keepdim=True) / length * b
        parts = -length * a, length * a + along, -along - length * b, length * b
        gradient = torch.zeros_like(x, dtype=torch.float64)
        for atom, part in zip(four, parts, strict=True):
            gradient[rows, atom] += torch.where(holds[:, None], part, 0.0)
        share = (gradient * forces).sum((1, 2), keepdim=True)
        square = gradient.square().sum((1, 2), keepdim=True).clamp(min=1e-6)
        return forces - (gradient * (share / square)).to(forces)

    return drive


def relax_path(
    driver: Driver,
    numbers: Tensor,
    positions: Tensor,
    charge: Tensor,
    n_steps: int,
    kept_step: Tensor,
) -> tuple[Tensor, Tensor]:
    """A point of each relaxation's path, and its end, each [n, width, 3] in Å.

    Args:
        driver: What gives forces.
        numbers: Atomic numbers, 0 on padding [n, width].
        positions: Where it starts [n, width, 3].
        charge: Total charges [n].
        n_steps: Number of steps.
        kept_step: Which point of the path is wanted, 0 being the start, int64 [n].
    """
    x = positions
    kept = x
    state = fire_state(positions)
    for step in range(n_steps):
        kept = torch.where((kept_step == step)[:, None, None], x, kept)
        x = fire_step(x, driver(numbers, x, charge), state)
    return kept, x


def fire_state(positions: Tensor) -> dict[str, Tensor]:
    """What FIRE remembers of each molecule of a padded batch [n, width, 3], at its start."""
    one = torch.ones_like(positions[:, :1, :1])
    return {
        "velocity": torch.zeros_like(positions),
        "dt": 0.1 * one,
        "alpha": 0.1 * one,
        "downhill": 0.0 * one,
    }


def fire_step(positions: Tensor, force: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The next positions of each molecule; changes the state.

    FIRE (Bitzek et al., PRL 97, 170201, 2006) with the usual constants, unit masses, and no atom
    moving by more than 0.1 Å.
    """
    v, dt, alpha = state["velocity"], state["dt"], state["alpha"]
    up = (force * v).sum((1, 2), keepdim=True) < 0
    v_norm = v.square().sum((1, 2), keepdim=True).sqrt()
    f_norm = force.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    v = torch.where(up, 0.0, (1 - alpha) * v + alpha * force * (v_norm / f_norm))
    state["downhill"] = torch.where(up, 0.0, state["downhill"] + 1)
    faster = state["downhill"] > 5
    dt = torch.where(up, 0.5 * dt, torch.where(faster, (1.1 * dt).clamp(max=0.4), dt))
    state["alpha"] = torch.where(up, 0.1, torch.where(faster, 0.99 * alpha, alpha))
    state["dt"] = dt
    state["velocity"] = v = v + dt * force
    move = dt * v
    length = move.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-9)
    return positions + move * (0.1 / length).clamp(max=1.0)


def trajectory(
    driver: Driver,
    numbers: Tensor,
    positions: Tensor,
    charge: Tensor,
    temperature: Tensor,
    n_steps: int,
    step_fs: float,
    kept_step: Tensor,
) -> Tensor:
    """A point of a trajectory that starts at a minimum, in Å [n, width, 3].

    Velocity Verlet.

    Velocities are drawn for twice the temperature, half of which becomes potential energy.

    Args:
        driver: What gives forces.
        numbers: Atomic numbers, 0 on padding [n, width].
        positions: Minima [n, width, 3].
        charge: Total charges [n].
        temperature: K [n].
        n_steps: Number of steps.
        step_fs: Length of a step in fs.
        kept_step: Which point is wanted, from 1 to n_steps, int64 [n].
    """
    masses = torch.ones(128, device=positions.device)
    for z, mass in MASSES.items():
        masses[z] = mass
    inverse_mass = (1.0 / masses)[numbers][..., None]
    dt = step_fs / TIME_FS
    v = (2 * BOLTZMANN_EV_K * temperature[:, None, None] * inverse_mass).sqrt()
    v = v * torch.randn_like(positions)
    x = positions
    kept = x
    force = driver(numbers, x, charge)
    for step in range(1, n_steps + 1):
        v = v + 0.5 * dt * force * inverse_mass
        # A speed limit of 0.1 Å a step: a driver that errs must not tear the molecule apart.
        x = x + (dt * v).clamp(-0.1, 0.1)
        kept = torch.where((kept_step == step)[:, None, None], x, kept)
        if step < n_steps:
            force = driver(numbers, x, charge)
            v = v + 0.5 * dt * force * inverse_mass
    return kept
