"""The kernels that training runs over pairs, against plain PyTorch and double backward."""

import json
from pathlib import Path

import pytest
import torch

from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.triton.message_twice import reverse_rows


def test_weight_gradients_through_the_kernels_are_those_of_plain_pytorch(tmp_path, interpret):
    out = tmp_path / "errors.json"
    interpret(Path(__file__).with_name("run_message_twice_interpreted.py"), out)
    errors = json.loads(out.read_text())
    assert len(errors) > 25
    for name, error in errors.items():
        # Filters live in float16, and their gradients in bfloat16.
        limit = 8e-3 if ".filter." in name else 1.5e-3
        assert error < limit, f"{name}: {error}"


def test_the_row_of_the_opposite_direction_is_found():
    torch.manual_seed(0)
    positions, ptr = torch.randn(30, 3) * 2.5, torch.tensor([0, 4, 19, 30])
    i, j = neighbor_pairs(positions, ptr, 3.0)
    reverse = reverse_rows(j)
    assert torch.equal(i[reverse], j)
    assert torch.equal(j[reverse], i)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_compiled_for_the_device_give_the_same_gradients():
    from mlff_core.batch import MolBatch
    from mlff_core.ops.program import PLAIN_OPS, energy_and_forces
    from mlff_core.ops.triton.message_twice import triton_edge_ops
    from mlff_core.testing import random_model, random_molecule

    model = random_model(5).cuda()
    batch = MolBatch.from_arrays([random_molecule(n, n) for n in (3, 17, 45)], device="cuda")
    i, j = neighbor_pairs(batch.positions, batch.ptr, model.config.cutoff)
    ends = torch.bincount(i, minlength=batch.n_atoms).cumsum(0)
    ops = triton_edge_ops(torch.cat([ends.new_zeros(1), ends]), reverse_rows(j))
    gradients = []
    for chosen in (PLAIN_OPS, ops):
        _, forces = energy_and_forces(
            model, batch.numbers, batch.positions, batch.mol_idx, batch.charge, i, j, chosen
        )
        # No force depends on the last bias.
        parameters = list(model.parameters())[2:-1]
        gradients.append(torch.autograd.grad(forces.square().sum(), parameters))
    for expected, found in zip(*gradients, strict=True):
        if expected.norm() > 0:
            assert (found - expected).norm() / expected.norm() < 1e-2
