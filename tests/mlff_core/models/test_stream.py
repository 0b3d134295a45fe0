"""Batches in a stream against batches one by one."""

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.errors import OutOfDomainError
from mlff_core.models.stream import evaluate_stream
from mlff_core.testing import NAMED_MOLECULES, random_molecule, random_potential

CARDS = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", CARDS)
def test_a_stream_gives_every_batch_in_order(device):
    potential = random_potential(1, device=device, backend="auto")
    batches = [MolBatch.from_arrays([random_molecule(n, n)]) for n in (3, 20, 1, 9)]
    results = list(evaluate_stream(potential, iter(batches)))
    assert len(results) == len(batches)
    for batch, found in zip(batches, results, strict=True):
        expected = potential(batch)
        torch.testing.assert_close(found.energy.cpu(), expected.energy.cpu(), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.forces.cpu(), expected.forces.cpu(), rtol=0, atol=1e-3)


def test_a_batch_outside_the_domain_is_refused_by_name():
    xenon = MolBatch.from_arrays([([54], [[0.0, 0.0, 0.0]], 0)])
    known = MolBatch.from_arrays([NAMED_MOLECULES["water"]])
    stream = evaluate_stream(random_potential(1), [known, xenon])
    with pytest.raises(OutOfDomainError, match="element 54"):
        list(stream)
