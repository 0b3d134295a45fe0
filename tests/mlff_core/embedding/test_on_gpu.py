"""The embedder on a CUDA device. `pytest -m gpu`."""

import numpy as np
import pytest
import torch

from mlff_core.embedding import embed_molecules
from mlff_core.embedding.minimise_triton import minimise
from mlff_core.embedding.packing import pack
from mlff_core.embedding.plain import minimise as plainly
from mlff_core.embedding.plain import starting_coordinates
from tests.mlff_core.embedding.molecules import SHORT, constraints, numbers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

#: One of each size class: 6, 21, 50, 103 and 159 atoms; and a macrocycle.
SMILES = [
    "CO", "CC(=O)Oc1ccccc1C(=O)O", "CC(C)C[C@H](NC(=O)[C@H](C)N)C(=O)N[C@@H](CO)C(=O)O",
    "C[C@H](N)C(=O)" + "N[C@@H](C)C(=O)" * 9 + "O", "C[C@H](N)C(=O)" + "N[C@@H](C)C(=O)" * 14 + "O",
    "O=C1CCCCCCCCCCO1",
]  # fmt: skip


@pytest.mark.parametrize("smiles", SMILES)
def test_compiled_the_kernel_is_as_near_to_float64_as_plain_float32(smiles):
    packed = pack([constraints(smiles)], "cuda")
    molecule = torch.zeros(3, dtype=torch.int64, device="cuda")
    x = starting_coordinates(packed, molecule, molecule + 5, torch.arange(3, device="cuda"), 0)
    steps = torch.cat([SHORT[:6], SHORT[-6:]]).cuda()
    truth = plainly(x.double(), packed, molecule, steps)
    allowed = 3 * (plainly(x, packed, molecule, steps) - truth).abs().max() + 1e-5
    assert (minimise(x, packed, molecule, steps) - truth).abs().max() <= allowed


def test_the_same_call_gives_the_same_bits():
    molecules, z = [constraints(s) for s in SMILES], [numbers(s) for s in SMILES]
    first, second = (
        embed_molecules(molecules, [3, 2, 2, 1, 1, 1], range(6), "cuda", numbers=z)
        for _ in range(2)
    )
    alone = embed_molecules(molecules[2:3], 1, [2], "cuda", numbers=z[2:3])
    assert all(np.array_equal(a, b) for a, b in zip(first.positions, second.positions, strict=True))
    assert np.array_equal(alone.positions[0][0], first.positions[2][0])
    assert not any(cause.any() for cause in first.cause)
