"""When a stage makes labels."""

from types import SimpleNamespace

import pytest

from mlff_core.distill.stage import Stage, StageConfig


@pytest.mark.parametrize(
    ("labels_s", "training_s", "steps", "labels", "due"),
    [
        pytest.param(1.0, 3.0, 9, 40, True, id="less than their share of the time"),
        pytest.param(3.0, 3.0, 9, 40, False, id="their share, and still fresh"),
        pytest.param(3.0, 3.0, 30, 40, True, id="their share, but seen too often"),
        pytest.param(3.0, 3.0, 30, 400, False, id="seen as often, but there are more of them"),
    ],
)
def test_labels_are_due_by_time_or_by_use(labels_s, training_s, steps, labels, due):
    under_way = SimpleNamespace(
        stage=StageConfig(label_share=0.4, max_repeats=2.0),
        spent={"labels": labels_s, "training": training_s},
        trainer=SimpleNamespace(step_count=steps, config=SimpleNamespace(n_mols=4)),
        counts={"labels": labels},
    )
    assert Stage.labels_are_due(under_way) is due
