"""Every operator through the steps of each engine; those of Triton run interpreted.

A process of its own for these, because Triton decides when it is imported whether it interprets.

    TRITON_INTERPRET=1 python run_contract_interpreted.py OUT.pt
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNNConfig
from mlff_core.ops import plain
from mlff_core.ops.case import (
    Case,
    calls,
    numba_charge_calls,
    plain_charge_calls,
    triton_charge_calls,
    triton_steps,
    twice_steps,
)
from mlff_core.ops.program import ExchangeableSteps, Steps
from mlff_core.testing import random_model, random_molecule

#: Atoms of the molecules of a batch; no power of two but the least.
SIZES: dict[str, tuple[int, ...]] = {"odd": (1, 2, 5, 3), "empty": ()}
Results = dict[str, tuple[Tensor, ...]]


def case_of(name: str, n_features: int = 32, device: str = "cpu") -> Case:
    """Narrow and shallow: the interpreter is slow, and 32 is the least that the kernels take."""
    model = random_model(3, PaiNNConfig(n_features=n_features, n_interactions=2, n_rbf=3))
    molecules = [random_molecule(n, n, spacing=1.4) for n in SIZES[name]]
    batch = MolBatch.from_arrays(molecules, dtype=torch.float32, device=device)
    return Case.of(model.to(device).requires_grad_(False), batch)


def results(steps: Steps, case: Case) -> Results:
    """What every operator returns, laid out as the plain ones do."""
    ready, found = calls(steps, case), geometry(steps, case)
    for name, call in ready.items():
        out = call()
        if name in ("phi_fwd", "update_fwd"):
            out = out[: 1 if name == "phi_fwd" else 2]  # The rest is kept for the way back.
        elif name in ("message_fwd", "first_message_fwd"):
            out = (out[0], in_numbers(steps, out[1]).view(case.mu.shape))
        elif name == "readout":
            out = (steps.atomic, out)
        elif name == "phi_bwd":
            out = (out,)
        elif name == "message_bwd":
            out = (in_numbers(steps, out[0]), out[1], position_gradient(steps, case))
        elif name == "first_message_bwd":
            out = (position_gradient(steps, case),)  # On top of that of the last block.
        found[name] = tuple(out)
    found["position_gradient"] = found["message_bwd"][2:]
    return found | {name: tuple(call()) for name, call in of_charges(steps, case).items()}


def in_numbers(steps: Steps, x: Tensor) -> Tensor:
    """What a walk gives, which kernels leave as the next product takes it."""
    if isinstance(steps, ExchangeableSteps):
        return x
    from mlff_core.ops.triton.operand import value_of

    assert steps.weights.forward_precision == steps.weights.backward_precision
    return value_of(x, steps.weights.forward_precision)


def of_charges(steps: Steps, case: Case) -> dict[str, Callable[[], object]]:
    """The operators of partial charges that go with these steps."""
    if not isinstance(steps, ExchangeableSteps):
        return triton_charge_calls(case)
    return plain_charge_calls(case) if steps.ops.find_edges is None else numba_charge_calls(case)


def geometry(steps: Steps, case: Case) -> Results:
    """The pairs; and the repulsion of each atom with its gradient."""
    batch, model = case.batch, case.model
    if not isinstance(steps, ExchangeableSteps):
        from mlff_core.ops.triton.pairs import pairs

        rows, _, repulsion, gradient = pairs(
            batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge,
            steps.weights.tables, model.config.cutoff,
        )  # fmt: skip
        listed = torch.arange(rows.j.shape[1], device=rows.j.device) < rows.n_pairs[:, None]
        i, place = listed.nonzero(as_tuple=True)
        pair = rows.geometry[i, place]
        return {
            "pairs": (i, rows.j[i, place].long(), pair[:, 3], pair[:, :3]),
            "repulsion": (repulsion, gradient),
        }
    edges, species = steps.edges, model.atom_index[batch.numbers]
    Z, radius = model.nuclear_charge[species], model.radius[species]
    if steps.ops.repulsion is not None:
        atomic, slope = steps.ops.repulsion(edges, Z, radius)
    else:
        i, j = edges.i, edges.j
        pair, slope = plain.repulsion_fwd_bwd(edges.distance, Z[i], Z[j], radius[i] + radius[j])
        atomic, slope = torch.zeros_like(Z).index_add(0, i, 0.5 * pair), 0.5 * slope
    gradient = plain.position_gradient(edges, slope, torch.zeros_like(edges.unit), batch.n_atoms)
    return {"pairs": edges[:4], "repulsion": (atomic, gradient)}


def position_gradient(steps: Steps, case: Case) -> Tensor:
    """Of what the way back has left with the pairs so far."""
    batch = case.batch
    if isinstance(steps, ExchangeableSteps):
        return steps.ops.position_gradient(
            steps.edges, steps.g_distance, steps.g_unit, batch.n_atoms
        )
    from mlff_core.ops.triton.readout import molecules

    zero = torch.zeros_like(batch.positions)
    _, forces = molecules(
        zero[:, 0].contiguous(), batch.numbers, batch.positions, batch.mol_idx, batch.ptr,
        case.model.atom_index, case.model.reference_energy, zero, steps.rows, steps.pull,
    )  # fmt: skip
    return -forces


def second_gradients(make: Callable[[Case], ExchangeableSteps], case: Case) -> Results:
    """Operator over pairs -> gradients of a function of its results in all that it was given."""
    given = [case.phi, case.mu, case.g_q, case.g_mu]
    case.model.requires_grad_(True)
    for x in given:
        x.requires_grad_(True)
    found, last = {}, case.model.config.n_interactions - 1
    for name in ("message_fwd", "message_bwd"):
        steps = make(case)
        if name == "message_fwd":
            out = steps.message_fwd(last, case.phi, case.q, case.mu)
        else:
            out = steps.message_bwd(last, case.g_q, case.g_mu, case.phi, case.mu)
            out = (*out, position_gradient(steps, case))
        # Smooth, and of no symmetry that could hide a transposed index.
        loss = sum((x * torch.linspace(0.5, 1.5, x.numel()).to(x).view_as(x)).sum() for x in out)
        loss = loss + 0.1 * sum(x.square().sum() for x in out)
        layer = case.model.message[last].filter
        wanted = [*given[: 2 if name == "message_fwd" else 4], layer.weight, layer.bias]
        found[name] = torch.autograd.grad(loss, wanted)
    return found


def main(out: str) -> None:
    """Triton's versions of every case."""
    from mlff_core.ops.triton import message_twice

    # Interpreted programs run one after the other; a few do what thousands do on a card.
    message_twice.N_PROGRAMS = 3
    everything = {}
    for name in SIZES:
        for backend, make in (("triton", triton_steps), ("twice", twice_steps)):
            case = case_of(name)
            with torch.no_grad():
                everything[backend, name] = results(make(case), case)
    everything["second"] = second_gradients(twice_steps, case_of("odd"))
    torch.save(everything, out)


if __name__ == "__main__":
    main(sys.argv[1])
