"""What was learnt to read charges is put beside the model that it is of."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mlff_core.models.partial_charges import PartialCharges
from mlff_core.models.potential import load_potential
from mlff_core.testing import script_at

SCRIPT = Path(__file__).parents[2] / "datasets/add_charges.py"


def test_what_is_shipped_is_what_was_learnt(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / small_model.name
    for suffix in (".safetensors", ".json"):
        model.with_suffix(suffix).write_bytes(small_model.with_suffix(suffix).read_bytes())
    torch.manual_seed(1)
    learnt = PartialCharges(16, feedback=False, coulomb=False).state_dict()
    save_file(learnt, tmp_path / "small-after-3.safetensors")
    words = ["--ship", str(tmp_path / "small-after-3.safetensors"), "--models", str(model)]
    monkeypatch.setattr(sys, "argv", ["add_charges.py", *words])
    script_at(SCRIPT).main()
    loaded = load_potential(model, device="cpu", charges=True).model
    assert loaded.config.charges_after == 3
    for name, tensor in learnt.items():
        assert torch.equal(loaded.partial_charges.state_dict()[name], tensor)
