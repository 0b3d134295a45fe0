"""Gradients of a force loss through the Triton kernels and without them, on a CPU.

    TRITON_INTERPRET=1 python run_interpreted.py OUT.json

Triton reads the variable when it is imported, so the test runs this in a process of its own.
"""

import json
import sys
from pathlib import Path

import torch

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNNConfig
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import PLAIN_OPS, EdgeOps, energy_and_forces
from mlff_core.ops.triton import message_twice
from mlff_core.ops.triton.message_twice import reverse_rows, triton_edge_ops
from mlff_core.testing import random_model, random_molecule


def main(out: Path) -> None:
    torch.manual_seed(0)
    # Interpreted programs run one after the other; a few do what thousands do on a card.
    message_twice.N_PROGRAMS = 3
    # Slices of the features, as a wider student has on a card: two here and three there, since 16
    # does not divide them.
    for kernel, tile in message_twice.TILES.items():
        message_twice.TILES[kernel] = tile._replace(block_f=4 if "twice_fwd" in kernel else 16)
    model = random_model(5, PaiNNConfig(n_features=24, n_interactions=2))
    batch = MolBatch.from_arrays([random_molecule(5, 1), random_molecule(9, 2, charge=1)])
    i, j = neighbor_pairs(batch.positions, batch.ptr, model.config.cutoff)
    ends = torch.bincount(i, minlength=batch.n_atoms).cumsum(0)
    row = torch.cat([ends.new_zeros(1), ends])
    # Padding rows at the end, as a batch of fixed size has: no atom owns them, none is read.
    padding = torch.tensor([batch.n_atoms - 2, batch.n_atoms - 2])
    i, j = torch.cat([i, padding]), torch.cat([j, padding + 1])
    n_pairs = int(row[-1])
    reverse = torch.cat([reverse_rows(j[:n_pairs]), torch.arange(n_pairs, len(i))])
    direction = torch.randn_like(batch.positions)

    def outcome(ops: EdgeOps, n_pairs: int) -> list[torch.Tensor]:
        energy, forces = energy_and_forces(
            model, batch.numbers, batch.positions, batch.mol_idx, batch.charge,
            i[:n_pairs], j[:n_pairs], ops,
        )  # fmt: skip
        loss = 0.01 * energy.sum() + (forces * direction).sum() + forces.square().sum()
        return [energy.float(), forces, *torch.autograd.grad(loss, list(model.parameters()))]

    # Repulsion is computed for padding pairs as well; theirs starts beyond contact, and is zero.
    assert (batch.positions[-1] - batch.positions[-2]).norm() > 1.0
    expected = outcome(PLAIN_OPS, n_pairs)
    found = outcome(triton_edge_ops(row, reverse), len(i))
    names = ["energy", "forces", *(name for name, _ in model.named_parameters())]
    errors = {
        name: float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-6))
        for name, a, b in zip(names, found, expected, strict=True)
    }
    out.write_text(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
