"""What a run says at its end, in the terminal and on Prefect's page."""

import io
import shlex
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from flows.summary import markdown_summary, next_steps, print_summary, with_names
from mlff_core.status import ConformerStatus, Reason
from mlff_core.tables import Manifest


def manifest(**errors: str) -> Manifest:
    return Manifest(
        run_id="1",
        run_key="2",
        parameters={},
        library={"location": "x.smi", "sha256": "3", "n_records": 7},
        model={"name": "[red]tiny", "sha256": "4", "errors": errors},
        versions={},
        started="now",
        counts={"status": {"ok": 7}, "reason": {"empty": 0}, "conformer_status": {}},
        timings_s={"total": 2.0},
    )


def printed(one: Manifest) -> str:
    text = io.StringIO()
    print_summary(one, Path("out"), Console(file=text, width=120))
    return text.getvalue()


def test_the_models_errors_stand_beside_the_counts_as_plain_text() -> None:
    one = manifest(minima="0.1 Å | [bold]`x`\n<b>", speed="great")
    assert "[red]tiny against its teacher" in printed(one)
    assert "0.1 Å / [bold]'x' <b>" in printed(one)
    assert "| minima | `0.1 Å / [bold]'x' <b>` |" in markdown_summary(one, Path("out"))
    assert "great" not in printed(one) + markdown_summary(one, Path("out"))
    assert "3.5" in printed(one)


def test_a_model_whose_card_says_nothing_gets_no_table_of_errors() -> None:
    assert "teacher" not in printed(manifest()) + markdown_summary(manifest(), Path("out"))


def test_the_worst_summary_fits_a_terminal_of_eighty_by_twenty_five(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reasons = dict.fromkeys(map(str, Reason), 1_234_567)
    parts = Path("out/molecules")
    parts.mkdir(parents=True)
    rows = [(k, "an id as long as they come, from a vendor", r) for k, r in enumerate(reasons)] * 4
    frame = pl.DataFrame(rows, schema=["record", "input_id", "reason"], orient="row")
    frame.write_parquet(parts / "part-000000.parquet")
    one = manifest(minima="0.137 Å from the teacher's (median RMSD)", **{"conformer ranking": "1"})
    one.counts["reason"] = reasons
    one.counts["conformer_status"] = dict.fromkeys(map(str, ConformerStatus), 1_234_567)
    text = io.StringIO()
    print_summary(one, Path("out"), Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert all(any(reason in line and "an id" in line for line in lines) for reason in reasons)
    assert sum(-(-len(line) // 80) for line in lines) <= 25, text.getvalue()


def test_names_fill_a_line_and_no_more() -> None:
    assert with_names("x: ", ["a", "b"], 2) == "x: a, b"
    assert with_names("x: ", ["a", "b", "c"], 4) == "x: a, b, c, ..."
    assert with_names("x: ", ["a" * 40, "b" * 40], 2) == f"x: {'a' * 40}, ..."


def test_the_next_command_works_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("", str(Path(sys.executable).parent)):  # a folder of programs, or none
        monkeypatch.setenv("PATH", path)
        program, *arguments = shlex.split(next_steps(Path("my out")))
        assert Path(shutil.which(program) or "").name == "mlff-screen"
        assert arguments == ["export", "my out", "--sdf", "best.sdf"]
