"""The curve over widths is made of what was measured, from the labels that are named."""

import sys
from pathlib import Path

import pytest
import torch

from mlff_core.testing import script_at

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def widths(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return script_at(BENCHMARKS / "student_widths.py")


def row(name: str, **more: object) -> dict:
    errors = {"force_mae": 25.0, "force_rmse": 44.0, "energy_mae": 0.38}
    between = {"between": {"median": 0.7, "90_percent": 2.4}}
    return {
        "name": name, "round": 3, "samples": 512, "weights": 1000, "ms_a_step": 9.0,
        "plain_us": 86.0, "neutral": errors, "charged": errors,
        "other protonation states": errors | between, **more,
    }  # fmt: skip


def test_the_table_and_the_plot_show_the_last_round_and_leave_out_what_was_not_timed(
    widths, tmp_path
):
    rows = [row("128") | {"round": 1}, row("128", engine_us=4.8), row("192")]
    about = {"molecules": 9, "batch": 256, "device": "NVIDIA H200", "commit": "0123456789"}
    text = widths.markdown(about | {"rows": rows})
    lines = [line for line in text.splitlines() if line.startswith("| 1")]
    assert len(lines) == 2
    assert lines[0].startswith("| 128 | 1,000 | 4.8 | 86.0 | 9.0 | 25.0 / 44 |")
    assert lines[1].startswith("| 192 | 1,000 |  | 86.0 |")
    widths.draw(about | {"rows": rows}, tmp_path / "widths.png")
    assert (tmp_path / "widths.png").stat().st_size > 10_000


def test_labels_come_from_the_files_of_a_folder_up_to_a_number_of_molecules(widths, tmp_path):
    for k, n in enumerate((3, 4)):
        part = {
            "numbers": torch.full((n, 5), 6), "charge": torch.full((n,), k),
            "positions": torch.rand(n, 2, 5, 3), "energy": torch.rand(n, 2).double(),
            "forces": torch.rand(n, 2, 5, 3), "valid": torch.ones(n, 2, dtype=torch.bool),
            "charges": torch.rand(n, 2, 5),
        }  # fmt: skip
        torch.save(part, tmp_path / f"{k}.pt")
    pool = widths.read_labels(tmp_path, 5, torch.device("cpu"))
    assert pool.n_stored == 5
    assert pool.charge.tolist() == [0, 0, 0, 1, 1]
    expected = torch.load(tmp_path / "1.pt")["forces"][:2]
    torch.testing.assert_close(pool.forces[3:, :, :5], expected)
    with pytest.raises(SystemExit, match="no labels"):
        widths.read_labels(tmp_path / "nowhere", 5, torch.device("cpu"))
