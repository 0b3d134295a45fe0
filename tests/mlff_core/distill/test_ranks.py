"""Two processes train one student."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mlff_core.distill.ranks import Ranks
from mlff_core.models.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("run_ranks.py")
    subprocess.run(
        [sys.executable, str(script), str(folder)],
        check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return folder


def test_all_processes_end_with_the_same_weights(folder):
    first, second = (load_file(folder / f"rank-{rank}.safetensors") for rank in range(2))
    assert len(first) > 10
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_the_first_process_writes_what_all_of_them_did(folder):
    network, card, _ = read_checkpoint(folder / "student.safetensors")
    report = card["last_stage"]
    assert report["n_devices"] == 2
    # Each embeds its share of the molecules, and none is embedded twice.
    assert report["molecules_embedded"] == 8
    assert report["labelling"]["labels"] == 8 * 2 * 4
    # With its kind, in whichever process it is.
    assert report["molecules_by_kind"] == {"acid": 1, "aromatic, ion": 3, "others": 4}
    assert report["samples"] == report["steps"] * 4 * 2 > 0
    stored = load_file(folder / "rank-0.safetensors")
    for name, weight in network.named_parameters():
        assert torch.equal(weight, stored[name]), name


def test_a_mean_is_over_the_processes(folder):
    assert load_file(folder / "rank-1.safetensors")["mean"].item() == 0.5


def test_alone_nothing_needs_to_be_agreed():
    ranks, x = Ranks(), torch.tensor([3.0])
    ranks.mean_(x)
    ranks.agree_(x)
    assert (x.item(), ranks.agree(1.0, 2.0), ranks.gather("a")) == (3.0, [1.0, 2.0], ["a"])
