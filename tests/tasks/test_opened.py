"""What stays open is opened once for a run, and closed with it."""

import threading
from pathlib import Path

import pytest

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.errors import ModelFileError
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.reference import refer_to_model
from mlff_core.testing import random_model
from tasks import opened


def test_threads_of_a_run_share_one_pool_and_closing_a_run_leaves_another_alone() -> None:
    settings = ChemistrySettings()
    found = []

    def ask() -> None:
        found.append(opened.embedding_pool("a", settings, 1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = opened.embedding_pool("b", settings, 1)
    try:
        assert len(set(map(id, found))) == 1
        assert other is not found[0]
        opened.close("a")
        with pytest.raises(RuntimeError, match="closed"):
            list(found[0].map([(0, None, "C")]))
        assert [m.smiles for m in other.map([(0, None, "C")])] == ["C"]
        again = opened.embedding_pool("a", settings, 1)
        assert again is not found[0]
    finally:
        opened.close("a")
        opened.close("b")


def test_a_model_is_loaded_once_a_run_and_refused_when_its_file_was_replaced(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.safetensors"
    save_checkpoint(random_model(1, n_features=16), file, {})
    reference = refer_to_model(file)
    how = (reference.file, reference.sha256, "cpu", "auto", "float32")
    try:
        first = opened.potential("a", *how)
        assert opened.potential("a", *how) is first
        opened.close("a")
        assert opened.potential("a", *how) is not first
        save_checkpoint(random_model(2, n_features=16), file, {})
        opened.close("a")
        with pytest.raises(ModelFileError, match="was replaced"):
            opened.potential("a", *how)
    finally:
        opened.close("a")
