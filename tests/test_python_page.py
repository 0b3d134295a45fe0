"""What docs/python.md shows is what happens."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PAGE = Path(__file__).parents[1] / "docs/python.md"


def test_the_blocks_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert repr(names["ibuprofen"]).startswith(
        "<CC(C)Cc1ccc([C@H](C)C(=O)O)cc1: 5 conformers, -17882"
    )
    assert names["ibuprofen"].message.startswith("chose one isomer")
    assert names["xenon"].reason == "unsupported_element"
    assert [str(status) for status in names["result"].status] == ["converged"] * 2
    assert names["result"].batch.charge.tolist() == [0, 1]
    assert names["relaxed_mol"].GetNumConformers() == names["mol"].GetNumConformers() == 5
    assert pq.read_table("trajectory.parquet").num_rows >= 2 * 4
    assert names["dynamics"].n_steps == 60
