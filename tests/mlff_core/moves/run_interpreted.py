"""Runs the kernels of moves/minimise_triton.py in Triton's interpreter beside what they mean.

For test_minimise_triton.py, in a process of its own, because Triton decides when it is imported
whether it interprets. Every step is taken twice from the same state, so that differences do not add
up along a path.

    TRITON_INTERPRET=1 python run_interpreted.py OUT.pt
"""

import sys
from functools import partial

import numpy as np
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Domain, Outputs
from mlff_core.models.potential import Potential
from mlff_core.moves import exchange_triton, hessian_triton
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.exchange import enter_slots, leave_slots, renew_slots
from mlff_core.moves.held import HeldProtons, labelled
from mlff_core.moves.hessian import MODEL, RENEWED_MODEL, inverse_model_hessian
from mlff_core.moves.minimise_triton import kernel_step
from mlff_core.moves.rules import Rules, SlotStatus
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows, molecules_of
from mlff_core.moves.state import each, take
from mlff_core.moves.step import enter, renew, step
from mlff_core.testing import Journeys, awkward_rows, random_model, random_molecule

N_STEPS = 20


def compute(potential, batch):
    """Energies and forces of a padded flat batch; nonsense for the padding."""
    n_atoms, ptr = int(batch.ptr[-1]), batch.ptr
    assert (batch.numbers[n_atoms:] == 0).all()
    assert (batch.positions[n_atoms:] == 0).all()
    places = torch.arange(batch.n_mols).repeat_interleave(ptr.diff())
    assert torch.equal(batch.mol_idx[:n_atoms], places)
    real = (batch.numbers[:n_atoms], batch.positions[:n_atoms], places)
    out = potential.evaluate(MolBatch(*real, ptr, batch.charge))
    padding = torch.full((batch.n_atoms - n_atoms, 3), torch.nan)
    return Outputs(out.energy, torch.cat([out.forces, padding]))


def flat(state) -> dict[str, torch.Tensor]:
    """The tensors of a state and of the memory in it, by name."""
    tensors = state._asdict()
    memory = tensors.pop("memory", None)
    kept = {} if memory is None else memory._asdict()
    return tensors | {name: value for name, value in kept.items() if value is not None}


def relaxations(potential: Potential, optimizer: str, model_hessian: bool) -> list:
    """(state before, plain state after, the kernels' state after) of every step."""
    rows = awkward_rows(torch.float32)
    settings = RelaxSettings(optimizer, 0.1, N_STEPS - 2, model_hessian)
    state = enter(rows, settings)
    capacity = int(rows.sizes.sum()) + 37
    rules = Rules.of(settings, potential.dtype, potential.cutoff)
    kernels = kernel_step(rows, rules, capacity, partial(compute, potential))
    taken = []
    for k in range(N_STEPS):
        before, inplace = each(torch.clone, state), each(torch.clone, state)
        state = step(rows, state, potential, settings, rules)
        assert kernels(inplace) is inplace
        taken.append((flat(before), flat(state), flat(inplace)))
        if k == 3:
            # Too far down a hill that is not there: the next point is refused.
            state = each(torch.clone, state)
            state.energy[0] -= 1.0
        waiting = (state.status == SlotStatus.RENEWING).nonzero()[:, 0]
        if len(waiting):
            state = each(torch.clone, state)
            renew(rows, state, waiting, settings)
    return taken


def exchanges() -> list:
    """(before, plain, the kernels') rows, state and what is told of those that leave."""
    rows = awkward_rows(torch.float32)
    n, width = rows.free.shape
    rng = torch.Generator().manual_seed(1)

    def random(like: torch.Tensor) -> torch.Tensor:
        if like.dtype == torch.bool:
            return like
        return torch.rand(like.shape, generator=rng).to(like.dtype) + (1 if like.dim() < 2 else 0)

    settings = RelaxSettings()
    state = each(random, enter(rows, settings))
    # What does not move has no history.
    state.memory.y.mul_(rows.free.repeat_interleave(3, 1)[:, None])
    first = int(rows.sizes.argmax())
    chosen = torch.tensor([first, *(k for k in range(n) if k != first and rows.sizes[k] > 1)][:4])
    # Two have lost an atom on their way, one of them with a force that is no number.
    state.positions[chosen[:2], 0] += 40.0
    state.status.fill_(SlotStatus.CONVERGED)[chosen[1]] = SlotStatus.NON_FINITE
    found = []

    def both(plain, kernels):
        here, there = ((each(torch.clone, rows), each(torch.clone, state)) for _ in range(2))
        told = plain(*here), kernels(*there)
        found.append(
            [
                {"told": t, **r._asdict(), **flat(s)}
                for t, (r, s) in zip((None, *told), ((rows, state), here, there), strict=True)
            ]
        )

    both(
        lambda r, s: leave_slots(r, s, chosen.tolist(), 5.0, kernels=False),
        lambda r, s: exchange_triton.leave_slots(r, s, chosen, 5.0),
    )
    molecules = [
        Molecule(k, *random_molecule(size, seed=5), np.arange(size) != 1, None, 3 * k)
        for k, size in enumerate((width, 2, 1))
    ]
    slots = chosen[:3]

    def enter_kernels(r, s):
        entering = Rows.pack(molecules, width, r.sizes.device, torch.float32)
        before = torch.tensor([m.n_before for m in molecules])
        inverse = inverse_model_hessian(entering)
        none = torch.zeros_like(before)
        exchange_triton.enter_slots(r, s, slots, entering, inverse, before, none)

    both(
        lambda r, s: enter_slots(
            r, s, slots.tolist(), molecules, settings, near=False, kernels=False
        ),
        enter_kernels,
    )

    def renew_kernels(r, s):
        here = take(r, chosen)._replace(positions=s.positions[chosen])
        inverse = inverse_model_hessian(here, RENEWED_MODEL)
        exchange_triton.renew_slots(r, s, chosen, inverse)

    both(lambda r, s: renew_slots(r, s, chosen.tolist(), settings, kernels=False), renew_kernels)
    return found


def dynamics(potential: Potential, friction_per_ps: float) -> list:
    """(plain state, the kernels' state) after every step, each from the plain state before it."""
    batch = MolBatch.from_arrays([random_molecule(n, seed=5) for n in (9, 4, 1)])
    moving = Dynamics(
        batch,
        potential,
        temperature_k=[300.0, 500.0, 0.0],
        friction_per_ps=friction_per_ps,
        frozen=[2, 3],
        seed=-7,
        streams=[4, 0, 9],
    )
    kernels = moving.kernel_step(partial(compute, potential))
    taken = []
    for _ in range(5):
        inplace = each(torch.clone, moving._stepper.state)
        assert kernels(inplace) is inplace
        moving.run(1)
        taken.append((flat(each(torch.clone, moving._stepper.state)), flat(inplace)))
    return taken


class Charges:
    """A force field whose energies are the charges, with forces to add to."""

    name, sha256, device, dtype = "charges", "", torch.device("cpu"), torch.float32
    domain, cutoff, bytes_per_edge = Domain(), float("inf"), 0

    def evaluate(self, batch: MolBatch) -> Outputs:
        assert batch.numbers.max() < 100  # the labels are not passed on
        forces = 0.1 * torch.arange(3 * batch.n_atoms, dtype=torch.float32).reshape(-1, 3).sin()
        return Outputs(batch.charge.double(), forces)

    bare_step = evaluate


def springs() -> list[tuple[Outputs, Outputs]]:
    """(plain, the kernel's) energies and forces of held molecules, together and one alone."""
    rng = np.random.default_rng(3)
    ammonium, held = np.array([7, 1, 1, 1, 1]), np.array([[0, 1], [0, 2], [0, 4]])
    water = (np.array([8, 1, 1]), rng.normal(size=(3, 3)), 0)
    stretched = (labelled(ammonium, held), 1.5 * rng.normal(size=(5, 3)), 1)
    sane = (labelled(ammonium, held), 0.5 * rng.normal(size=(5, 3)), 1)
    force_field = HeldProtons(Charges())
    together = MolBatch.from_arrays([stretched, water, sane])
    alone = MolBatch.from_arrays([stretched])
    return [(force_field.evaluate(b), force_field.bare_step(b)) for b in (together, alone)]


def hessians() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(in float64 by plain operators, the kernel's) inverses of both models."""
    rows = awkward_rows(torch.float32)
    precise = rows._replace(positions=rows.positions.double())
    return [
        (
            inverse_model_hessian(precise, model),
            hessian_triton.inverse_model_hessian(rows, model),
        )
        for model in (MODEL, RENEWED_MODEL)
    ]


class Float32Journeys(Journeys):
    """As precise as the kernels."""

    dtype = torch.float32


def arrivals(optimizer: str) -> dict[str, tuple[str, str]]:
    """By journey, its status after a first force call where it leads to, and when it has left."""
    journeys = Float32Journeys()
    batch = journeys.batch
    molecules = molecules_of(batch, np.ones(batch.n_atoms, bool))
    rows = Rows.pack(molecules, 12, batch.device, torch.float32)
    settings = RelaxSettings(optimizer, model_hessian=False)
    state = enter(rows, settings)._replace(trial=journeys.places.clone())
    rules = Rules.of(settings, journeys.dtype, journeys.cutoff)
    kernel_step(rows, rules, batch.n_atoms, journeys.evaluate)(state)
    ended = [SlotStatus(code).word for code in state.status.tolist()]
    told = exchange_triton.leave_slots(rows, state, torch.arange(len(molecules)), journeys.cutoff)
    left = [SlotStatus(int(code)).word for code in told[:, -5]]
    pairs = zip(map(str, ended), map(str, left), strict=True)
    return dict(zip(journeys.chains, pairs, strict=True))


def main(out: str) -> None:
    """Take every step."""
    potential = Potential(random_model(3, n_features=16))
    results = {
        "lbfgs": relaxations(potential, "lbfgs", True),
        "lbfgs, constant": relaxations(potential, "lbfgs", False),
        "fire": relaxations(potential, "fire", False),
        "exchanges": exchanges(),
        "nve": dynamics(potential, 0.0),
        "langevin": dynamics(potential, 5.0),
        "hessians": hessians(),
        "arrivals": {optimizer: arrivals(optimizer) for optimizer in ("lbfgs", "fire")},
        "springs": [tuple(map(vars, pair)) for pair in springs()],
    }
    torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
