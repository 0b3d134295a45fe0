"""The teacher's file is the one expected, or nothing."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

from mlff_core.distill.teacher import ENSEMBLE_SHA256, Teacher
from mlff_core.errors import ModelFileError

# PyTorch would like TorchScript to go; the teacher comes in no other form.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Member(torch.nn.Module):
    """Pulls all atoms to a point of its own."""

    def __init__(self, shift: float):
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        forces = self.shift - data["coord"]
        return {"energy": forces.square().sum(-1).sum(-1) + data["charge"], "forces": forces}


class Ensemble(torch.nn.Module):
    """Members under the name that the teacher's file has for them."""

    def __init__(self) -> None:
        super().__init__()
        self.models = torch.nn.ModuleList([Member(0.0), Member(0.2)])

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.models[0](data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ensemble.jpt"
    torch.jit.script(Ensemble()).save(str(path))
    return path


def test_a_damaged_file_is_refused_with_both_checksums(file: Path):
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ModelFileError, match=f"expected sha256 {ENSEMBLE_SHA256}, found {found}"):
        Teacher(file, "cpu")


def test_a_missing_file_is_refused_with_the_way_to_get_it(tmp_path: Path):
    with pytest.raises(ModelFileError, match=re.escape("datasets/fetch_teacher.py gets it")):
        Teacher(tmp_path / "nothing.jpt", "cpu")


def test_the_label_is_the_mean_and_the_members_say_how_sure_it_is(file: Path):
    teacher = Teacher(file, "cpu", sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    assert teacher.n_members == 2
    numbers = torch.tensor([[6, 1, 0], [8, 0, 0]])
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]], [[0, 2, 0], [0, 0, 0], [0, 0, 0]]])
    label = teacher(numbers, x, torch.tensor([0, 1]))
    one, other = (teacher.member(k, numbers, x, torch.tensor([0, 1])) for k in range(2))
    assert label.energy.dtype == torch.float64
    torch.testing.assert_close(label.energy, (one.energy + other.energy) / 2)
    torch.testing.assert_close(label.forces[1, 0], torch.tensor([0.1, -1.9, 0.1]))
    assert (label.forces[numbers == 0] == 0).all()
    # Two members 0.2 apart along each axis: a standard deviation of 0.2/√2 in each.
    torch.testing.assert_close(label.force_spread, torch.full((2,), 0.2 * 1.5**0.5))
    assert (one.force_spread == 0).all()
