"""Processes that embed: each molecule comes out or is counted, whatever they come to."""

import os
import signal

import numpy as np
import psutil
import pytest

from mlff_core.distill.embedding import Embedder, embed

SMILES = ["CCO", "not a SMILES", "c1ccccc1O", "CC(C)(C)C"] * 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_every_molecule_comes_out_or_is_counted_whatever_reaches_the_processes(number):
    before = set(psutil.Process().children())
    embedder = Embedder(SMILES, n_conformers=2, seed=1, n_processes=2)
    found = []
    try:
        while embedder.running and not found:
            found += embedder.take(wait_s=1.0)
        for process in set(psutil.Process().children()) - before:
            os.kill(process.pid, number)
        while embedder.running:
            found += embedder.take(wait_s=1.0)
    finally:
        embedder.close()
    assert [molecule.index for molecule in found] == [k for k in range(400) if k % 4 != 1]
    assert embedder.failed == {"invalid_smiles": 100}
    assert embedder.n_embedded == 300
    alone = embed(SMILES[2], 2, 2, 1, 10)
    assert np.array_equal(found[1].positions, alone.positions)
    assert not set(psutil.Process().children()) - before


def test_an_embedder_that_nobody_reads_can_be_closed():
    embedder = Embedder(SMILES, n_conformers=1, seed=1, n_processes=1)
    embedder.close()
    assert embedder.take() == []
