"""Processes that embed: each molecule comes out or is counted, Ctrl-C or not."""

import os
import signal

import psutil

from mlff_core.distill.embedding import Embedder


def test_every_molecule_comes_out_or_is_counted_although_ctrl_c_reaches_the_processes():
    smiles = ["CCO", "not a SMILES", "c1ccccc1O", "CC(C)(C)C"] * 10
    before = set(psutil.Process().children())
    embedder = Embedder(smiles, n_conformers=2, seed=1, n_processes=2)
    try:
        for process in set(psutil.Process().children()) - before:
            os.kill(process.pid, signal.SIGINT)
        found = []
        while embedder.running:
            found += embedder.take(wait_s=1.0)
    finally:
        embedder.close()
    assert sorted(molecule.index for molecule in found) == [k for k in range(40) if k % 4 != 1]
    assert embedder.failed.total() == 10
    assert embedder.n_embedded == 30
