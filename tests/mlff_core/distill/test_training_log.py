"""The training log stands beside the model card, which stays short."""

import pytest

from mlff_core.distill.training_log import SUFFIX, read_training_log, write_training_log
from mlff_core.errors import ModelFileError
from mlff_core.models.reference import SHORT_NAMES, find_model


@pytest.mark.parametrize("model", SHORT_NAMES)
def test_a_shipped_card_is_short_and_its_log_has_every_stage(model: str) -> None:
    tensors = find_model(model)
    assert tensors.with_suffix(".json").stat().st_size < 3000
    stages = read_training_log(tensors)
    assert len(stages) >= 8
    assert all(stage["samples"] > 0 for stage in stages)


def test_a_log_comes_back_as_it_was_written(tmp_path) -> None:
    tensors = tmp_path / "student.safetensors"
    assert read_training_log(tensors) == []
    stages = [{"seconds": 1.5, "curve": [{"step": 1}]}, {"seconds": 2.0}]
    write_training_log(tensors, stages)
    assert read_training_log(tensors) == stages


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_a_damaged_log_is_refused_by_name(tmp_path, text: str) -> None:
    (tmp_path / "student").with_suffix(SUFFIX).write_text(text)
    with pytest.raises(ModelFileError, match=r"student\.training\.json: not a training log"):
        read_training_log(tmp_path / "student.safetensors")
